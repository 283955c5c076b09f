"""The output of predict.py while it is incomplete: locked, recorded, and resumed if unchanged.

Until it is complete, FILE is FILE.predict.partial. Beside it FILE.predict.json records what it is
computed from, and marks it as predict.py's own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bert.errors import UserError
from bert.files import read_json, refuse_foreign, write_json
from bert.terminal import say, shown

_PROGRAM = "predict.py"


def fingerprint(path: Path) -> dict[str, int | str]:
    """Return the size in bytes and the SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def partial_path(path: Path) -> Path:
    """Return the name that an output has while it is incomplete."""
    return path.with_name(f"{path.name}.predict.partial")


@contextmanager
def partial_output(
    path: Path, origin: dict[str, object], resume: bool, overwrite: bool, resumable: bool = True
) -> Iterator[BinaryIO]:
    """Yield the incomplete output, to be read and written; it becomes ``path`` at the end.

    It is empty, or with ``resume`` what an interrupted run has written. After an error it stays,
    unless it is empty.

    Parameters
    ----------
    path : Path
    origin : dict
        What the output is a function of: {name of a file or flag: JSON value}.
    resume : bool
        Continue an interrupted output of the same origin, if there is one.
    overwrite : bool
        Whether an interrupted output, and ``path``, may be replaced.
    resumable : bool
        Whether a part of the output is of use: otherwise it is deleted.

    Raises
    ------
    UserError
        Another process writes the output; a file of this name is not predict.py's; the
        interrupted output has another origin.
    OSError
        A file cannot be written.
    """
    partial = partial_path(path)
    record = path.with_name(f"{path.name}.predict.json")
    _recorded_origin(record)  # refuses a file of that name that is not ours
    with _opened(partial) as file:
        if path.exists() and not overwrite:  # another process has just completed it
            raise UserError(f"{path} already exists: pass --overwrite to replace it")
        if os.fstat(file.fileno()).st_size:
            recorded = _recorded_origin(record)
            if recorded is None:
                raise UserError(f"{partial} was not written by predict.py: move it away")
            if not resumable:
                sentence = f"the interrupted {partial} cannot be continued: starting again"
                say(shown(f"note: {sentence}"), sys.stderr)
                file.truncate(0)
            elif resume:
                _check_origin(path, recorded, origin)
            elif overwrite:
                file.truncate(0)
            else:
                raise UserError(
                    f"{partial} is an interrupted output: pass --resume to continue it, or "
                    "--overwrite to start again"
                )
        try:
            write_json(record, {"program": _PROGRAM, "origin": origin})
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
            record.unlink()
        except BaseException:
            if not resumable:
                file.truncate(0)
            raise
        finally:
            if partial.exists() and os.fstat(file.fileno()).st_size == 0:
                partial.unlink()
                record.unlink(missing_ok=True)


@contextmanager
def _opened(partial: Path) -> Iterator[BinaryIO]:
    """Open a file, which is made if it is missing, and lock it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        refuse_foreign(partial)  # a record beside it can be forged
        with os.fdopen(os.open(partial, flags, 0o666), "rb+") as file:
            status = os.fstat(file.fileno())
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is writing {partial}: wait for it, or choose another --output"
                ) from None
            except OSError as error:
                sentence = f"cannot lock {partial} ({error.strerror}): start no other predict.py "
                say(shown(f"warning: {sentence}with this --output"), sys.stderr)
            # The process that held the lock may have renamed or deleted the file.
            try:
                current = os.path.samestat(os.lstat(partial), status)
            except FileNotFoundError:
                current = False
            if current:
                yield file
                return


def _recorded_origin(record: Path) -> dict[str, object] | None:
    """Return what an interrupted output is computed from; None if there is no record.

    UserError if the file is not a record.
    """
    if not os.path.lexists(record):
        return None
    content: dict = {}
    if stat.S_ISREG(os.lstat(record).st_mode):
        with suppress(UserError):
            content = read_json(record)
    origin = content.get("origin")
    if content.get("program") != _PROGRAM or not isinstance(origin, dict):
        raise UserError(f"{record} was not written by predict.py: move it away")
    return origin


def _check_origin(path: Path, recorded: dict[str, object], origin: dict[str, object]) -> None:
    changed = [name for name in origin if recorded.get(name) != origin[name]]
    if changed:
        raise UserError(
            f"cannot resume {path}: {', '.join(changed)} changed since it was interrupted; pass "
            "the same, or --overwrite without --resume to start again"
        )
