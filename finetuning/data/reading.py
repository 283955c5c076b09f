"""From files to examples: those of tasks with a name, and a user's own."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bert.errors import UserError
from dataset import NO_LINE, ORIGIN, Examples, Texts
from finetuning.data.labels import Classes, LabelSets, Numbers, labels_for
from finetuning.data.lines import read_lines
from finetuning.data.rows import BadRows, InputFile, Row
from finetuning.data.tables import delimited_rows, format_of, table_rows
from finetuning.data.tasks import Task, check_labels

_COLUMN_ADVICE = "; --text_a_column, --text_b_column and --label_column name the columns"
_QUOTED_ADVICE = "; if a spreadsheet has quoted the fields, pass --quoted_tsv"


def read_glue(
    path: Path, task: Task, bad: BadRows | None = None, labelled: bool = True
) -> Examples:
    """Read a file of a task with a name: tab-separated, columns found by their names.

    Parameters
    ----------
    path : Path
    task : Task
    bad : BadRows, optional
        What to do with bad rows. QQP's few rows that lack fields are skipped in any case.
    labelled : bool
        Whether this is a training or dev file. Of a test file no row is skipped: each needs a
        prediction, and missing texts are empty.

    Raises
    ------
    UserError
        With file and line: no such file, no rows, a missing column or field, an unknown label,
        bytes that are not UTF-8.
    """
    file = InputFile(path, column_advice=f"; these are not {task.name}'s")
    return _collect(file, glue_rows(file, task, labelled), task, bad or BadRows(), labelled)


def glue_rows(
    file: InputFile, task: Task, labelled: bool, keep: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield the rows of a task's file: text_a, text_b (or None) and, if ``labelled``, the label.

    Test files that have labels need not have them in every row.
    """
    label: tuple[str | None, ...] = task.names_of(task.label_column)
    if not labelled:
        label = (*label, None) if task.labelled_tests else (None,)
    columns = [task.names_of(task.text_a_column), task.names_of(task.text_b_column), label]
    header = task.train_header if labelled or task.labelled_tests else None
    # Such files are passed on with a header and without.
    if header and task.labelled_tests and task.text_a_column in first_fields(file.path):
        header = None
    if task.language:
        columns.append(("language", None))
    for row in delimited_rows(file, "tsv", columns, header, task.malformed_rows > 0, keep):
        if row.values and task.where:
            text_a, text_b, given, *language = row.values
            values = [text_a, text_b, task.label_aliases.get(given or "", given)]
            foreign = language not in ([], [None], [task.language])
            row = row._replace(values=values, foreign=foreign)
        yield row


def first_fields(path: Path) -> list[str]:
    """Return the fields of the first line of a tab-separated file."""
    _, text, _ = next(read_lines(path), (1, "", None))
    return text.rstrip("\r\n").split("\t")


class TornRows:
    """Tells which rows of a file lack fields as some of QQP do, and are not too many."""

    def __init__(self, task: Task):
        self._left = task.malformed_rows

    def tolerates(self, row: Row) -> bool:
        if not (row.problem and row.values):
            return False
        self._left -= 1
        return self._left >= 0


def read_own(path: Path, task: Task, bad: BadRows, labelled: bool = True) -> Examples:
    """Read a user's own file: TSV, CSV, JSON Lines or Parquet, by its extension.

    Parameters
    ----------
    path : Path
    task : Task
        With its columns and labels.
    bad : BadRows
    labelled : bool
        Whether this is a training or dev file. Of a file to predict no row is skipped: the texts
        that a bad row lacks are empty. Its labels are optional, and examples of which one has none
        of the task's labels are without labels.

    Raises
    ------
    UserError
        With file and line: an unknown extension, a missing column, an unusable row or label.
    """
    file = InputFile(path, _COLUMN_ADVICE, _QUOTED_ADVICE)
    return _collect(file, _own_rows(file, task, labelled), task, bad, labelled)


