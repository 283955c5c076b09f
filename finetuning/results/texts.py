"""The texts that predict.py reads: the rows of a file, and the lines of standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bert.errors import UserError
from bert.terminal import say, shown
from finetuning.data.lines import split_lines
from finetuning.data.reading import TornRows, empty_text, first_fields, glue_rows, with_texts
from finetuning.data.rows import InputFile
from finetuning.data.tables import check_keys, format_of, parse_object, table_rows, text_of
from finetuning.data.tasks import OWN_DATA, Task


class InputRow(NamedTuple):
    """A row to predict, or an unusable one."""

    texts: list[str | None]  # text_a, text_b
    problem: str | None = None  # with its line
    kept: Sequence[Any] = ()  # in the columns to keep; () if unreadable


def file_rows(
    path: Path,
    task: Task,
    skip_bad_rows: bool,
    format: str | None = None,
    keep: Sequence[str] = (),
) -> Iterator[InputRow]:
    """Yield every row of a file, in order; at the end, say what else may need attention.

    Parameters
    ----------
    path : Path
    task : Task
    skip_bad_rows : bool
        Whether an unusable row is yielded with its problem.
    format : str, optional
        One of ``tables.FORMATS``, or ``PARQUET``; by default what :func:`input_format` says.
    keep : sequence of str
        Columns whose values are passed on.

    Raises
    ------
    UserError
        The file cannot be read; or a row is unusable, and ``skip_bad_rows`` is False.
    """
    file = InputFile(
        path,
        quoted_advice="; if a spreadsheet has quoted the fields, pass --input_format quoted_tsv",
    )
    torn = TornRows(task)
    format = format or input_format(path, task)
    labelled = _glue_layout(path, task) if format == "tsv" else None
    if labelled is None:
        rows = with_texts(table_rows(file, format, _columns(task), keep))
    else:
        rows = glue_rows(file, task, labelled, keep)
    for row in rows:
        file.count(row)
        if row.problem is None or torn.tolerates(row):
            yield InputRow(list(row.values[:2]), None, row.kept)
        elif skip_bad_rows:
            yield InputRow([], f"{file.unit} {row.line}: {row.problem}", row.kept)
        else:
            raise UserError(f"{file.place(row.line)}: {row.problem}")
    for note in _notes(file):
        say(shown(f"note: {path}: {note}"), sys.stderr)


def input_format(path: Path, task: Task) -> str:
    """Return what a file's ending and the task say of its format; UserError if nothing."""
    advice = "rename it, or name its format with --input_format"
    return format_of(path, task.quoted_tsv, advice)


def _notes(file: InputFile) -> Iterator[str]:
    if file.blank or file.first_of_several:
        yield file.counts()
    if file.looks_quoted:
        yield f"the quotes of line {file.looks_quoted} are read as text{file.quoted_advice}"


def _columns(task: Task) -> list[tuple[str | None, ...]]:
    """Return the possible names of the columns: as in training, or text_a and text_b."""
    trained = (task.text_a_column, task.text_b_column)
    return [
        (name,) if name is None or general in trained else (*task.names_of(name), general)
        for name, general in zip(trained, ("text_a", "text_b"), strict=True)
    ]


def _glue_layout(path: Path, task: Task) -> bool | None:
    """Tell whether a file has the layout of the task's labelled files (True) or of its test files.

    None: neither, or the task is not of GLUE.
    """
    if task.name == OWN_DATA or not path.is_file():
        return None
    fields = first_fields(path)
    columns = filter(None, (task.text_a_column, task.text_b_column))
    if all(set(task.names_of(column)) & set(fields) for column in columns):
        return False
    return True if task.train_header and len(task.train_header) == len(fields) else None


def line_rows(file: BinaryIO, task: Task, keep: Sequence[str] = ()) -> Iterator[InputRow]:
    """Yield a row for each line of text or JSON object, of which some values may be kept."""
    for line, content, problem in split_lines(file):
        kept: Sequence[Any] = ()
        try:
            if problem:
                raise ValueError(problem)
            content = content.rstrip("\r\n")
            if content.startswith("{"):
                values = parse_object(content)
                kept = [values.get(name) for name in keep]
                check_keys(values, keep)
                texts = [text_of(values, names) for names in _columns(task)]
            elif keep:
                raise ValueError("not a JSON object, of which --keep_columns could keep values")
            else:
                texts = _texts_of(content, task)
            if problem := empty_text(texts[0] or "", texts[1]):
                raise ValueError(problem)
        except ValueError as error:
            yield InputRow([], f"line {line}: {error}", kept)
        else:
            yield InputRow(texts, None, kept)


def _texts_of(line: str, task: Task) -> list[str | None]:
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
