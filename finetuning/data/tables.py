"""Files of rows, read line by line: TSV, CSV and JSON Lines, each gzipped too. Knows no task."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bert.errors import UserError

# No text that BERT reads is nearly as long: such a line has lost its end, or a quote its twin.
_LONGEST_LINE = 1_000_000
_MOST_NAMES_LISTED = 20
_DELIMITERS = {".tsv": "\t", ".csv": ","}
_JSON_LINES = (".jsonl", ".ndjson")

# Where a row begins (line from 1), and the values wanted of it.
Row = tuple[int, list[str | None]]


class BadRows:
    """What happens to rows that cannot be used: the first beyond ``allowed`` is a UserError."""

    def __init__(self, allowed: float = 0):
        self._allowed = allowed
        self.rows: list[tuple[Path, int, str]] = []  # file, line from 1, what is wrong

    def add(self, path: Path, line: int, problem: str) -> None:
        self.rows.append((path, line, problem))
        if len(self.rows) > self._allowed:
            others = f" (after {len(self.rows) - 1} other bad rows)" if self._allowed else ""
            raise UserError(f"{path}, line {line}: {problem}{others}")


def listed(names: Iterable[str]) -> str:
    """Return names as text, cut where there are very many."""
    names = list(map(str, names))
    more = f", … ({len(names)} in all)" if len(names) > _MOST_NAMES_LISTED else ""
    return ", ".join(names[:_MOST_NAMES_LISTED]) + more


def read_lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield (line number from 1, line with its end, what is wrong with it or None) of a file.

    UserError when the file cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from split_lines(file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"it is damaged ({error})"
        raise UserError(f"cannot read {path}: {reason}") from None


def split_lines(file: BinaryIO) -> Iterator[tuple[int, str, str | None]]:
    """Yield what :func:`read_lines` does, of an open file; a byte order mark is dropped."""
    # Bytes are split before they are decoded: text has line ends (U+2028) that files do not, and
    # an error can then name its line.
    number = 0
    while content := file.readline(_LONGEST_LINE):
        number += 1
        problem = None
        if number == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if len(content) == _LONGEST_LINE and not content.endswith(b"\n"):
            problem = f"the line is longer than {_LONGEST_LINE:,} bytes"
            # What is left of the line still opens or closes the quotes that it did.
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
            problem = problem or f"byte {content.index(0) + 1} is NUL, which no text has"
            text = text.replace("\0", "\ufffd")
        yield number, text, problem


def table_rows(
    path: Path, columns: Sequence[tuple[str | None, ...]], bad: BadRows
) -> Iterator[Row]:
    """Yield the rows of a TSV, CSV (both may be quoted) or JSON Lines file, by its ending.

    Parameters
    ----------
    path : Path
    columns : sequence of tuples
        For each value wanted the names that its column may have; with None among them the value
        is None where there is no such column.
    bad : BadRows
        What to do with rows that cannot be read.

    Raises
    ------
    UserError
        With file and line: an ending that is not known, no such file, a column that is not there
        or there twice.
    """
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    if ending in _JSON_LINES:
        return _json_rows(path, columns, bad)
    if ending in _DELIMITERS:
        return _delimited_rows(path, _DELIMITERS[ending], columns, bad)
    known = ", ".join((*_DELIMITERS, *_JSON_LINES))
    raise UserError(f"{path}: its name ends in none of {known} (.gz may follow)")


def _find(names: Sequence[str | None], there: Iterable[str], where: str) -> str | None:
    """Return the first of ``names`` that is there."""
    there = list(there)
    for name in names:
        if name is None or name in there:
            return name
    wanted = " or ".join(repr(name) for name in names)
    raise UserError(f"{where}: there is no column {wanted}; there are: {listed(there)}")


def _delimited_rows(path, delimiter, columns, bad) -> Iterator[Row]:
    problems: list[tuple[int, str]] = []  # of the row that is being read

    def lines():
        for number, text, problem in read_lines(path):
            if problem:
                problems.append((number, problem))
            yield text

    csv.field_size_limit(_LONGEST_LINE)
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    header = None
    while True:
        line = reader.line_num + 1  # where a row begins; in quotes it may go on over several
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
                raise UserError(f"{path}, line {line}: the column {twice[0]!r} is there twice")
            names = [_find(choices, header, f"{path}, line {line}") for choices in columns]
            indices = [None if name is None else header.index(name) for name in names]
        elif len(fields) != len(header):
            bad.add(path, line, f"{len(fields)} fields where the header has {len(header)}")
        else:
            yield line, [None if index is None else fields[index] for index in indices]
    if header is None:
        raise UserError(f"{path}, line 1: the file is empty")


def _csv_problem(reason: str) -> str:
    if "field larger" in reason or "unexpected end" in reason:
        return "a quote that opens in this row is never closed"
    if "new-line character" in reason:
        return "a carriage return in the middle, outside of quotes"
    return f"quotes that do not pair up ({reason})"


def _json_rows(path, columns, bad) -> Iterator[Row]:
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
    """Parse a JSON object; ValueError says that it is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def text_of(content: dict, name: str) -> str:
    """Return a value of a JSON object as text; ValueError where it has none."""
    value = content.get(name)
    if value is None:
        raise ValueError(f"the object has no {name!r}; it has: {listed(content)}")
    if isinstance(value, (dict, list)):
        raise ValueError(f"{name!r} is neither text nor a number")
    text = value if isinstance(value, str) else json.dumps(value)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name!r} holds half of a surrogate pair, which is not text")
    return text
