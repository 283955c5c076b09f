"""Rows of TSV, CSV and JSON Lines files, plain or gzipped, whatever the task."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bert.errors import UserError

# Far longer than any text for BERT: such a line lacks its line end, or a closing quote.
_LONGEST_LINE = 1_000_000
_MOST_NAMES_LISTED = 20
_DELIMITERS = {".tsv": "\t", ".csv": ","}
_JSON_LINES = (".jsonl", ".ndjson")

# File, line from 1, and the problem of an unusable row.
BadRow = tuple[Path, int, str]
# The line on which a row begins, from 1, and its values in the wanted columns.
Row = tuple[int, list[str | None]]


class NoColumnError(UserError):
    """A file lacks a wanted column."""


class BadRows:
    """Collects unusable rows; one more than ``allowed`` raises a UserError."""

    def __init__(self, allowed: float = 0):
        self._allowed = allowed
        self.rows: list[BadRow] = []

    def add(self, path: Path, line: int, problem: str) -> None:
        self.rows.append((path, line, problem))
        if len(self.rows) > self._allowed:
            others = f" (after {len(self.rows) - 1} other bad rows)" if self._allowed else ""
            raise UserError(f"{path}, line {line}: {problem}{others}")


def listed(names: Iterable[str]) -> str:
    """Return names as text: the first twenty, and their number if there are more."""
    names = list(map(str, names))
    more = f", … ({len(names)} in all)" if len(names) > _MOST_NAMES_LISTED else ""
    return ", ".join(names[:_MOST_NAMES_LISTED]) + more


def read_lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield (line number from 1, line with its end, its problem or None) for each line of a file.

    Raises UserError if the file cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from split_lines(file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"it is damaged ({error})"
        raise UserError(f"cannot read {path}: {reason}") from None


def split_lines(file: BinaryIO | gzip.GzipFile) -> Iterator[tuple[int, str, str | None]]:
    """Read an open file as :func:`read_lines`; a byte order mark is dropped."""
    # Split before decoding: str.splitlines knows line ends (U+2028) that files do not have, and a
    # decoding error can then name its line.
    number = 0
    while content := file.readline(_LONGEST_LINE):
        number += 1
        problem = None
        if number == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if len(content) == _LONGEST_LINE and not content.endswith(b"\n"):
            problem = f"the line is longer than {_LONGEST_LINE:,} bytes"
            # For csv, the rest of the line still opens or closes a quoted field.
            quotes = content.count(b'"')
            while not content.endswith(b"\n") and (content := file.readline(_LONGEST_LINE)):
                quotes += content.count(b'"')
            content = b'"' * (quotes % 2) + b"\n"
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            problem = f"byte {error.start + 1} is not UTF-8 text"
            text = content.decode(errors="replace")
        if "\0" in text:
            problem = problem or f"byte {content.index(0) + 1} is NUL, which is not text"
            text = text.replace("\0", "\ufffd")
        yield number, text, problem


def table_rows(
    path: Path, columns: Sequence[tuple[str | None, ...]], bad: BadRows
) -> Iterator[Row]:
    """Yield the rows of a TSV, CSV (both may be quoted) or JSON Lines file, by its extension.

    Parameters
    ----------
    path : Path
    columns : sequence of tuples
        The possible names of each wanted column. If None is among them, the column is optional
        and its values may be None.
    bad : BadRows
        What to do with unusable rows.

    Raises
    ------
    UserError
        With file and line: an unknown extension, no such file, a missing column (NoColumnError)
        or one that is in the header twice.
    """
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    if ending in _JSON_LINES:
        return _json_rows(path, columns, bad)
    if ending in _DELIMITERS:
        return _delimited_rows(path, _DELIMITERS[ending], columns, bad)
    known = ", ".join((*_DELIMITERS, *_JSON_LINES))
    raise UserError(f"{path}: unknown file type; use one of {known} (optionally with .gz)")


def _find(names: Sequence[str | None], found: Collection[str], where: str) -> str | None:
    """Return the first of ``names`` that was found."""
    for name in names:
        if name is None or name in found:
            return name
    wanted = " or ".join(repr(name) for name in names)
    raise NoColumnError(f"{where}: no column {wanted}; columns found: {listed(found)}")


def _delimited_rows(
    path: Path, delimiter: str, columns: Sequence[tuple[str | None, ...]], bad: BadRows
) -> Iterator[Row]:
    problems: list[tuple[int, str]] = []  # of the current row

    def lines() -> Iterator[str]:
        for number, text, problem in read_lines(path):
            if problem:
                problems.append((number, problem))
            yield text

    csv.field_size_limit(_LONGEST_LINE)
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    header = None
    while True:
        line = reader.line_num + 1  # where the row begins: a quoted field may contain line ends
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problems.append((line, _csv_problem(str(error))))
        if problems:
            if header is None:
                raise UserError(f"{path}, line {problems[0][0]}: {problems[0][1]}")
            bad.add(path, *problems[0])
            problems.clear()
        elif not fields:
            continue  # a blank line
        elif header is None:
            header = fields
            twice = [name for name in header if header.count(name) > 1]
            if twice:
                raise UserError(
                    f"{path}, line {line}: the column {twice[0]!r} is in the header twice"
                )
            names = [_find(choices, header, f"{path}, line {line}") for choices in columns]
            indices = [None if name is None else header.index(name) for name in names]
        elif len(fields) != len(header):
            bad.add(path, line, f"{len(fields)} fields, but the header has {len(header)}")
        else:
            yield line, [None if index is None else fields[index] for index in indices]
    if header is None:
        raise UserError(f"{path}, line 1: the file is empty")


def _csv_problem(reason: str) -> str:
    if "field larger" in reason or "unexpected end" in reason:
        return "a quote opened in this row is never closed"
    if "new-line character" in reason:
        return "a stray carriage return outside quotes"
    return f"quotes do not match ({reason})"


def _json_rows(
    path: Path, columns: Sequence[tuple[str | None, ...]], bad: BadRows
) -> Iterator[Row]:
    names = None
    for line, text, problem in read_lines(path):
        if problem is None and not text.strip():
            continue
        try:
            if problem:
                raise ValueError(problem)
            content = parse_object(text)
            if names is None:
                names = [_find(choices, content, f"{path}, line {line}") for choices in columns]
            values = [None if name is None else text_of(content, name) for name in names]
        except UserError:
            raise
        except ValueError as error:
            bad.add(path, line, str(error))
        else:
            yield line, values
    if names is None and not bad.rows:
        raise UserError(f"{path}, line 1: the file is empty")


def parse_object(text: str) -> dict:
    """Parse a JSON object; raises ValueError if the text is not one."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def text_of(content: dict, name: str) -> str:
    """Return a value of a JSON object as text; raises ValueError if it has none."""
    value = content.get(name)
    if value is None:
        raise ValueError(f"the object has no {name!r}; it has: {listed(content)}")
    if isinstance(value, (dict, list)):
        raise ValueError(f"{name!r} is neither text nor a number")
    text = value if isinstance(value, str) else json.dumps(value)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name!r} contains half of a surrogate pair, which is not text")
    return text
