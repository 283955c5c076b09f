"""MXNet's ``.params`` files, and arrays into and out of a network.

MXNet's own reader trusts the sizes it finds, so a damaged file can crash the process. This one
validates every size and raises a clear error. MXNet's own writer does not notice a full disk when
it closes a file, and writes no checksum. This one does both; the checksum is in the eight bytes
after the magic number, which MXNet reserves, writes as 0 and ignores.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import math
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bert.errors import UserError
from bert.files import MOST_BYTES, read_bytes

if TYPE_CHECKING:
    import mxnet as mx
    from mxnet.gluon import Block

_LIST_MAGIC = 0x112
_ARRAY_MAGICS = (0xF993FAC9, 0xF993FACA)  # NDArray format 2 (MXNet 1.0 on) and 3 (NumPy shapes)
_DENSE = 0
_CPU = 1
_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
_TYPE_FLAGS = {np.dtype(layout): flag for flag, layout in _DTYPES.items()}
_MOST_DIMENSIONS = 32
_CHECKSUM_BYTES = 8
_HEAD_BYTES = 8 + _CHECKSUM_BYTES


class _Reader:
    """A cursor over bytes that checks every length before it reads."""

    def __init__(self, content: bytes):
        self._content = content
        self._position = 0

    def take(self, size: int) -> memoryview:
        end = self._position + size
        if size < 0 or end > len(self._content):
            raise ValueError("it is truncated")
        chunk = memoryview(self._content)[self._position : end]
        self._position = end
        return chunk

    def number(self, layout: str) -> int:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))[0]

    def array(self) -> np.ndarray:
        if self.number("I") not in _ARRAY_MAGICS:
            raise ValueError("an array has a wrong magic number")
        if self.number("i") != _DENSE:
            raise ValueError("an array is sparse")
        dimensions = self.number("i")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"an array has {dimensions} dimensions")
        shape = [self.number("q") for _ in range(dimensions)]
        self.take(8)  # the device it was saved from
        dtype = _DTYPES.get(self.number("i"))
        if dtype is None or min(shape) < 0:
            raise ValueError("an array has an invalid type or shape")
        data = self.take(math.prod(shape) * np.dtype(dtype).itemsize)
        return np.frombuffer(data, dtype).reshape(shape)

    def at_end(self) -> bool:
        return self._position == len(self._content)


def write_params(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays (at least one-dimensional) as ``mx.nd.save`` does, with a checksum.

    Raises
    ------
    OSError
        The disk is full, and the like. The caller must not use the incomplete file.
    """
    digest = hashlib.sha256()
    with Path(path).open("wb") as file:

        def put(chunk) -> None:
            file.write(chunk)
            digest.update(chunk)

        file.write(struct.pack("<QQ", _LIST_MAGIC, 0))
        put(struct.pack("<Q", len(arrays)))
        for array in arrays.values():
            put(struct.pack("<Iii", _ARRAY_MAGICS[0], _DENSE, array.ndim))
            put(struct.pack(f"<{array.ndim}q", *array.shape))
            put(struct.pack("<iii", _CPU, 0, _TYPE_FLAGS[array.dtype]))
            put(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        put(struct.pack("<Q", len(arrays)))
        for name in map(str.encode, arrays):
            put(struct.pack("<Q", len(name)) + name)
        file.seek(8)
        file.write(digest.digest()[:_CHECKSUM_BYTES])


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """Read a ``.params`` file of named dense arrays.

    Returns
    -------
    dict of str to arrays
        Names without the prefixes ``arg:`` and ``aux:`` of symbolic exports.

    Raises
    ------
    UserError
        The file cannot be read, is truncated, is not such a file, or its checksum differs (files
        that MXNet has written have none).
    """
    content = read_bytes(Path(path), MOST_BYTES)
    reader = _Reader(content)
    try:
        if reader.number("Q") != _LIST_MAGIC:
            raise ValueError("it has a wrong magic number")
        checksum = bytes(reader.take(_CHECKSUM_BYTES))
        if any(checksum):
            rest = hashlib.sha256(memoryview(content)[_HEAD_BYTES:])
            if rest.digest()[:_CHECKSUM_BYTES] != checksum:
                raise ValueError("its checksum differs")
        arrays = [reader.array() for _ in range(reader.number("Q"))]
        names = [bytes(reader.take(reader.number("Q"))).decode() for _ in range(reader.number("Q"))]
        if len(names) != len(arrays) or len(set(names)) != len(names) or not reader.at_end():
            raise ValueError("its names do not match its arrays")
    except ValueError as error:
        raise UserError(f"{path} is damaged or not a .params file: {error}") from None
    return {
        n.removeprefix("arg:").removeprefix("aux:"): a for n, a in zip(names, arrays, strict=True)
    }


def parameters_of(net: Block) -> dict[str, mx.gluon.Parameter]:
    """Return a network's parameters by structural name, in a fixed order."""
    return dict(sorted(net._collect_params_with_prefix().items()))


def arrays_of(net: Block) -> dict[str, np.ndarray]:
    """Return a copy of a network's parameters, by structural name."""
    return {name: p.list_data()[0].asnumpy() for name, p in parameters_of(net).items()}


def release_memory() -> None:
    """Give the system back the memory of networks and arrays that are no longer used."""
    gc.collect()  # Gluon's blocks refer to each other
    with suppress(OSError, AttributeError):  # glibc keeps what is free between blocks that are not
        ctypes.CDLL(None).malloc_trim(0)


def check_parameters(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], source: str | Path
) -> None:
    """Raise UserError unless arrays have these names and shapes, and all values are finite.

    ``source`` is the file that the message names.
    """
    missing = [name for name in shapes if name not in arrays]
    unexpected = [name for name in arrays if name not in shapes]
    if missing or unexpected:
        raise UserError(
            f"{source} does not contain this network's parameters; missing: "
            f"{', '.join(missing) or 'nothing'}; unexpected: {', '.join(unexpected) or 'nothing'}"
        )
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise UserError(
                f"{source}: {name} has shape {arrays[name].shape}, but the network needs {shape}"
            )
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{source}: {name} contains values that are not finite")


def set_parameters(
    net: Block, arrays: Mapping[str, np.ndarray], ctx: list[mx.Context], source: str | Path
) -> None:
    """Set all parameters of a network, on all devices in ``ctx``.

    Raises
    ------
    UserError
        As :func:`check_parameters`.
    """
    import mxnet as mx

    parameters = parameters_of(net)
    check_parameters(arrays, {name: p.shape for name, p in parameters.items()}, source)
    for name, parameter in parameters.items():
        # As Block.load_parameters does: a single copy, from NumPy's memory to the device.
        shared = mx.nd.from_numpy(np.ascontiguousarray(arrays[name], np.float32))
        parameter._load_init(shared, ctx)
