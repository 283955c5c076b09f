"""Rows of Parquet files, batch by batch; pyarrow, which reads them, is optional."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bert.errors import UserError, reason

# How many rows are read at a time, and of each column how many bytes of the file: a row group
# need not fit into memory, since it may be the complete file.
_BATCH_ROWS, _BUFFER_BYTES = 1024, 1 << 20

# A row's texts, its values to keep, and its problem or None.
Cells = tuple[Sequence[str | None], Sequence[Any], str | None]


def load_pyarrow(path: str | Path) -> ModuleType:
    """Return pyarrow, with ``pyarrow.parquet``; UserError, which names the file, without it."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs pyarrow ({error}): pip install pyarrow") from None
    return importlib.import_module("pyarrow")


class ParquetFile:
    """An open Parquet file; use as a context manager.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    types : dict
        Column -> pyarrow.DataType.
    names : list of str
        The columns; one may be there twice.

    Raises
    ------
    UserError
        pyarrow is missing; the file cannot be read, or is none of Parquet.
    """

    def __init__(self, path: Path):
        self._path = path
        self._pa = load_pyarrow(path)
        _check_start(path)
        # What pyarrow raises for a damaged file; ValueError is also that of a date in no calendar.
        self._errors = (self._pa.ArrowException, OSError, ValueError, OverflowError)
        try:
            self._file = self._pa.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES)
            schema = self._file.schema_arrow
        except self._errors as error:
            raise self._unreadable(error) from None
        self.names: list[str] = schema.names
        self.types: dict[str, Any] = {field.name: field.type for field in schema}

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def _unreadable(self, error: Exception) -> UserError:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(f"cannot read {self._path} as Parquet ({why}): is it damaged?")

    def rows(
        self, texts: Sequence[str | None], keep: Sequence[str], lists: Sequence[str]
    ) -> Iterator[Cells]:
        """Yield the rows in order.

        Parameters
        ----------
        texts : sequence of str or None
            Columns whose values are yielded as text: numbers as in JSON, null and NaN as an empty
            text. None: a column that is missing, of None.
        keep : sequence of str
            Columns whose values are yielded as Python objects.
        lists : sequence of str
            Columns in which a list is yielded as JSON text.

        Raises
        ------
        UserError
            A column of texts has bytes, lists or structures in it, or the file is damaged.
        """
        for name in filter(None, texts):
            self._check_type(name, name in lists)
        wanted = list(dict.fromkeys([*filter(None, texts), *keep]))
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=wanted):
                yield from self._batch_rows(batch, texts, keep)
        except self._errors as error:
            raise self._unreadable(error) from None

    def _check_type(self, name: str, may_be_list: bool) -> None:
        types, kind = self._pa.types, self.types[name]
        if may_be_list and not types.is_map(kind):
            kind = getattr(kind, "value_type", kind)
        if types.is_dictionary(kind):
            kind = kind.value_type
        extension = isinstance(kind, self._pa.BaseExtensionType)
        if types.is_nested(kind) or "binary" in str(kind) or extension:
            advice = "name another column"
            if "binary" in str(kind):
                advice = "cast it to string"
            elif "list" in str(kind) and not may_be_list:
                advice = "lists are for the labels of --multi_label"
            raise UserError(
                f"{self._path}: the column {name!r} holds {self.types[name]}, not text or numbers: "
                f"{advice}"
            )

    def _batch_rows(self, batch, texts: Sequence[str | None], keep: Sequence[str]):
        bad: dict[int, str] = {}  # row of the batch -> the column that is not UTF-8
        found = {name: self._values(batch.column(name), name, bad) for name in batch.schema.names}
        nothing = [None] * len(batch)
        columns = [
            nothing if name is None else _as_text(found[name], self.types[name]) for name in texts
        ]
        kept = zip(*(found[name] for name in keep), strict=True) if keep else [()] * len(batch)
        for i, (row, values) in enumerate(zip(zip(*columns, strict=True), kept, strict=True)):
            problem = f"the column {bad[i]!r} is not UTF-8 text" if i in bad else None
            yield row, values, problem

    def _values(self, column, name: str, bad: dict[int, str]) -> list:
        try:
            return column.to_pylist()
        except UnicodeDecodeError:  # pyarrow does not look at the bytes of texts
            if self._pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            found = []
            for i, value in enumerate(column.cast(self._pa.large_binary()).to_pylist()):
                text = None if value is None else value.decode(errors="replace")
                if text is not None and text.encode() != value:
                    bad[i] = name
                found.append(text)
            return found


def column_types(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the type (pyarrow.DataType) of each of these columns that a file has."""
    with ParquetFile(path) as file:
        return {name: file.types[name] for name in names if name in file.types}


def _as_text(values: list, kind) -> list[str]:
    import numpy as np  # here, because predict.py --help loads no large package

    # As short as in the program that wrote it: 0.1, not 0.10000000149011612.
    single = str(kind) == "float"

    def text(value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        return _number_text(np.float32(value) if single else value)

    return [text(value) for value in values]


def _number_text(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value, default=str)
    if value != value:  # NaN, which pandas has for a missing number
        return ""
    return json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)


def _check_start(path: Path) -> None:
    """Raise UserError unless a regular file begins as Parquet does."""
    if path.exists() and not path.is_file():
        raise UserError(
            f"cannot read {path}: Parquet is read from its end, so it must be a regular file"
        )
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    if start not in (b"PAR1", b"PARE"):
        gzipped = start.startswith(b"\x1f\x8b")
        advice = "gunzip it" if gzipped else "name it after what it is (.tsv, .csv, .jsonl)"
        raise UserError(f"{path} is not a Parquet file, which begins with the bytes PAR1: {advice}")
