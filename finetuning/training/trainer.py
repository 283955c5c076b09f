"""The loop: an update, an evaluation, a log line. It knows no task and no file."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import mxnet as mx
import numpy as np
from mxnet import autograd

from bert.classifier import BERTClassifier
from bert.errors import RunError
from bert.parameters import arrays_of, parameters_of
from dataset import (
    TokenizedExamples,
    evaluation_batches,
    packed_batch,
    padded_batch,
    training_batches,
)
from finetuning.training.workers import Workers
from optimizer import Updater, learning_rate

# As in MXNet's AMP: the scale of a float16 run's loss, and for how many updates it is kept.
_FIRST_LOSS_SCALE = 2.0**16
_UPDATES_A_LOSS_SCALE = 2000


@dataclass(frozen=True)
class Progress:
    """An update that is done."""

    update: int  # from 1
    epoch: int  # from 1
    examples: int
    loss: float  # mean over the update's examples
    lr: float
    gradient_norm: float  # global, before clipping
    samples_per_second: float  # since training began; evaluation and saving left out
    problem: str | None  # why the update has changed nothing, if it has not


class _Queued(NamedTuple):
    """An update that MXNet computes behind our back."""

    epoch: int
    update: int
    batches: list[np.ndarray]
    lr: float
    loss: mx.nd.NDArray  # [1], the sum over the examples
    norm: mx.nd.NDArray  # [1]
    loss_scale: float


class NotFiniteError(RunError):
    """A loss or a gradient is no longer a finite number; the parameters still are."""


class OutOfMemoryError(RunError):
    """A batch needs more memory than there is."""


class Trainer:
    """Trains a network, update by update; where it stands is one number, ``updates``.

    What an update does is a function of the seed, the update's number and the parameters: the
    order of the batches and the dropout are drawn anew from seed and number each time.

    Parameters
    ----------
    net : BERTClassifier
    examples : TokenizedExamples
    loss_function : gluon.loss.Loss
        Returns one loss an example.
    optimizer : mx.optimizer.Optimizer
    workers : Workers
        The devices that share each batch.
    batch_size, accumulate : int
        An update sees ``accumulate`` batches: it is that of one batch as large as all of them,
        cut up (on each device, where there are several).
    epochs : int
    max_updates : int, optional
        End after so many updates, wherever that is.
    lr, warmup_ratio : float
        See :func:`optimizer.learning_rate`.
    seed : int
    skip_nonfinite : int
        So many updates may be left out because their loss or gradient is not finite.
    scale_loss : bool
        Multiply the loss, so that gradients in float16 do not vanish (Micikevicius et al. 2017,
        https://arxiv.org/abs/1710.03740). The factor is halved where a gradient is not finite, with
        that update left out, and doubled after 2000 updates without one.
    """

    def __init__(
        self,
        net: BERTClassifier,
        examples: TokenizedExamples,
        loss_function: mx.gluon.loss.Loss,
        optimizer: mx.optimizer.Optimizer,
        workers: Workers,
        *,
        batch_size: int,
        accumulate: int,
        epochs: int,
        max_updates: int | None,
        lr: float,
        warmup_ratio: float,
        seed: int,
        skip_nonfinite: int,
        scale_loss: bool = False,
    ):
        self._net = net
        self._examples = examples
        self._loss_function = loss_function
        self._workers = workers
        self._batch_size = batch_size
        self._accumulate = accumulate
        self._lr = lr
        self._warmup_ratio = warmup_ratio
        self._seed = seed
        self._skip_nonfinite = skip_nonfinite
        self._parameters = parameters_of(net)
        self._updaters = [
            Updater(self._parameters, copy.deepcopy(optimizer), ctx, fused=net.bert.fused)
            for ctx in workers.ctx
        ]
        batches = -(-len(examples) // batch_size)
        self.updates_per_epoch = -(-batches // accumulate)
        self.total_updates = epochs * self.updates_per_epoch
        if max_updates is not None:
            self.total_updates = min(self.total_updates, max_updates)
        self.updates = 0
        self.seconds = 0.0
        self.samples = 0
        self.skipped = 0
        self._scale_loss = scale_loss
        self.loss_scale = _FIRST_LOSS_SCALE if scale_loss else 1.0
        self.good_updates = 0  # since the scale was changed

    def position(self) -> dict[str, int | float]:
        """Return where training stands, in the data and in time."""
        epoch, update = divmod(self.updates, self.updates_per_epoch)
        return {
            "updates": self.updates,
            "epochs_done": epoch,
            "batches_done_in_epoch": update * self._accumulate,
            "seconds": self.seconds,
            "samples": self.samples,
            "skipped": self.skipped,
            "loss_scale": self.loss_scale,
            "good_updates": self.good_updates,
        }

    def parameter_arrays(self) -> dict[str, np.ndarray]:
        """Return a copy of the network's parameters."""
        return arrays_of(self._net)

    def optimizer_arrays(self) -> dict[str, np.ndarray]:
        """Return a copy of what the optimizer remembers."""
        return self._updaters[0].state_arrays()

    def restore(
        self,
        position: dict[str, int | float],
        parameters: dict[str, np.ndarray],
        optimizer: dict[str, np.ndarray],
    ) -> None:
        """Continue where another Trainer stood when these were taken from it."""
        for name in (
            *("updates", "seconds", "samples", "skipped"),
            *("loss_scale", "good_updates"),
        ):
            setattr(self, name, position[name])
        for name, parameter in self._parameters.items():
            parameter.set_data(mx.nd.array(parameters[name]))
        for updater in self._updaters:
            updater.set_state_arrays(optimizer)

    def run_until(self, stop: int, on_update: Callable[[Progress], bool]) -> None:
        """Make updates until ``stop`` of them are made, or ``on_update``, told of each, is true.

        One more is made after that.

        Raises
        ------
        NotFiniteError
            Names update, learning rate, batch and what was not finite. The update itself has
            changed nothing, but the one after it may be made.
        OutOfMemoryError
            Names what to lower.
        """
        start = time.perf_counter() - self.seconds
        in_flight = None
        for epoch, update, batches in self._updates(stop):
            with _naming_what_to_lower(self._examples, batches, "--batch_size"):
                queued = self._queue(epoch, update, batches)
            # MXNet computes behind our back. Waiting for the update before the one just queued
            # keeps it busy, and its queue short.
            before, in_flight = in_flight, queued
            if before and on_update(self._settle(before, start)):
                break
        if in_flight:
            with _naming_what_to_lower(self._examples, in_flight.batches, "--batch_size"):
                mx.nd.waitall()
            on_update(self._settle(in_flight, start))

    def _updates(self, stop: int) -> Iterator[tuple[int, int, list[np.ndarray]]]:
        while self.updates < stop:
            epoch, done = divmod(self.updates, self.updates_per_epoch)
            size = self._batch_size
            whole = training_batches(
                self._examples.lengths, size * self._accumulate, self._seed, epoch + 1
            )
            for indices in whole[done:]:
                self.updates += 1
                batches = [indices[i : i + size] for i in range(0, len(indices), size)]
                yield epoch + 1, self.updates, batches
                if self.updates == stop:
                    return

    def _queue(self, epoch: int, update: int, batches: list[np.ndarray]) -> _Queued:
        parameters, contexts = self._parameters.values(), self._workers.ctx
        losses = [mx.nd.zeros((1,), ctx) for ctx in contexts]
        sums = [[] for _ in contexts]  # of the gradients of several batches
        seeds = [self._seed_of(update, device) for device in range(len(contexts))]
        for seed, ctx in zip(seeds, contexts, strict=True):
            mx.random.seed(seed, ctx)
        for number, indices in enumerate(batches):
            shares = self._workers.shares(indices)
            for device, (ctx, share) in enumerate(zip(contexts, shares, strict=True)):
                if len(share):
                    losses[device] += self._backward(share, ctx, seeds[device] + number)
                else:
                    for parameter in parameters:
                        parameter.grad(ctx)[:] = 0
                if len(batches) == 1:
                    continue
                # Backward overwrites the gradients (the fused operators know nothing else).
                for i, parameter in enumerate(parameters):
                    if number == 0:
                        sums[device].append(parameter.grad(ctx).copy())
                    else:
                        sums[device][i] += parameter.grad(ctx)
        for ctx, found in zip(contexts, sums, strict=True):
            for parameter, gradient in zip(parameters, found, strict=False):
                parameter.grad(ctx)[:] = gradient
        if self._workers.count > 1:
            self._workers.add_up("update", [*(p.list_grad() for p in parameters), losses])
        examples = sum(map(len, batches))
        lr = learning_rate(update, self.total_updates, self._warmup_ratio, self._lr)
        # The gradients are those of the scaled loss, and are divided by its scale like a mean.
        divisor = examples * self.loss_scale
        norms = [updater.update(lr, divisor) for updater in self._updaters]
        return _Queued(epoch, update, batches, lr, losses[0], norms[0], self.loss_scale)

    def _seed_of(self, update: int, device: int) -> int:
        """Return the seed of an update's dropout on a device: another on each."""
        number = self._workers.number(device)
        return seed_of(self._seed, update, number) if number else seed_of(self._seed, update)

    def _backward(self, indices: np.ndarray, ctx: mx.Context, dropout_seed: int) -> mx.nd.NDArray:
        """Leave the gradients of a batch's summed loss on a device; returns that loss, ``[1]``."""
        inputs = _inputs(self._net, self._examples, indices, ctx, dropout_seed)
        label = mx.nd.array(self._examples.label[indices], ctx)
        with autograd.record():
            logits = self._net(*inputs)
            loss = self._loss_function(logits, label).sum()
        # The scale (1), or nan where the loss is not finite: the gradients then are not either, and
        # the update changes nothing.
        loss.backward(self.loss_scale + 0 * loss)
        return loss

    def _settle(self, queued: _Queued, start: float) -> Progress:
        """Wait for an update, and check it; all training took the time since ``start``."""
        epoch, update, batches, lr, loss, norm, loss_scale = queued
        examples = sum(map(len, batches))
        with _naming_what_to_lower(self._examples, batches, "--batch_size"):
            norm, loss = float(norm.asscalar()), float(loss.asscalar()) / examples
        problem = None
        if self._scale_loss and loss_scale > 1 and math.isfinite(loss) and not math.isfinite(norm):
            # The update queued behind this one has the same scale, and is not to halve it again.
            self.loss_scale = min(self.loss_scale, loss_scale / 2)
            self.good_updates = 0
            problem = (
                f"update {update}: a gradient was too large for float16; the loss is now scaled by "
                f"{self.loss_scale:g}"
            )
        elif not (math.isfinite(norm) and math.isfinite(loss)):
            self.skipped += 1
            rows = np.sort(np.concatenate(batches)) + 1
            problem = (
                f"update {update} (epoch {epoch}, learning rate {lr:.3g}) is not finite: loss "
                f"{loss}, gradient norm {norm}, training examples {', '.join(map(str, rows))}"
            )
            if self.skipped > self._skip_nonfinite:
                raise NotFiniteError(
                    f"{problem}; it has changed nothing, and the last checkpoint is whole; a lower "
                    "--lr or a longer --warmup_ratio may help, --skip_nonfinite N passes over N "
                    "such updates"
                )
        elif self._scale_loss:
            self.good_updates += 1
            if self.good_updates == _UPDATES_A_LOSS_SCALE:
                self.loss_scale, self.good_updates = 2 * self.loss_scale, 0
        self.samples += examples
        self.seconds = time.perf_counter() - start
        speed = self.samples / self.seconds
        return Progress(update, epoch, examples, loss, lr, norm, speed, problem)


def seed_of(*numbers: int) -> int:
    """Mix non-negative integers into one seed for MXNet's generator."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


@contextmanager
def _naming_what_to_lower(
    examples: TokenizedExamples, batches: list[np.ndarray], flag: str
) -> Iterator[None]:
    """Turn MXNet's and NumPy's failure to allocate into one sentence."""
    try:
        yield
    except (mx.MXNetError, MemoryError) as error:
        # The last is oneDNN's, when it finds no room for its scratch space.
        signs = ("Failed to allocate", "bad_alloc", "out of memory", "not execute a primitive")
        if not (isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)):
            raise
        longest = max(int(examples.lengths[indices].max()) for indices in batches)
        raise OutOfMemoryError(
            f"there is not enough memory for a batch of {max(map(len, batches))} examples of up to "
            f"{longest} tokens: lower {flag}, or --max_len"
        ) from None


def predict(
    net: BERTClassifier,
    examples: TokenizedExamples,
    batch_size: int,
    workers: Workers,
    before_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return the logits ``[examples, classes]`` float32, in the examples' order, on every rank.

    Each device takes every so-many-th batch. ``before_batch`` may end it with an exception.
    NotFiniteError and OutOfMemoryError are raised as in training.
    """
    rows = {}
    batches = evaluation_batches(examples.lengths, batch_size)
    for first in range(0, len(batches), workers.count):
        before_batch()
        mine = [first + workers.number(device) for device in range(len(workers.ctx))]
        mine = [batches[number] for number in mine if number < len(batches)]
        with _naming_what_to_lower(examples, batches[first : first + 1], "--dev_batch_size"):
            computing = [
                net(*_inputs(net, examples, indices, ctx))
                for indices, ctx in zip(mine, workers.ctx, strict=False)
            ]
            # Waiting for each round keeps the memory of only one batch in use on a device.
            for indices, logits in zip(mine, computing, strict=True):
                rows |= zip(indices.tolist(), logits.asnumpy(), strict=True)
    logits = workers.merge(rows, (len(examples), net.num_classes))
    if not np.isfinite(logits).all():
        raise NotFiniteError("the network's outputs are not finite; nothing of it was saved")
    return logits


def _inputs(
    net: BERTClassifier,
    examples: TokenizedExamples,
    indices: np.ndarray,
    ctx: mx.Context,
    dropout_seed: int | None = None,
) -> list[mx.nd.NDArray]:
    """Return what the network takes: a padded batch, or a packed one where it is fused.

    Without ``dropout_seed`` a fused network drops nothing; the stock operators ask autograd.
    """
    if net.bert.fused:
        rate = 0 if dropout_seed is None else round(net.bert.dropout * 2**24)
        dropout = np.array([dropout_seed or 0, rate], np.int32)
        arrays = (*packed_batch(examples, indices), dropout)
    else:
        arrays = padded_batch(examples, indices)
    return [mx.nd.array(array, ctx, array.dtype) for array in arrays]
