"""Atomic file writes, and reading JSON."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bert.errors import UserError


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


def read_json(path: Path) -> dict:
    """Read a JSON object; raises UserError if the file is missing or contains none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content
