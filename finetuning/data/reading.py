"""From files to examples: GLUE's files, and a user's own."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bert.errors import UserError
from dataset import Examples, Texts
from finetuning.data.tables import BadRows, NoColumnError, Row, listed, read_lines, table_rows
from finetuning.data.tasks import Task

_LARGEST = float(np.finfo(np.float32).max)


def read_glue(
    path: Path, task: Task, bad: BadRows | None = None, labelled: bool = True
) -> Examples:
    """Read a file of a GLUE task: tab-separated without quoting, columns found by their names.

    Parameters
    ----------
    path : Path
    task : Task
    bad : BadRows, optional
        What to do with unusable rows. QQP's few rows that lack fields are skipped in any case;
        in its test file, which needs a prediction for every row, the missing fields are empty.
    labelled : bool
        Whether this is a training or dev file.

    Raises
    ------
    UserError
        With file and line: no such file, no rows, a missing column or field, an unknown label,
        bytes that are not UTF-8.
    """
    bad = bad or BadRows()
    return _collect(path, _glue_rows(path, task, bad, labelled), task, bad)


def _glue_rows(path: Path, task: Task, bad: BadRows, labelled: bool) -> Iterator[Row]:
    columns = [task.text_a_column, task.text_b_column, task.label_column if labelled else None]
    lines = read_lines(path)
    header = task.train_header if labelled else None
    if header is None:
        _, text, problem = next(lines, (1, "", "the file is empty"))
        header = tuple(text.rstrip("\r\n").split("\t"))
        for column in columns:
            if column is not None and column not in header:
                problem = problem or f"columns found: {listed(header)}"
                raise UserError(f"{path}, line 1: no column {column!r} of {task.name}; {problem}")
    indices = [None if column is None else header.index(column) for column in columns]
    malformed = BadRows(task.malformed_rows)
    for line, text, problem in lines:
        fields = text.rstrip("\r\n").split("\t")
        missing = len(header) - len(fields)
        if problem is None and missing:
            problem = f"{len(fields)} tab-separated fields instead of {len(header)}"
            if missing > 0 and task.malformed_rows:
                malformed.add(path, line, problem)
                bad.rows.append(malformed.rows[-1])
                if labelled:
                    continue
                fields, problem = fields + [""] * missing, None
        if problem:
            bad.add(path, line, problem)
        else:
            yield line, [None if index is None else fields[index] for index in indices]


def read_own(path: Path, task: Task, bad: BadRows, labelled: bool = True) -> Examples:
    """Read a user's own file: TSV, CSV (both may be quoted) or JSON Lines, by its extension.

    Parameters
    ----------
    path : Path
    task : Task
        With its columns and labels.
    bad : BadRows
    labelled : bool
        Whether the label column is required; otherwise it is optional.

    Raises
    ------
    UserError
        With file and line: an unknown extension, a missing column, an unusable row or label.
    """
    return _collect(path, _own_rows(path, task, bad, labelled), task, bad)


def read_own_training_file(path: Path, task: Task, bad: BadRows) -> tuple[Task, Examples]:
    """Read a user's own training file and its labels; raises as :func:`read_own`.

    Returns
    -------
    task : Task
        With its labels, sorted.
    examples : Examples
    """
    found: dict[str, int] = {}

    def rows() -> Iterator[Row]:
        for line, values in _own_rows(path, task, bad, labelled=True):
            label = values[2]
            # Labels are fields of tables and headers.
            if label is not None and label.strip() and not set("\t\r\n") & set(label):
                found.setdefault(label, len(found))
            yield line, values

    examples = _collect(path, rows(), task, bad, found)
    if len(found) == 1:
        raise UserError(
            f"{path}: every row has the label {next(iter(found))!r}; at least two are needed"
        )
    labels = sorted(found)
    index = {label: i for i, label in enumerate(labels)}
    renumbered = np.array([index[label] for label in found], np.int32)[examples.label]
    return replace(task, labels=tuple(labels)), replace(examples, label=renumbered)


def _own_rows(path: Path, task: Task, bad: BadRows, labelled: bool) -> Iterator[Row]:
    label = (task.label_column,) if labelled else (task.label_column, None)
    columns = [(task.text_a_column,), (task.text_b_column,), label]
    try:
        for line, values in table_rows(path, columns, bad):
            if problem := empty_text(values[0], values[1]):
                bad.add(path, line, problem)
            else:
                yield line, values
    except NoColumnError as error:
        flags = "--text_a_column, --text_b_column and --label_column name the columns"
        raise UserError(f"{error}; {flags}") from None


def empty_text(text_a: str | None, text_b: str | None) -> str | None:
    """Return a sentence if one of an example's texts is empty; ``text_b`` may be None."""
    if not (text_a or "").strip():
        return "the text is empty" if text_b is None else "the first text is empty"
    return "the second text is empty" if text_b is not None and not text_b.strip() else None


def _collect(
    path: Path,
    rows: Iterable[Row],
    task: Task,
    bad: BadRows,
    index_of: dict[str, int] | None = None,
) -> Examples:
    """Make examples from rows of text_a, text_b (or None) and label (or None)."""
    if index_of is None:
        index_of = {label: i for i, label in enumerate(task.labels)}
    text_a, text_b = Texts(), Texts()
    labels: array[Any] = array("f" if task.regression else "i")
    labelled = False
    for line, (a, b, label) in rows:
        value: float | None = 0
        if label is not None:
            labelled = True
            value = _finite(label) if task.regression else index_of.get(label)
            if value is None:
                bad.add(path, line, _not_a_label(label, task, index_of))
                continue
        text_a.append(a or "")
        if b is not None:
            text_b.append(b)
        labels.append(value)
    if not labels:
        raise UserError(f"{path} has no usable rows")
    dtype = np.float32 if task.regression else np.int32
    return Examples(text_a, text_b if len(text_b) else None, np.array(labels, dtype), labelled)


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= _LARGEST else None


def _not_a_label(label: str, task: Task, labels: Iterable[str]) -> str:
    if task.regression:
        return f"{label!r} in the column {task.label_column!r} is not a number"
    if not label.strip():
        return "the label is empty"
    if set("\t\r\n") & set(label):
        return f"the label {label!r} contains a tab or a line break"
    return f"{label!r} is not a label of {task.name}; the labels are: {listed(labels)}"
