"""Devices and ranks: the devices of this process, and the processes (ranks) of a job.

A batch is divided among all devices of all ranks and their gradients are summed, so every device
ends an update with the same parameters: those that one device would have.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from bert import runtime
from bert.errors import UserError
from bert.parameters import parameters_of
from finetuning.options import Options


class Workers:
    """The devices that share each batch.

    Parameters
    ----------
    ctx : list of mx.Context
        Those of this process.
    horovod : module, optional
        ``horovod.mxnet``, initialised, where the process is one of several ranks.

    Attributes
    ----------
    ctx : list of mx.Context
    ranks : int
    first : bool
        Whether this process is the one that writes files and prints.
    """

    def __init__(self, ctx: list[mx.Context], horovod: Any = None):
        self.ctx = ctx
        self._horovod = horovod
        self.ranks = horovod.size() if horovod else 1
        self._rank = horovod.rank() if horovod else 0
        self.first = self._rank == 0
        self._store = mx.kv.create("device") if len(ctx) > 1 else None
        self._stored: set[str] = set()

    def __str__(self) -> str:
        devices = ", ".join(map(str, self.ctx))
        return f"{devices} on each of {self.ranks} ranks" if self.ranks > 1 else devices

    @property
    def count(self) -> int:
        return self.ranks * len(self.ctx)

    def number(self, device: int) -> int:
        """Return the number, from 0 and over all ranks, of a device of this process."""
        return self._rank * len(self.ctx) + device

    def shares(self, indices: np.ndarray) -> list[np.ndarray]:
        """Return each device's share of a batch, for the devices of this process; one may be empty.

        Every example is in one share of one rank.
        """
        return [indices[self.number(i) :: self.count] for i in range(len(self.ctx))]

    def add_up(self, name: str, arrays: list[list[mx.nd.NDArray]]) -> None:
        """Replace arrays, each there once on every device, by their sums over devices and ranks.

        Every rank must call this with the same names in the same order. A name may be used again
        only when its earlier sum was waited for, or is an input of this one.
        """
        if self._store:
            for i, copies in enumerate(arrays):
                key = f"{name}/{i}"
                if key not in self._stored:
                    self._store.init(key, copies[0].zeros_like())
                    self._stored.add(key)
                self._store.pushpull(key, copies, out=copies)
        if self.ranks > 1:
            own = [copies[0] for copies in arrays]
            self._horovod.grouped_allreduce_(own, average=False, name=name)
            for copies in arrays:
                for copy in copies[1:]:
                    copies[0].copyto(copy)

    def agree(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is true on any rank."""
        if self.ranks == 1:
            return list(flags)
        array = mx.nd.array(flags)
        self.add_up("flags", [[array]])
        return (array.asnumpy() > 0).tolist()

    def same_parameters(self, net: Block) -> None:
        """Give every rank the parameters of the first."""
        if self.ranks > 1:
            for name, parameter in parameters_of(net).items():
                array = parameter.list_data()[0]
                self._horovod.broadcast_(array, root_rank=0, name=name)
                parameter.set_data(array)

    def same_checkpoint(
        self, saved: tuple[dict, dict[str, np.ndarray]] | None
    ) -> tuple[dict, dict[str, np.ndarray]] | None:
        """Return on every rank the first rank's argument: a checkpoint, or None."""
        if self.ranks == 1:
            return saved
        state, arrays = saved or (None, {})
        about = {name: [str(a.dtype), a.shape] for name, a in arrays.items()}
        own = np.frombuffer(json.dumps([state, about]).encode(), np.uint8)
        size = self._broadcast("size", np.array([len(own)], np.int64))
        head = own if self.first else np.zeros(size[0], np.uint8)
        state, about = json.loads(bytes(self._broadcast("head", head)))
        if state is None:
            return None
        return state, {
            name: self._broadcast(
                name, arrays[name] if self.first else np.zeros(shape, np.dtype(dtype))
            )
            for name, (dtype, shape) in about.items()
        }

    def _broadcast(self, name: str, array: np.ndarray) -> np.ndarray:
        array = mx.nd.array(array, dtype=array.dtype)
        return self._horovod.broadcast(array, root_rank=0, name=f"saved/{name}").asnumpy()

    def merge(self, rows: dict[int, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
        """Return an array of the rows that the ranks computed, each at its index.

        Parameters
        ----------
        rows : dict of int to float32 array ``[shape[1]]``
            Each row is on one rank.
        shape : tuple of int
        """
        merged = np.zeros(shape, np.float32)
        for index, row in rows.items():
            merged[index] = row
        if self.ranks == 1:
            return merged
        array = mx.nd.array(merged)
        self.add_up("rows", [[array]])  # a number and zeros: exactly the number
        return array.asnumpy()


def open_workers(options: Options) -> Workers:
    """Return the devices to train on; UserError says what a GPU, or Horovod, is missing."""
    horovod: Any = None
    if options.comm_backend == "horovod":
        horovod = importlib.import_module("horovod.mxnet")
        horovod.init()
        low = options.dtype == "bfloat16"
        if all(Workers([mx.cpu()], horovod).agree(low, not low)):
            raise UserError("--dtype auto is bfloat16 on some of the machines only: name the type")
    if options.gpu is None:
        return Workers([mx.cpu()], horovod)
    missing = runtime.why_no_gpu()
    if missing:
        raise UserError(f"--gpu: {missing}")
    numbers = options.gpu or [horovod.local_rank() if horovod else 0]
    count = mx.context.num_gpus()
    if max(numbers) >= count:
        raise UserError(f"--gpu {max(numbers)}: there are {count}, numbered from 0")
    return Workers([mx.gpu(number) for number in numbers], horovod)
