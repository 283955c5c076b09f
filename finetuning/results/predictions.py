"""Predictions as text: of a run, for gluebenchmark.com, of predict.py, and what a run prints."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert.errors import UserError
from bert.files import read_text
from bert.prediction import Answer, sigmoid, softmax
from bert.terminal import shown
from dataset import Examples, rows_of
from finetuning.data.labels import join_labels, label_text, labels_for
from finetuning.data.tasks import Task

_DELIMITERS = {"tsv": "\t", "csv": ","}
# Dates and the like, out of Parquet, become text.
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str)
# Of a file of predictions, which is put together in memory: 0.7 GB of text.
_MOST_LOGITS = 5 * 10**7


def delimited(rows: Iterable[Sequence[object]], delimiter: str = "\t") -> str:
    """Return rows as TSV or CSV text; a field is quoted where it has to be.

    A cell that begins like a formula is not changed: the files are data for programs.
    """

    class Joined:  # csv's writer returns what ``write`` does
        write = staticmethod(str)

    # With "\n" alone, Python before 3.13 leaves a "\r" in a field unquoted.
    writer = csv.writer(Joined(), delimiter=delimiter, lineterminator="\r\n")
    return "".join(writer.writerow(row).removesuffix("\r\n") + "\n" for row in rows)


def check_size(examples: int, task: Task, split: str) -> None:
    """Raise UserError before training for a split whose predictions would be too large a file."""
    if examples * task.outputs > _MOST_LOGITS:
        raise UserError(
            f"the {split} split has {examples} examples, and the task {task.outputs} labels: its "
            f"predictions would be over {_MOST_LOGITS:,} logits; use fewer examples there (with "
            "predict.py any number can be predicted after training)"
        )


def predictions_text(
    logits: np.ndarray, label: np.ndarray | None, task: Task, rows: np.ndarray | None = None
) -> str:
    """Return predictions as TSV text, one row per example.

    Columns: index, label (if it is known), prediction, and one logit per label (none for
    a regression, whose prediction is its only output). Several labels are as in training files:
    separated, or a JSON list.

    Parameters
    ----------
    logits : float32 array ``[examples, outputs]``
    label : array ``[examples]``, optional
        Indices into the task's labels, 0 or 1 for each of them, or a regression's true numbers.
    task : Task
    rows : int array ``[examples]``, optional
        The index of each example: the row of its file. Without it they are numbered from 0.
    """

    def lines() -> Iterator[list[str]]:  # one at a time, because they need much memory
        header = ["index", *(["label"] if label is not None else []), "prediction"]
        yield header + [f"logit_{name}" for name in task.labels]
        for i, row in enumerate(logits):
            true = [] if label is None else [label[i]]
            values = [label_text(task, value) for value in (*true, answer(row, task))]
            if not task.regression:
                values += [f"{logit:.9g}" for logit in row]
            yield [str(i if rows is None else rows[i]), *values]

    return delimited(lines())


def answer(logits: np.ndarray, task: Task) -> Any:
    """Return what an example's logits say, as :func:`finetuning.data.labels.label_text` takes it.

    It is the number of the label, or whether each label's probability is at least 0.5, or a number.
    """
    if task.regression:
        return logits[0]
    return logits >= 0 if task.multi_label else logits.argmax()


def read_rows(path: Path) -> Iterator[list[str]]:
    """Yield what :func:`delimited` has written as TSV; UserError if it is no such file."""
    text = read_text(path)
    limit = csv.field_size_limit(len(text))  # as long as a text may be
    try:
        # io.StringIO would have four bytes for a character.
        lines = (found[0] for found in re.finditer("[^\n]*\n|[^\n]+", text))
        yield from csv.reader(lines, delimiter="\t")
    except csv.Error as error:
        raise UserError(f"{path} is damaged: {error}") from None
    finally:
        csv.field_size_limit(limit)


class Predictions(NamedTuple):
    """A run's predictions for its dev split."""

    # [examples] int32: indices into the labels; [examples, labels] uint8; of a regression float64
    label: np.ndarray
    logits: np.ndarray  # [examples, outputs] float32


