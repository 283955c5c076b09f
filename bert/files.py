"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the place of ``path``.

    The temporary one is a file, or a folder of files, that the caller makes. It is on the disk
    before it is renamed; on failure it is removed, and ``path`` is as it was.

    Raises
    ------
    OSError
        The disk is full, the folder is gone, and the like.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_dir():
            for file in temporary.iterdir():
                _flush(file)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)  # makes the new name itself durable
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
