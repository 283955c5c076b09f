"""The texts that predict.py reads: the rows of a file, and the lines of standard input."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bert.errors import UserError
from finetuning.data import reading
from finetuning.data.reading import empty_text
from finetuning.data.tables import (
    BadRows,
    Row,
    parse_object,
    read_lines,
    split_lines,
    table_rows,
    text_of,
)
from finetuning.data.tasks import OWN_DATA, Task


class InputRow(NamedTuple):
    """A row to predict, or an unusable one."""

    texts: list[str | None]  # text_a, text_b
    problem: str | None = None  # with its line


def file_rows(path: Path, task: Task, skip_bad_rows: bool) -> Iterator[InputRow]:
    """Yield every row of a file, in order.

    Raises
    ------
    UserError
        The file cannot be read; or a row is unusable, and ``skip_bad_rows`` is False.
    """
    bad = BadRows(inf if skip_bad_rows else 0)
    labelled = _glue_layout(path, task)
    if labelled is None:
        rows = _own_rows(path, task, bad)
    else:
        rows = reading._glue_rows(path, task, bad, labelled)
    for line, values in rows:
        yield from _unusable(bad, before=line)
        yield InputRow(values[:2])
    yield from _unusable(bad)


def _unusable(bad: BadRows, before: int | None = None) -> Iterator[InputRow]:
    found, bad.rows[:] = list(bad.rows), []
    for _, line, problem in found:
        if line != before:  # a row of GLUE that lacked fields, and has got empty ones
            yield InputRow([], f"line {line}: {problem}")


def _own_rows(path: Path, task: Task, bad: BadRows) -> Iterator[Row]:
    b = task.text_b_column
    columns = [_names(task.text_a_column, "text_a"), (None,) if b is None else _names(b, "text_b")]
    for line, values in table_rows(path, columns, bad):
        problem = empty_text(values[0] or "", values[1])
        if problem:
            bad.add(path, line, problem)
        else:
            yield line, values


def _names(trained: str, general: str) -> tuple[str, ...]:
    return (trained,) if trained == general else (trained, general)


def _glue_layout(path: Path, task: Task) -> bool | None:
    """Tell whether a file has the layout of the task's labelled files (True) or of its test files.

    None: neither, or the task is not of GLUE.
    """
    if task.name == OWN_DATA or path.name.removesuffix(".gz")[-4:].lower() != ".tsv":
        return None
    if not path.is_file():
        return None
    _, text, _ = next(read_lines(path), (1, "", None))
    fields = text.rstrip("\r\n").split("\t")
    if {task.text_a_column, task.text_b_column or task.text_a_column} <= set(fields):
        return False
    return True if task.train_header and len(task.train_header) == len(fields) else None


def line_rows(file: BinaryIO, task: Task) -> Iterator[InputRow]:
    """Yield a row for each line of text or JSON object."""
    for line, content, problem in split_lines(file):
        try:
            if problem:
                raise ValueError(problem)
            values = _texts_of(content.rstrip("\r\n"), task)
            if problem := empty_text(values[0] or "", values[1]):
                raise ValueError(problem)
        except ValueError as error:
            yield InputRow([], f"line {line}: {error}")
        else:
            yield InputRow(values)


def _texts_of(line: str, task: Task) -> list[str | None]:
    if line.startswith("{"):
        content = parse_object(line)
        names = [(task.text_a_column, "text_a"), (task.text_b_column, "text_b")]
        return [
            None if trained is None else text_of(content, trained if trained in content else name)
            for trained, name in names
        ]
    pairs = task.text_b_column is not None
    texts = line.split("\t")
    if len(texts) != 1 + pairs and line.strip():
        wanted = "two texts with one tab between them" if pairs else "one text without tabs"
        raise ValueError(f"the model takes {wanted}; there are {len(texts) - 1} tabs")
    return [texts[0], texts[-1] if pairs else None]


def argument_row(text_a: str, text_b: str | None) -> InputRow:
    """Return the row of --text_a and --text_b; UserError if they are not text."""
    for flag, text in (("--text_a", text_a), ("--text_b", text_b or "")):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{flag} is not UTF-8 text") from None
    return InputRow([text_a, text_b])