def read_predictions(path: Path, task: Task, examples: int | None = None) -> Predictions:
    """Read what :func:`predictions_text` has written, with labels, into a run's folder.

    Parameters
    ----------
    path : Path
    task : Task
    examples : int, optional
        How many rows there must be.

    Raises
    ------
    UserError
        The file cannot be read, or its rows are not those of such a task.
    """
    rows = read_rows(path)
    next(rows, None)
    true = labels_for(task)
    first = 2 if task.regression else 3  # a regression's prediction is its only output
    try:
        numbers, outputs = [], []
        with np.errstate(over="ignore"):
            for row in rows:
                if task.regression:
                    numbers.append(float(row[1]))
                else:
                    true.append(true.parse(row[1:2]))
                outputs.append(np.array(row[first:], np.float32))
        label = np.array(numbers) if task.regression else true.array()
        logits = np.array(outputs, np.float32)
        whole = logits.shape == (len(label), task.outputs)
        whole = whole and bool(np.isfinite(logits).all() and np.isfinite(label).all())
    except (ValueError, IndexError):
        whole = False
    if not whole:
        raise UserError(
            f"{path} is damaged, or is not of the model beside it: each row needs an index, a "
            f"label, a prediction{'' if task.regression else f' and {task.outputs} logits'}"
        )
    if examples not in (None, len(label)):
        raise UserError(
            f"{path} has {len(label)} rows, but the dev split has {examples}: they do not belong "
            "to each other"
        )
    return Predictions(label, logits)


def mistakes_text(examples: Examples, logits: np.ndarray, task: Task, most: int = 20) -> str:
    """Return the most confident mistakes (regression: the largest errors) as TSV text.

    Columns: index (the row of its file), label, prediction, probability (regression: error),
    text_a, text_b.
    """
    label = examples.label
    if task.regression:
        predicted = logits[:, 0].astype(np.float64)
        size = np.abs(predicted - label.astype(np.float64))
        wrong = size > 0
    else:
        predicted, size = _confidence(logits, task)
        wrong = differ(predicted, label)
    measure = "error" if task.regression else "probability"
    rows: list[list[object]] = [["index", "label", "prediction", measure, "text_a", "text_b"]]
    numbers = rows_of(examples)
    descending = np.argsort(-size, kind="stable")
    for index in descending[wrong[descending]][:most]:
        pair = (label[index], predicted[index])
        shown = [f"{x:.6g}" if task.regression else label_text(task, x) for x in pair]
        texts = [text[index] if text else "" for text in (examples.text_a, examples.text_b)]
        rows.append([numbers[index], *shown, f"{size[index]:.6g}", *texts])
    return delimited(rows)


