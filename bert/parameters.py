"""MXNet's ``.params`` files, and arrays into and out of a network.

The reader is ours, not MXNet's: that one is C++ and trusts the sizes it finds, so a damaged file
can end the process. This one believes nothing, and fails with a sentence. The writer is ours too:
MXNet's does not notice that a disk is full when it closes a file, and it leaves no checksum. Ours
stands in the eight bytes after the magic number, which MXNet reserves, writes as 0 and ignores.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from bert.errors import UserError

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
            raise ValueError("it ends too early")
        chunk = memoryview(self._content)[self._position : end]
        self._position = end
        return chunk

    def number(self, layout: str) -> int:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))[0]

    def array(self) -> np.ndarray:
        if self.number("I") not in _ARRAY_MAGICS:
            raise ValueError("an array does not begin as it should")
        if self.number("i") != _DENSE:
            raise ValueError("an array is sparse")
        dimensions = self.number("i")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"an array has {dimensions} dimensions")
        shape = [self.number("q") for _ in range(dimensions)]
        self.take(8)  # the device it was saved from
        dtype = _DTYPES.get(self.number("i"))
        if dtype is None or min(shape) < 0:
            raise ValueError("an array's type or shape is not known")
        count = 1
        for extent in shape:
            count *= extent
        data = self.take(count * np.dtype(dtype).itemsize)
        return np.frombuffer(data, dtype).reshape(shape)

    def at_end(self) -> bool:
        return self._position == len(self._content)


def write_params(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays (at least one-dimensional) as ``mx.nd.save`` does, with a checksum.

    Raises
    ------
    OSError
        The disk is full, and the like. The caller sees to it that such a file is not used.
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
        Names without the ``arg:`` and ``aux:`` that symbolic exports put before them.

    Raises
    ------
    UserError
        The file cannot be read, is cut short, is not such a file, or has a checksum (ours have,
        MXNet's have not) that does not fit.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    reader = _Reader(content)
    try:
        if reader.number("Q") != _LIST_MAGIC:
            raise ValueError("it does not begin as one")
        checksum = bytes(reader.take(_CHECKSUM_BYTES))
        if any(checksum):
            rest = hashlib.sha256(memoryview(content)[_HEAD_BYTES:])
            if rest.digest()[:_CHECKSUM_BYTES] != checksum:
                raise ValueError("its checksum does not fit")
        arrays = [reader.array() for _ in range(reader.number("Q"))]
        names = [bytes(reader.take(reader.number("Q"))).decode() for _ in range(reader.number("Q"))]
        if len(names) != len(arrays) or len(set(names)) != len(names) or not reader.at_end():
            raise ValueError("its names do not fit its arrays")
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


def set_parameters(
    net: Block, arrays: dict[str, np.ndarray], ctx: list[mx.Context], source: str | Path
) -> None:
    """Give a network the values in ``arrays``: all of them, of the right shapes, or UserError.

    ``source`` is the file that the message names.
    """
    parameters = parameters_of(net)
    missing = [name for name in parameters if name not in arrays]
    left_over = [name for name in arrays if name not in parameters]
    if missing or left_over:
        raise UserError(
            f"{source} does not hold this network's parameters; missing: "
            f"{', '.join(missing) or 'nothing'}; not known: {', '.join(left_over) or 'nothing'}"
        )
    for name, parameter in parameters.items():
        if arrays[name].shape != parameter.shape:
            raise UserError(
                f"{source}: {name} is {arrays[name].shape}, and the network's is {parameter.shape}"
            )
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{source}: {name} holds values that are not finite")
    for name, parameter in parameters.items():
        # As Block.load_parameters does it: one copy, from NumPy's memory to where it is needed.
        shared = mx.nd.from_numpy(np.ascontiguousarray(arrays[name], np.float32))
        parameter._load_init(shared, ctx)
