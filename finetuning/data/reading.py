"""From rows to examples: GLUE's files, and a user's own."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bert.errors import UserError
from finetuning.data.tables import BadRows, Row, listed, read_lines, table_rows
from finetuning.data.tasks import Task

_LARGEST = float(np.finfo(np.float32).max)


class Texts(Sequence):
    """Strings, kept as UTF-8 in one buffer: a list of ``str`` takes twice the memory."""

    def __init__(self, texts: Iterable[str] = ()):
        self._utf8 = bytearray()
        self._ends = array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self._utf8 += text.encode()
        self._ends.append(len(self._utf8))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._utf8[self._ends[index] : self._ends[index + 1]].decode()


@dataclass
class Examples:
    """The rows of one file, column by column.

    ``label`` holds indices into the task's labels, or the numbers of a regression; where the file
    has no labels it is all 0, and ``labelled`` is False.
    """

    text_a: Sequence[str]
    text_b: Sequence[str] | None
    label: np.ndarray  # [examples] int32, or float32 for regression
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.text_a)

    def take(self, indices: np.ndarray) -> Examples:
        """Return the examples with these indices, in their order."""
        text_a = Texts(self.text_a[i] for i in indices)
        text_b = None if self.text_b is None else Texts(self.text_b[i] for i in indices)
        return Examples(text_a, text_b, self.label[indices], self.labelled)

    def sample(self, size: int, seed: int) -> Examples:
        """Return ``size`` examples (all, if there are not so many) chosen by the seed, in order."""
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:size]))


def read_glue(
    path: Path, task: Task, bad: BadRows | None = None, labelled: bool = True
) -> Examples:
    """Read a file of a GLUE task: tab-separated, nothing quoted, columns by the header's names.

    Parameters
    ----------
    path : Path
    task : Task
    bad : BadRows, optional
        What to do with rows that cannot be used. QQP's few short rows are left out either way;
        in its test file, of which every row needs a prediction, the missing fields are empty.
    labelled : bool
        Whether this is a training or dev file; CoLA's have no header.

    Raises
    ------
    UserError
        With file and line: no such file, no rows, a column or field missing, a label that the
        task does not have, bytes that are not UTF-8.
    """
    bad = bad or BadRows()
    return _collect(path, _glue_rows(path, task, bad, labelled), task, bad)


def _glue_rows(path: Path, task: Task, bad: BadRows, labelled: bool) -> Iterator[Row]:
    columns = [task.text_a_column, task.text_b_column, task.label_column if labelled else None]
    lines = read_lines(path)
    header = task.train_header if labelled else None
    if header is None:
        _, text, problem = next(lines, (1, "", "the file is empty"))
        header = text.rstrip("\r\n").split("\t")
        for column in columns:
            if column is not None and column not in header:
                problem = problem or f"there are: {listed(header)}"
                raise UserError(f"{path}, line 1: {task.name} needs a column {column!r}; {problem}")
    indices = [None if column is None else header.index(column) for column in columns]
    torn = BadRows(task.malformed_rows)
    for line, text, problem in lines:
        fields = text.rstrip("\r\n").split("\t")
        missing = len(header) - len(fields)
        if problem is None and missing:
            problem = f"{len(fields)} tab-separated fields where there should be {len(header)}"
            if missing > 0 and task.malformed_rows:
                torn.add(path, line, problem)
                bad.rows.append(torn.rows[-1])
                if labelled:
                    continue
                fields, problem = fields + [""] * missing, None
        if problem:
            bad.add(path, line, problem)
        else:
            yield line, [None if index is None else fields[index] for index in indices]


def read_own(path: Path, task: Task, bad: BadRows, labelled: bool = True) -> Examples:
    """Read a user's own file: TSV, CSV (both may be quoted) or JSON Lines, by its ending.

    Parameters
    ----------
    path : Path
    task : Task
        With its columns and labels.
    bad : BadRows
    labelled : bool
        Whether the label column must be there; otherwise it may be.

    Raises
    ------
    UserError
        With file and line: an ending, a column, a row or a label that cannot be used.
    """
    return _collect(path, _own_rows(path, task, bad, labelled), task, bad)


def read_own_training_file(path: Path, task: Task, bad: BadRows) -> tuple[Task, Examples]:
    """Read a user's own training file and learn the labels from it; raises as :func:`read_own`.

    Returns
    -------
    task : Task
        With its labels, sorted.
    examples : Examples
    """
    found: dict[str, int] = {}

    def rows():
        for line, values in _own_rows(path, task, bad, labelled=True):
            label = values[2]
            # A label stands in tables and in the headers of files, one to a field.
            if label.strip() and not set("\t\r\n") & set(label):
                found.setdefault(label, len(found))
            yield line, values

    examples = _collect(path, rows(), task, bad, found)
    if len(found) == 1:
        raise UserError(
            f"{path}: every row has the label {next(iter(found))!r}; a classifier needs two"
        )
    labels = sorted(found)
    index = {label: i for i, label in enumerate(labels)}
    renumbered = np.array([index[label] for label in found], np.int32)[examples.label]
    return replace(task, labels=tuple(labels)), replace(examples, label=renumbered)


def _own_rows(path: Path, task: Task, bad: BadRows, labelled: bool) -> Iterator[Row]:
    label = (task.label_column,) if labelled else (task.label_column, None)
    columns = [(task.text_a_column,), (task.text_b_column,), label]
    for line, values in table_rows(path, columns, bad):
        problem = empty_text(values[0], values[1])
        if problem:
            bad.add(path, line, problem)
        else:
            yield line, values


def empty_text(text_a: str, text_b: str | None) -> str | None:
    """Say which of an example's texts is empty, if one is."""
    if not text_a.strip():
        return "the text is empty" if text_b is None else "the first text is empty"
    return "the second text is empty" if text_b is not None and not text_b.strip() else None


def _collect(
    path: Path,
    rows: Iterable[Row],
    task: Task,
    bad: BadRows,
    index_of: dict[str, int] | None = None,
) -> Examples:
    """Make examples of rows of text_a, text_b (or None) and label (or None)."""
    if index_of is None:
        index_of = {label: i for i, label in enumerate(task.labels)}
    text_a, text_b = Texts(), Texts()
    labels = array("f" if task.regression else "i")
    labelled = False
    for line, (a, b, label) in rows:
        value = 0
        if label is not None:
            labelled = True
            value = _finite(label) if task.regression else index_of.get(label)
            if value is None:
                bad.add(path, line, _not_a_label(label, task, index_of))
                continue
        text_a.append(a)
        if b is not None:
            text_b.append(b)
        labels.append(value)
    if not labels:
        raise UserError(f"{path} has no rows that can be used below its header")
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
        return f"the label {label!r} holds a tab or a line end"
    return f"{label!r} is not a label of {task.name}; the labels are: {listed(labels)}"
