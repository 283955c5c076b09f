"""Atomic file writes; reading regular files of bounded size, and JSON."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from bert.errors import UserError

# What is read at once: a text (3,000 labels make metrics.json 100 MB), or arrays (a checkpoint of
# BERT large has 5 GB).
_MOST_TEXT_BYTES = 1 << 30
MOST_BYTES = 1 << 34
# Levels of objects and lists in a JSON file. Python's writer of JSON needs a frame for each.
_MOST_LEVELS = 50


class SaveError(OSError):
    """A file could not be written; what was there before is unchanged."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}; what was there before is unchanged"


def mxnet_home() -> Path | None:
    """Return MXNet's folder, ``$MXNET_HOME`` or ``~/.mxnet``; None for a user without a home."""
    named = os.environ.get("MXNET_HOME")
    try:
        return Path(named).expanduser() if named else Path.home() / ".mxnet"
    except RuntimeError:  # HOME is not set, and the user is not in /etc/passwd
        return None


def make_private(folder: Path) -> None:
    """Make a folder that nobody else can write to; PermissionError if it is there and they can."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} can be written by somebody else")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces ``path``.

    The caller creates a file there, or a folder of files. It is flushed to the disk before it is
    renamed; on failure it is removed, and ``path`` is unchanged.

    Raises
    ------
    SaveError
        The disk is full, the folder does not exist, and the like.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if temporary.is_symlink():  # somebody else has made it
            temporary.unlink()
        yield temporary
        if temporary.is_dir():
            for file in temporary.iterdir():
                _flush(file)
        _flush(temporary)
        temporary.replace(path)
        _flush_folder(path.parent)  # makes the new name itself durable
    except SaveError:
        raise
    except OSError as error:
        raise SaveError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with suppress(OSError):
            if temporary.is_dir():
                for file in temporary.iterdir():
                    file.unlink()
                temporary.rmdir()
            else:
                temporary.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP):
            raise  # those mean that the file system cannot flush a folder (CIFS, FUSE)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; raises SaveError."""
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a UTF-8 text file atomically, line by line; raises SaveError."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def json_text(content: dict) -> str:
    """Return the text of an indented JSON file."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if not is_unicode(text):  # a path may be any bytes
        text = json.dumps(content, indent=2)
    return text + "\n"


def is_unicode(text: str) -> bool:
    """Tell whether a string can be written as UTF-8: whether it has no halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_json(path: Path, content: dict) -> None:
    """Write an indented JSON file atomically; raises SaveError."""
    write_text(path, json_text(content))


def read_bytes(path: Path, most: int = _MOST_TEXT_BYTES) -> bytes:
    """Read a file of at most ``most`` bytes.

    Raises
    ------
    UserError
        It cannot be read, it is larger, or it is no regular file, so that reading might never end
        (a device, a FIFO).
    """
    try:
        # Opening a FIFO without this flag waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"cannot read {path}: it is not a regular file")
            if status.st_size > most:
                raise UserError(
                    f"cannot read {path}: it has {status.st_size:,} bytes, more than {most:,}"
                )
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    """Read a UTF-8 text file of bounded size; its line ends become ``\\n``. Raises UserError."""
    try:
        return io.TextIOWrapper(io.BytesIO(read_bytes(path)), "utf-8").read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error})") from None


def contains(path: Path, text: str) -> bool:
    """Tell whether a regular file of bounded size contains a text."""
    try:
        return text.encode() in read_bytes(path)
    except UserError:
        return False


def open_own(path: Path, mode: str = "ab", **options) -> IO:
    """Open a file for writing in place; it is made if it is missing.

    Raises
    ------
    UserError
        It is a link, or no regular file: what is written would go elsewhere.
    OSError
        It cannot be written.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    refuse_foreign(path)
    return open(path, mode, opener=opener, **options)


def refuse_foreign(path: Path) -> None:
    """Raise UserError unless a file that is written in place is missing or a regular file.

    Neither a link nor a hard link may lead from a folder that somebody else has made to a file of
    the user's.
    """
    try:
        status = path.lstat()
    except OSError:
        return
    if stat.S_ISLNK(status.st_mode) or (status.st_nlink > 1 and stat.S_ISREG(status.st_mode)):
        raise UserError(f"{path} is a link to another file: move it away")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file: move it away")


def read_json(path: Path) -> dict:
    """Read a JSON object; raises UserError if the file cannot be read or contains none."""
    return parse_json(read_bytes(path), path)


def parse_json(text: bytes, source: str | Path) -> dict:
    """Return the JSON object in a text; raises UserError, which names the source."""
    try:
        content = json.loads(text.decode())
        _check_levels(content)
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise UserError(f"{source} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{source} is not a JSON object")
    return content


def _check_levels(content: object) -> None:
    level = [content]
    for _ in range(_MOST_LEVELS):
        level = [
            item
            for part in level
            if isinstance(part, (dict, list))
            for item in (part.values() if isinstance(part, dict) else part)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"it has more than {_MOST_LEVELS} levels")
