"""Rows of TSV, CSV and JSON Lines files, plain or gzipped, and of Parquet, whatever the task."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from bert.errors import UserError
from finetuning.data.lines import LONGEST_LINE, Line, read_lines
from finetuning.data.parquet import ParquetFile
from finetuning.data.rows import InputFile, Row

_MOST_NAMES_LISTED = 20
_ENDINGS = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
# quoted_tsv: with CSV's quotes, as spreadsheets write it.
FORMATS = ("tsv", "quoted_tsv", "csv", "jsonl")
# The one format that is no text: it cannot be read from a stream.
PARQUET = "parquet"
_DELIMITERS = {"quoted_tsv": "\t", "csv": ","}
# The line ends of old Macs, and of some exports.
_CARRIAGE_RETURNS = "if carriage returns end the lines, convert them with tr '\\r' '\\n'"


def listed(names: Iterable[str]) -> str:
    """Return names as text: the first twenty, and their number if there are more."""
    names = [name if name == name.strip() and name else repr(name) for name in map(str, names)]
    more = f", … ({len(names)} in all)" if len(names) > _MOST_NAMES_LISTED else ""
    return ", ".join(names[:_MOST_NAMES_LISTED]) + more


def format_of(path: Path, quoted_tsv: bool, advice: str = "rename it") -> str:
    """Return the format of a file by its ending; UserError, with advice, if that is unknown."""
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    format = _ENDINGS.get(endings[-1] if endings else "")
    if format is None:
        raise UserError(
            f"{path}: unknown file type; use one of {', '.join(_ENDINGS)} (texts optionally with "
            f".gz); {advice}"
        )
    return "quoted_tsv" if quoted_tsv and format == "tsv" else format


def table_rows(
    file: InputFile,
    format: str,
    columns: Sequence[tuple[str | None, ...]],
    keep: Sequence[str] = (),
    lists: Sequence[str] = (),
) -> Iterator[Row]:
    """Yield all rows of a file in order, usable or not; blank lines are none.

    Parameters
    ----------
    file : InputFile
    format : str
        One of ``FORMATS``, or ``PARQUET``. ``tsv``: one line is one row, and quotes are characters.
        ``csv``, ``quoted_tsv``: RFC 4180. ``jsonl``: a JSON object in each line.
    columns : sequence of tuples
        The possible names of each wanted column. If None is among them, the column is optional
        and its values may be None.
    keep : sequence of str
        Columns whose values are passed on as they are.
    lists : sequence of str
        Columns in which JSON Lines and Parquet may have a list, which is yielded as JSON text, or
        null, which is yielded as an empty text.

    Raises
    ------
    UserError
        With file and line: no such file, a missing column, or one that is in the header twice.
    """
    if format == PARQUET:
        return _parquet_rows(file, columns, keep, lists)
    if format == "jsonl":
        return _json_rows(file, columns, keep, lists)
    return delimited_rows(file, format, columns, keep=keep)


def delimited_rows(
    file: InputFile,
    format: str,
    columns: Sequence[tuple[str | None, ...]],
    header: Sequence[str] | None = None,
    torn: bool = False,
    keep: Sequence[str] = (),
) -> Iterator[Row]:
    """Yield rows as :func:`table_rows`, of a table.

    Parameters
    ----------
    header : sequence of str, optional
        The names of the columns, of a file without a header.
    torn : bool
        Whether rows may be torn in several lines: then a blank line is a part of a row.
    """
    wanted = [*columns, *((name,) for name in keep)]
    plain = format == "tsv"
    if plain:
        records = _tab_records(file.path)
    else:
        # Where the number of fields is wrong, a quote has probably taken in too much.
        records = _quoted_records(
            file.path,
            _DELIMITERS[format],
            lambda fields: header is None or len(fields) == len(header),
        )
    where = f"{file.path}, line 1"
    indices = [] if header is None else _indices(file, where, header, wanted)
    kept_of = _picker(indices[len(columns) :])
    for line, lines, fields, problem in records:
        if header is None:
            if problem:
                raise UserError(f"{file.path}, line {line}: {problem}")
            if fields:
                header, file.header = fields, lines
                indices = _indices(file, f"{file.path}, line {line}", header, wanted)
                kept_of = _picker(indices[len(columns) :])
            else:
                file.blank += 1
            continue
        if not (fields or problem):
            if len(header) > 1 and not torn:
                file.blank += 1
                continue
            fields = [""]
        values: list[str | None] = []
        kept: Sequence[Any] = ()
        if problem is None:
            missing = len(header) - len(fields)
            if missing:
                problem = _wrong_fields(file, fields, len(header), plain)
                fields = [*fields, *[""] * missing]
            if missing >= 0:
                texts = indices[: len(columns)]
                values = [None if index is None else fields[index] for index in texts]
                kept = kept_of(fields)
            if plain and not missing:
                problem = _plain_problem(file, line, values, len(header))
        yield Row(line, values, problem, lines, False, kept)
    if header is None:
        raise UserError(f"{file.path}, line 1: the file is empty")


def _picker(indices: Sequence[Any]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return a fast function that picks the items with these indices."""
    if len(indices) > 1:
        return itemgetter(*indices)
    return lambda items: [items[index] for index in indices]


