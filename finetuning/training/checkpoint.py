"""Files that are whole or not there, and the checkpoints among them.

A file is written to a temporary name, flushed to disk and renamed. A checkpoint is one file,
complete in itself: ``checkpoint-<updates>.params``, in MXNet's format, so nothing is pickled, with
a checksum over all of it. One of its arrays is a JSON text, the run's ``state``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mxnet.ndarray import NDArray

from bert import runtime
from bert.errors import UserError
from bert.files import parse_json, replacing
from bert.parameters import read_params, write_params
from bert.schema import Shape, anything, check

# Raised when the content of a checkpoint changes its meaning, or the training that it is of: from 3
# on the learning rate reaches 0 after the last update, from 4 on batches are not sorted by length.
_FORMAT, _BEFORE = 4, (2, 3)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a ``.params`` file atomically; raises SaveError."""
    with replacing(path) as temporary:
        write_params(temporary, arrays)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (updates, path) of each checkpoint there, whole or not, oldest first."""
    found = []
    for path in folder.glob("checkpoint-*.params"):
        updates = path.stem.removeprefix("checkpoint-")
        if updates.isdecimal():
            found.append((int(updates), path))
    return sorted(found)


def name_of(updates: int) -> str:
    """Return the name of the checkpoint of so many updates."""
    return f"checkpoint-{updates:06d}.params"


def save(folder: Path, updates: int, state: str, arrays: dict[str, np.ndarray], keep: int) -> None:
    """Write the checkpoint of so many updates, then delete all but the newest ``keep``.

    Checkpoints of more updates than this one go too: they were passed over as damaged.
    ``state`` is a JSON object.
    """
    path = folder / name_of(updates)
    write_arrays(path, {f"state {_FORMAT}": np.frombuffer(state.encode(), np.uint8), **arrays})
    found = _checkpoints(folder)
    kept = [path for number, path in found if number <= updates][-keep:]
    for _, path in found:
        if path not in kept:
            path.unlink(missing_ok=True)


def load_newest(
    folder: Path, warn: Callable[[str], None], shape: Shape = anything
) -> tuple[dict, dict[str, np.ndarray]] | None:
    """Return state and arrays of the newest whole checkpoint, or None where there is none.

    ``warn`` hears of each that is damaged, or whose state has not the ``shape``.

    Raises
    ------
    UserError
        A whole one is of another version of this program.
    """
    for _, path in reversed(_checkpoints(folder)):
        try:
            arrays = read_params(path)
            text = arrays.pop(f"state {_FORMAT}", None)
            if len(arrays) == 1:  # it is from before the training or after it
                for before in _BEFORE:
                    text = arrays.pop(f"state {before}", text)
            if text is not None:
                state = parse_json(bytes(text), path)
                check(shape, state, path)
                return state, arrays
        except UserError as error:
            warn(f"{error}; it is passed over")
            continue
        raise UserError(
            f"{path} was written by another version of this program: continue the run with that "
            "version, or start over with --overwrite"
        )
    return None


def fingerprint(arrays: Iterable[np.ndarray | NDArray]) -> str:
    """Return a hash of arrays: of their types, shapes and values; computed on all cores."""

    def hash_of(array: np.ndarray | NDArray) -> bytes:
        if isinstance(array, NDArray):
            array = array.asnumpy()
        digest = hashlib.sha256(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.digest()

    with ThreadPoolExecutor(runtime.physical_cores()) as executor:
        return hashlib.sha256(b"".join(executor.map(hash_of, arrays))).hexdigest()


class BackgroundWriter:
    """Writes files while training goes on; one job at a time, so they come in order."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._job: Future | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job when the one before is done, whose error is raised here if it had one."""
        self.wait()
        self._job = self._executor.submit(job)

    def wait(self) -> None:
        """Wait for the job that runs; raises its error if it has one."""
        job, self._job = self._job, None
        if job:
            job.result()

    def close(self) -> None:
        """Wait for the job that runs, whatever becomes of it; no other is taken after."""
        self._executor.shutdown()
