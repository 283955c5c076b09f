"""Where a command may write: no file is replaced that is an input or is not the command's own."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bert.errors import RunError, UserError, reason
from bert.files import replacing
from bert.terminal import say, shown

# A file's path, or the number of an open file (0 is standard input).
Input = Path | int


class Target(NamedTuple):
    """A file that may be written."""

    path: Path  # for a file the real one, which links lead to
    stream: bool = False  # a device, a FIFO or an open file: written to, never replaced


def file_target(output: Path, inputs: Iterable[Input] = (), overwrite: bool = False) -> Target:
    """Decide how an output file is written. Nothing is changed.

    Parameters
    ----------
    output : Path
    inputs : iterable of paths and file numbers
        What the command reads.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    UserError
        The output is an input, also by another name or link, or it exists already.
    RunError
        It is a folder or a link to a missing file, or its folder is missing.
    """
    status = _status(output)
    if status is None:
        if not output.parent.is_dir():
            raise RunError(
                f"cannot write {output}: No such file or directory: create the folder "
                f"{output.parent} first"
            )
        return Target(Path(os.path.realpath(output)))
    if stat.S_ISDIR(status.st_mode):
        raise RunError(f"cannot write {output}: it is a folder")
    _refuse_inputs(output, status, inputs)
    number = _descriptor(output)
    if number is not None:
        # A stream that was closed at the start is now /dev/null.
        if {1: sys.__stdout__, 2: sys.__stderr__}.get(number, output) is None:
            raise RunError(f"cannot write {output}: it is closed")
        return Target(output, stream=True)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        return Target(output, stream=True)
    if not overwrite:
        raise UserError(
            f"{output} already exists: pass --overwrite to replace it, or choose another --output"
        )
    return Target(Path(os.path.realpath(output)), stream=stat.S_ISBLK(status.st_mode))


def folder_target(
    output: Path,
    inputs: Iterable[Input],
    overwrite: bool,
    is_own: Callable[[Path], bool],
) -> Path:
    """Return the real path of a folder that may be written. Nothing is changed.

    Parameters
    ----------
    output : Path
        A folder that is missing, is empty, or with ``overwrite`` is the command's own.
    inputs : iterable of paths and file numbers
        Folders that the command reads.
    overwrite : bool
    is_own : function of Path to bool
        Whether a folder holds what this command wrote earlier, and nothing else.

    Raises
    ------
    UserError
        The folder is an input, or it exists and may not be replaced.
    RunError
        It is a file or a link to a missing folder.
    """
    status = _status(output)
    if status is None:
        return Path(os.path.realpath(output))
    if not stat.S_ISDIR(status.st_mode):
        raise RunError(f"cannot write {output}: it already exists and is not a folder")
    _refuse_inputs(output, status, inputs)
    try:
        empty = next(output.iterdir(), None) is None
    except OSError as error:
        raise RunError(f"cannot read {output}: {reason(error)}") from None
    if not empty:
        if not is_own(output):
            raise UserError(
                f"{output} already exists and has other files in it: choose a new --output_dir"
            )
        if not overwrite:
            raise UserError(
                f"{output} already exists: pass --overwrite to replace it, or choose another "
                "--output_dir"
            )
    return Path(os.path.realpath(output))


def refuse_appending(inputs: Iterable[Input]) -> None:
    """Raise UserError if standard output is an input (FILE >> FILE): reading would not end."""
    with suppress(OSError):
        status = os.fstat(1)
        if stat.S_ISREG(status.st_mode):
            _refuse_inputs(Path("standard output"), status, inputs)


def open_stream(path: Path) -> BinaryIO:
    """Open a device, a FIFO or an open file for writing; it is neither created nor truncated."""
    number = _descriptor(path)
    if number is None:
        return os.fdopen(_open_for_reader(path), "wb")
    # A copy of the number shares its position: what a shell's > or >> has set stays in force.
    return os.fdopen(os.dup(number), "wb")


def _open_for_reader(path: Path) -> int:
    flags = os.O_WRONLY | os.O_NOCTTY
    try:
        opened = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO or not path.is_fifo():
            raise
        say(shown(f"{path} is a FIFO: waiting for a program that reads it"), sys.stderr)
        return os.open(path, flags)
    os.set_blocking(opened, True)
    return opened


def write_file(target: Target, content: bytes) -> None:
    """Write a complete file: atomically, or through a stream.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    if target.stream:
        try:
            with open_stream(target.path) as file:
                file.write(content)
        except OSError as error:
            raise OSError(f"cannot write {target.path}: {reason(error)}") from None
        return
    with replacing(target.path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill; on success it takes the place of ``path``.

    Raises
    ------
    SaveError
        The disk is full, and the like; ``path`` is as it was.
    """
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        with replacing(path) as folder:
            folder.mkdir()
            yield folder
            if path.exists():
                path.rename(old)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    if old.exists():
        shutil.rmtree(old)


def _status(output: Path) -> os.stat_result | None:
    """Return the status of what a path leads to; None if there is nothing of that name."""
    try:
        return output.stat()
    except FileNotFoundError:
        if output.is_symlink():
            raise RunError(
                f"cannot write {output}: it is a link to {output.readlink()}, which is missing"
            ) from None
        return None
    except OSError as error:  # a loop of links, a file in the place of a folder, no permission
        raise RunError(f"cannot write {output}: {reason(error)}") from None


def _refuse_inputs(output: Path, status: os.stat_result, inputs: Iterable[Input]) -> None:
    if stat.S_ISCHR(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        return  # a terminal or a connection is read and written, and so is /dev/null
    for path in inputs:
        with suppress(OSError):
            found = os.fstat(path) if isinstance(path, int) else path.stat()
            if os.path.samestat(found, status):
                name = "standard input" if path == 0 else path
                raise UserError(f"{output} is an input of this command ({name}): choose another")


def _descriptor(path: Path) -> int | None:
    """Return the number of the open file that a path such as /dev/stdout leads to."""
    for _ in range(40):  # as many links as Linux follows
        folder = os.path.realpath(path.parent)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", folder) and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, path.readlink())
    return None