def _plain_problem(file: InputFile, line: int, values: list[str | None], width: int) -> str | None:
    """Return what is wrong with a row of unquoted TSV; notes if its quotes seem to be CSV's."""
    if file.looks_quoted is None and any(map(_looks_quoted, values)):
        file.looks_quoted = line
    if width == 1 and "\r" in (values[0] or ""):
        return f"a stray carriage return; {_CARRIAGE_RETURNS}"
    return None


def _wrong_fields(file: InputFile, fields: list[str], width: int, plain: bool) -> str:
    """Return what is wrong with the number of a row's fields."""
    if not plain:
        return f"{len(fields)} fields, but the header has {width}"
    open_quote = any(field.startswith('"') and field.count('"') % 2 for field in fields)
    advice = file.quoted_advice if open_quote else ""
    return f"{len(fields)} tab-separated fields instead of {width}{advice}"


def _looks_quoted(text: str | None) -> bool:
    """Tell whether a text looks as a spreadsheet quotes one that contains quotes."""
    if not text or text[0] != '"' or text[-1] != '"':
        return False
    return '""' in text[1:-1] and '"' not in text[1:-1].replace('""', "")


def _indices(
    file: InputFile, where: str, header: Sequence[str], columns: Sequence[tuple[str | None, ...]]
) -> list[int | None]:
    """Return where the wanted columns are in a header, which is itself ``where``."""
    found: list[int | None] = []
    for choices in columns:
        name = next((name for name in choices if name is None or name in header), "")
        if name is None:
            found.append(None)
            continue
        if name not in choices:
            quoted = any(name[:1] == name[-1:] == '"' for name in header)
            advice = file.quoted_advice if quoted else file.column_advice
            if any("\r" in name for name in header):
                advice = f"; {_CARRIAGE_RETURNS}"
            wanted = " or ".join(map(repr, choices))
            raise UserError(f"{where}: no column {wanted}; columns found: {listed(header)}{advice}")
        if header.count(name) > 1:
            raise UserError(f"{where}: the column {name!r} is there twice")
        found.append(header.index(name))
    return found


# Of a table: its line, how many it takes, the fields (none: it is blank), the problem.
_Record = tuple[int, int, list[str], str | None]


def _tab_records(path: Path) -> Iterator[_Record]:
    """Read TSV as IANA's text/tab-separated-values: one line is one record, quotes are text."""
    for line, text, problem in read_lines(path):
        text = text.rstrip("\r\n")
        yield line, 1, text.split("\t") if text else [], problem


