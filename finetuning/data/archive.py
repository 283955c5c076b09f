"""Take the files of a task out of a zip archive, within bounds and whatever the archive says."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Collection
from pathlib import Path

# What the files of a task have together: GLUE's have less than 150 MB.
_LARGEST_TASK_BYTES = 1 << 29
# Of the list of members, which is read as a whole: 20,000 short names.
_LARGEST_LIST_BYTES = 1 << 20


class _SmallReads(io.FileIO):
    """An archive of which only small parts are read at once, so that its list has a bound."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LARGEST_LIST_BYTES:
            raise zipfile.BadZipFile("its list of members is too long")
        return super().read(size)


class Archive:
    """A zip archive whose members are in a folder of any name. Use as a context manager.

    zipfile raises exceptions of many kinds for archives that it cannot read.
    """

    def __init__(self, path: Path):
        self._file = _SmallReads(path)
        self._zip = zipfile.ZipFile(self._file)
        self._members: dict[str, zipfile.ZipInfo] = {}

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception) -> None:
        self._zip.close()
        self._file.close()

    def find(self, names: Collection[str]) -> list[str]:
        """Find the members to unpack; returns the names that are missing."""
        for member in self._zip.infolist():
            folder, _, name = member.filename.rpartition("/")
            if name in names and "/" not in folder:
                self._members[name] = member
        return [name for name in names if name not in self._members]

    def size(self) -> int:
        """Return the bytes of the found members; raises BadZipFile if they cannot be a task's."""
        for member in self._members.values():
            if member.flag_bits & 1:
                raise zipfile.BadZipFile("it is encrypted")
            # The other methods may need gigabytes of memory.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("its compression is not that of GLUE's files")
        size = sum(member.file_size for member in self._members.values())
        if size > _LARGEST_TASK_BYTES:
            raise zipfile.BadZipFile(f"it unpacks to {size:,} bytes, more than any task of GLUE")
        return size

    def unpack(self, folder: Path) -> None:
        """Write the found members into a folder, of which no name comes from the archive."""
        for name, member in self._members.items():
            with self._zip.open(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