def _confidence(logits: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted label of each example, and its probability.

    Of several labels it is the product of the probabilities of all decisions.
    """
    if task.multi_label:
        return logits >= 0, sigmoid(np.abs(logits.astype(np.float64))).prod(axis=1)
    probability = softmax(logits.astype(np.float64))
    return probability.argmax(axis=1), probability.max(axis=1)


def differ(predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Tell of each example whether its prediction is not its label; bool ``[examples]``."""
    different = predicted != label
    return different.any(axis=1) if different.ndim == 2 else different


def confident_text(examples: Examples, logits: np.ndarray, task: Task, most: int = 2) -> str:
    """Return a classifier's most confident predictions, correct ones first, to be printed."""
    predicted, probability = _confidence(logits, task)
    descending = np.argsort(-probability, kind="stable")
    correct = ~differ(predicted, examples.label)[descending]
    none = "(no label)"
    lines = ["most confident dev predictions, correct and incorrect"]
    for index in [*descending[correct][:most], *descending[~correct][:most]]:
        texts = [text[index] for text in (examples.text_a, examples.text_b) if text]
        lines.append(
            shown(
                f"  {task.label_column} {label_text(task, examples.label[index]) or none}, "
                f"predicted {label_text(task, predicted[index]) or none} "
                f"({probability[index]:.1%}): {' | '.join(texts)}"
            )
        )
    return "\n".join(lines)


def submission_text(logits: np.ndarray, task: Task) -> str:
    """Return predictions in gluebenchmark.com's format: columns ``index`` and ``prediction``."""
    if task.regression:
        low, high = task.score_range or (-np.inf, np.inf)
        predictions = [f"{score:.4f}" for score in logits[:, 0].clip(low, high)]
    else:
        predictions = [task.labels[i] for i in logits.argmax(axis=1)]
    lines = ["index\tprediction", *(f"{i}\t{value}" for i, value in enumerate(predictions))]
    return "\n".join(lines) + "\n"


class OutputFormat:
    """How predictions become bytes.

    Parameters
    ----------
    format : str
        ``jsonl``, ``tsv`` or ``csv``; ``parquet`` is :class:`~.parquet_output.ParquetFormat`.
    task : Task
    errors : bool
        Whether a row may have an error instead of a prediction; a table has a column for it.
    terminal : bool
        Whether it is shown on a terminal, which labels must not control.
    keep : sequence of str
        Columns of the input that are written, too.
    top_k : int, optional
        How many of the labels get their probabilities, the most probable ones.

    Raises
    ------
    UserError
        A column to keep has the name of another column of the output.
    """

    def __init__(
        self,
        format: str,
        task: Task,
        errors: bool,
        terminal: bool = False,
        keep: Sequence[str] = (),
        top_k: int | None = None,
    ):
        self._terminal = terminal
        self._delimiter = _DELIMITERS.get(format)
        self._labels = task.labels
        self._separator = task.separator
        self._errors = errors
        self._keep, self._top_k = keep, top_k
        names = ["score"] if task.regression else ["labels" if task.multi_label else "label"]
        names += [f"probability_{label}" for label in task.labels]
        self._width = len(names)
        columns = ["index", *keep, *names, *(["error"] if errors else [])]
        # Of a table; the keys of a JSON object depend on the row.
        self.columns = [] if format == "jsonl" else columns
        own = {"index", "error", *names, *(["probabilities"] if format == "jsonl" else [])}
        for name in keep:
            if name in own:
                raise UserError(
                    f"--keep_columns {name}: the output has a column {name!r} of its own; rename "
                    "that of the input"
                )
        self.header = self._table([self.columns]) if self._delimiter else b""

    def encode(
        self, answers: Sequence[Answer | str], first: int, kept: Sequence[Sequence] = ()
    ) -> bytes:
        """Encode answers (see :mod:`bert.prediction`) and errors, from an index on.

        ``kept`` has the values of the columns to keep of each row, or nothing for a row that cannot
        be read.
        """
        if self._delimiter:
            return self._table(self._rows(answers, first, kept))
        return b"".join(self._json(*row) for row in _numbered(answers, first, kept))

    def end(self) -> bytes:
        """Return what comes after the last row."""
        return b""

    def _rows(
        self, answers: Sequence[Answer | str], first: int, kept: Sequence[Sequence]
    ) -> list[list]:
        """Return the rows of a table, with None for what is missing."""
        return [self._fields(*row) for row in _numbered(answers, first, kept)]

    def _probabilities(self, answer: Answer) -> dict[str, float]:
        found = answer["probabilities"]
        if self._top_k is None or self._top_k >= len(found):
            return found
        return dict(nlargest(self._top_k, found.items(), key=itemgetter(1)))

    def _fields(self, index: int, kept: Sequence, answer: Answer | str) -> list:
        row = [index, *(self._kept(kept) if kept else [None] * len(self._keep))]
        if isinstance(answer, str):
            return [*row, *[None] * self._width, self._error(answer)]
        if self._labels:
            found = self._probabilities(answer)
            labels = answer["label"] if self._separator is None else self._joined(answer)
            row += [labels, *map(found.get, self._labels)]
        else:
            row.append(answer["score"])
        return [*row, None] if self._errors else row

    # What a table of another kind has differently.
    def _kept(self, values: Sequence) -> list:
        return [value if isinstance(value, str) else cell(value) for value in values]

    def _joined(self, answer: Answer) -> Any:
        return join_labels(answer["labels"], self._separator or "")

    def _error(self, problem: str) -> str | None:
        return problem

    def _table(self, rows: list[list]) -> bytes:
        text = delimited(rows, self._delimiter or "")
        text = shown(text, 10 * len(text), keep="\n\t") if self._terminal else text
        return text.encode(errors="backslashreplace")  # half of a surrogate pair, out of JSON

    def _json(self, index: int, kept: Sequence, answer: Answer | str) -> bytes:
        content: dict[str, object] = {"index": index}
        if self._keep:
            content.update(zip(self._keep, kept or repeat(None), strict=False))
        if isinstance(answer, str):
            content["error"] = answer
        else:
            content.update(answer)
            if self._top_k is not None and self._labels:
                content["probabilities"] = self._probabilities(answer)
        try:
            line = _JSON.encode(content)
        except ValueError:  # NaN or infinity, which JSON does not have
            content = {key: _finite(value) for key, value in content.items()}
            line = json.dumps(content, ensure_ascii=False, default=str)
        # Escapes mean the same, and cannot control a terminal.
        return ((line if line.isprintable() else json.dumps(content, default=str)) + "\n").encode()

    def is_complete(self, row: bytes) -> bool:
        """Tell whether lines are a complete row: a column that is kept may have line breaks."""
        return row.endswith(b"\n") and not (self._delimiter and row.count(b'"') % 2)

    def index(self, line: bytes) -> int | None:
        """Return the index of a row; None if it is not a row in this format."""
        try:
            if self._delimiter:
                return int(line.split(self._delimiter.encode())[0])
            return json.loads(line)["index"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


def _numbered(
    answers: Sequence[Answer | str], first: int, kept: Sequence[Sequence]
) -> Iterator[tuple[int, Sequence, Answer | str]]:
    numbers = range(first, first + len(answers))
    return zip(numbers, kept or [()] * len(answers), answers, strict=True)


def cell(value: object) -> str:
    """Return a value of a JSON object, or of Parquet, as a cell of a table."""
    if value is None or isinstance(value, str):
        return value or ""
    plain = isinstance(value, (bool, int, float, list, tuple, dict))
    return json.dumps(value, ensure_ascii=False, default=str) if plain else str(value)


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