def _quoted_records(
    path: Path, delimiter: str, fits: Callable[[list[str]], bool]
) -> Iterator[_Record]:
    """Read CSV as RFC 4180.

    A record at fault (its quotes do not match, or ``fits`` is False of its fields) costs its first
    line only: reading continues with the next one. Otherwise a stray quote would take all lines up
    to the next quote.
    """
    csv.field_size_limit(LONGEST_LINE)
    lines = _Rereadable(read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.taken = []
        fields: list[str] = []
        mismatch = None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            mismatch = _csv_problem(str(error))
        problems = [(line, problem) for line, _, problem in lines.taken if problem]
        if mismatch or not (problems or fits(fields)):
            lines.put_back()
            problems = problems if lines.taken[0][2] else []
        first = lines.taken[0][0]
        line, problem = problems[0] if problems else (first, mismatch)
        yield line, len(lines.taken), fields, problem


class _Rereadable:
    """Iterates over texts of lines, and can go back to the second of ``taken``."""

    def __init__(self, lines: Iterator[Line]):
        self._lines = lines
        self._again: deque[Line] = deque()
        self.taken: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        return line[1]

    def put_back(self) -> None:
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _csv_problem(reason: str) -> str:
    if "field larger" in reason or "unexpected end" in reason:
        return (
            "a quote opened in this row is never closed, or only after more than "
            f"{LONGEST_LINE:,} characters"
        )
    if "new-line character" in reason:
        return f"a stray carriage return outside quotes; {_CARRIAGE_RETURNS}"
    return f"quotes do not match ({reason})"


def _json_rows(
    file: InputFile,
    columns: Sequence[tuple[str | None, ...]],
    keep: Sequence[str],
    lists: Sequence[str],
) -> Iterator[Row]:
    line = None
    for line, text, problem in read_lines(file.path):
        if problem is None and not text.strip():
            file.blank += 1
            continue
        values: list[str | None] = []
        kept: Sequence[Any] = ()
        if problem is None:
            try:
                content = parse_object(text)
                kept = [content.get(name) for name in keep]
                check_keys(content, keep)
                for name in content.keys() & set(lists):
                    content[name] = _without_list(content[name])
                values = [text_of(content, names, file.column_advice) for names in columns]
            except ValueError as error:
                problem = str(error)
        yield Row(line, values, problem, kept=kept)
    if line is None or line == file.blank:
        raise UserError(f"{file.path}, line 1: the file is empty")


def _parquet_rows(
    file: InputFile,
    columns: Sequence[tuple[str | None, ...]],
    keep: Sequence[str],
    lists: Sequence[str],
) -> Iterator[Row]:
    file.unit = "row"
    with ParquetFile(file.path) as source:
        wanted = [*columns, *((name,) for name in keep)]
        indices = _indices(file, str(file.path), source.names, wanted)
        texts = [None if i is None else source.names[i] for i in indices[: len(columns)]]
        for number, (values, kept, problem) in enumerate(source.rows(texts, keep, lists)):
            yield Row(number, values, problem, kept=kept)


def _without_list(value: object) -> object:
    """Return null as an empty text and a list of texts and numbers as JSON; others as they are."""
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return json.dumps(value)
    return "" if value is None else value


class _Object(dict):
    """A JSON object that remembers which keys it has twice."""

    def __init__(self, pairs: list[tuple[str, object]]):
        super().__init__(pairs)
        self.twice = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def parse_object(text: str) -> dict:
    """Parse a JSON object; raises ValueError if the text is not one."""
    try:
        content = json.loads(text)
        if isinstance(content, dict) and text.count(":") > len(content):
            content = json.loads(text, object_pairs_hook=_Object)  # slower; a key may be repeated
    except (ValueError, RecursionError):
        raise ValueError("not JSON; each line must be a JSON object") from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object; each line must be one")
    return content


def check_keys(content: dict, names: Sequence[str]) -> None:
    """Raise ValueError if a JSON object lacks one of these keys."""
    for name in names:
        if name not in content:
            raise ValueError(f"the object has no {name!r}; it has: {listed(content)}")


def text_of(content: dict, names: Sequence[str | None], advice: str = "") -> str | None:
    """Return the first of these values that a JSON object has, as text.

    None if None is among the names; otherwise raises ValueError, followed by ``advice`` if the
    object has no such key.
    """
    for name in names:
        if name is not None and content.get(name) is not None:
            return _text(content, name)
    if None in names:
        return None
    null = [name for name in names if name in content]
    if null:
        raise ValueError(f"{null[0]!r} is null")
    wanted = " or ".join(map(repr, names))
    raise ValueError(f"the object has no {wanted}; it has: {listed(content)}{advice}")


def _text(content: dict, name: str) -> str:
    value = content[name]
    if isinstance(content, _Object) and name in content.twice:
        raise ValueError(f"{name!r} is in the object twice")
    if isinstance(value, (dict, list)):
        raise ValueError(f"{name!r} is neither text nor a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name!r} is {value}, which is not JSON")
    text = value if isinstance(value, str) else json.dumps(value)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name!r} contains half of a surrogate pair, which is not text")
    return text