def read_own_training_file(path: Path, task: Task, bad: BadRows) -> tuple[Task, Examples]:
    """Read a user's own training file and its labels; raises as :func:`read_own`.

    Returns
    -------
    task : Task
        With its labels, sorted; of a column per label, in the order of the columns.
    examples : Examples
    """
    file = InputFile(path, _COLUMN_ADVICE, _QUOTED_ADVICE)
    labels = labels_for(task, learn=True)
    assert isinstance(labels, (Classes, LabelSets))
    examples = _collect(file, _own_rows(file, task, labelled=True), task, bad, True, labels)
    _check_variety(path, task, examples.label, list(labels.index))
    return replace(task, labels=task.labels or tuple(sorted(labels.index))), examples


def _check_variety(path: Path, task: Task, label: np.ndarray, names: list[str]) -> None:
    """Raise UserError where all rows of a training file have the same label."""
    if task.multi_label and not label.any():
        raise UserError(
            f"{path}: no row has a label in the column {task.label_column!r}; at least one is "
            "needed"
        )
    if len(names) == 1 and (label.all() or not task.multi_label):
        raise UserError(f"{path}: every row has the label {names[0]!r}; at least two are needed")


def _own_rows(file: InputFile, task: Task, labelled: bool) -> Iterator[Row]:
    labels = [(name,) if labelled else (name, None) for name in task.label_columns]
    columns = [(task.text_a_column,), (task.text_b_column,), *labels]
    lists = task.label_columns if task.multi_label else ()
    return with_texts(table_rows(file, format_of(file.path, task.quoted_tsv), columns, lists=lists))


def with_texts(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield all rows; those with an empty text have a problem."""
    for row in rows:
        problem = row.problem or empty_text(row.values[0], row.values[1])
        yield row._replace(problem=problem) if problem else row


def empty_text(text_a: str | None, text_b: str | None) -> str | None:
    """Return a sentence if one of an example's texts is empty; ``text_b`` may be None."""
    if not (text_a or "").strip():
        return "the text is empty" if text_b is None else "the first text is empty"
    return "the second text is empty" if text_b is not None and not text_b.strip() else None


def _collect(
    file: InputFile,
    rows: Iterable[Row],
    task: Task,
    bad: BadRows,
    labelled: bool,
    learned: Classes | LabelSets | None = None,
) -> Examples:
    """Make examples from rows of text_a, text_b (or None) and the cells of the label (or None).

    ``learned`` collects the labels of a training file; without it, they are those of the task.
    """
    labels: Numbers | Classes | LabelSets = learned or labels_for(task)
    text_a, text_b = Texts(), Texts()
    origin = array("q")
    torn = TornRows(task)
    for number, row in enumerate(rows):
        if row.foreign:
            file.foreign += 1
            continue
        problem, value = row.problem, None
        cells = row.values[2:]
        # Of a training file's bad rows no labels are learned.
        if not (problem and labelled):
            try:
                value = labels.parse(cells or [None])
            except ValueError as error:
                if labelled:
                    problem = str(error)
                else:
                    there = [cell for cell in cells if cell is not None]
                    file.count_unlabelled(row.line, ", ".join(there) if there else None)
        if problem:
            bad.add(file, row, problem, kept=not labelled, tolerated=torn.tolerates(row))
            if labelled:
                file.count_skipped(row)
                continue
        a, b = row.values[:2] if row.values else ("", "")
        text_a.append(a or "")
        if task.text_b_column is not None:
            text_b.append(b or "")
        labels.append(value)
        origin.extend((number, row.line if file.unit == "line" else NO_LINE))
        file.count(row)
    if not text_a:
        raise UserError(f"{file.path} has no usable rows")
    bad.files.append(file)
    if learned:  # before an array of all rows and labels is made
        check_labels(file.path, replace(task, labels=tuple(learned.index)), len(text_a))
    label = labels.array()
    pairs = None if task.text_b_column is None else text_b
    # A column that is empty in all rows to predict is there to be filled.
    blank = task.multi_label and not labelled and not label.any()
    known = file.unlabelled == 0 and not blank
    places = np.frombuffer(origin, ORIGIN)
    return Examples(text_a, pairs, label if known else 0 * label, known, places)
