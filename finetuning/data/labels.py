"""The labels of a file's rows: classes, numbers or sets of labels, from cells and as text."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bert.files import is_unicode
from finetuning.data.tables import listed
from finetuning.data.tasks import Task

_LARGEST = float(np.finfo(np.float32).max)
# What a column of its own says of a label, in lower case; pandas writes 1.0.
_MARKS = {"0": 0, "0.0": 0, "false": 0, "": 0, "1": 1, "1.0": 1, "true": 1}


def labels_for(task: Task, learn: bool = False) -> Numbers | Classes | LabelSets:
    """Return what reads and collects the labels of a file.

    ``learn``: a training file's labels are those that occur in it, and not yet in ``task``.
    """
    if task.regression:
        return Numbers(task)
    return LabelSets(task, learn) if task.multi_label else Classes(task, learn)


class Numbers:
    """Collects the numbers of a regression."""

    def __init__(self, task: Task):
        self._task = task
        self._values: array[Any] = array("f")

    def parse(self, cells: Sequence[str | None]) -> float:
        """Return a row's value; ValueError, with a sentence, if its cells hold none."""
        text, task = cells[0] or "", self._task
        low, high = task.score_range or (-_LARGEST, _LARGEST)
        try:
            if text.isascii() and "_" not in text:  # float() takes more than what people write
                value = float(text)
                if math.isfinite(value) and low <= value <= high:
                    return value
        except ValueError:
            pass
        among = f" from {low:g} to {high:g}" if task.score_range else ""
        raise ValueError(f"{text!r} in the column {task.label_column!r} is not a number{among}")

    def append(self, value: Any) -> None:
        """Add a row; None: its label is not known."""
        self._values.append(value or 0)

    def array(self) -> np.ndarray:
        """Return the numbers, ``[rows]`` float32."""
        return np.array(self._values, np.float32)


class Classes:
    """Collects classes, one per row. ``index`` numbers the labels."""

    def __init__(self, task: Task, learn: bool):
        self._task = task
        self._learn = learn
        self.index = {label: i for i, label in enumerate(task.labels)}
        self._values: array[Any] = array("i")

    def parse(self, cells: Sequence[str | None]) -> int:
        """Return a row's value; ValueError, with a sentence, if its cell holds no label."""
        label = cells[0] or ""
        number = self.index.get(label)
        if number is None:
            (number,) = _numbers_of([label], self._task, self.index, self._learn)
        return number

    def append(self, value: Any) -> None:
        """Add a row; None: its label is not known."""
        self._values.append(value or 0)

    def array(self) -> np.ndarray:
        """Return the numbers of the labels, ``[rows]`` int32; see :func:`in_order`."""
        return in_order(self.index, np.array(self._values, np.int32), self._learn)


class LabelSets:
    """Collects sets of labels, one per row. ``index`` numbers the labels."""

    def __init__(self, task: Task, learn: bool):
        self._task = task
        self._learn = learn and not task.label_columns[1:]
        self.index = {label: i for i, label in enumerate(task.labels)}
        self._values: array[Any] = array("i")
        self._ends = array("q", [0])

    def parse(self, cells: Sequence[str | None]) -> set[int]:
        """Return the numbers of a row's labels; ValueError, with a sentence, if it has none known.

        An empty cell is the empty set. Several cells are those of a column for each label.
        """
        if None in cells:
            raise ValueError("the label is missing")
        names: list[str] = []
        if len(cells) > 1:
            for name, cell in zip(self._task.label_columns, cells, strict=True):
                mark = _MARKS.get((cell or "").strip().lower())
                if mark is None:
                    raise ValueError(f"the column {name!r} must be 0 or 1, not {cell!r}")
                names += [name] * mark
        else:
            names = split_labels(cells[0] or "", self._task.separator or "")
        return set(_numbers_of(names, self._task, self.index, self._learn))

    def append(self, value: Any) -> None:
        """Add a row; None: its labels are not known."""
        self._values.extend(sorted(value or ()))
        self._ends.append(len(self._values))

    def array(self) -> np.ndarray:
        """Return which labels each row has, ``[rows, labels]`` uint8; see :func:`in_order`."""
        values = in_order(self.index, np.array(self._values, np.int32), self._learn)
        found = np.zeros((len(self._ends) - 1, len(self.index)), np.uint8)
        found[np.repeat(np.arange(len(found)), np.diff(self._ends)), values] = 1
        return found


def in_order(index: dict[str, int], values: np.ndarray, learned: bool) -> np.ndarray:
    """Return numbers of labels as those of the sorted labels, where they were learned."""
    if not learned:
        return values
    sorted_ = {label: i for i, label in enumerate(sorted(index))}
    return np.array([sorted_[label] for label in index], np.int32)[values]


def _numbers_of(labels: list[str], task: Task, index: dict[str, int], learn: bool) -> list[int]:
    """Return the numbers of labels; where they are learned, all of a row or none become known."""
    for label in labels:
        if label in index:
            continue
        if not label.strip():
            raise ValueError("the label is empty")
        if set("\t\r\n") & set(label):  # labels are fields of tables and headers
            raise ValueError(f"the label {label!r} contains a tab or a line break")
        if not learn:
            raise ValueError(
                f"{label!r} is not a label of {task.name}; the labels are: {listed(index)}"
            )
    return [index.setdefault(label, len(index)) for label in labels]


def split_labels(cell: str, separator: str) -> list[str]:
    """Return the labels in a cell: a JSON list, or names with a separator between them.

    Spaces around separated names, and empty names, do not count. Raises ValueError, with a
    sentence, where a list is not one of names.
    """
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return [name.strip() for name in text.split(separator) if name.strip()]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f'the label {cell!r} is not a JSON list, such as ["a", "b"]') from None
    if any(value is None or isinstance(value, (dict, list)) for value in found):
        raise ValueError(f"the list {cell!r} holds other things than labels")
    names = [value if isinstance(value, str) else json.dumps(value) for value in found]
    if not all(map(is_unicode, names)):
        raise ValueError("a label contains half of a surrogate pair, which is not text")
    return names


def join_labels(names: Iterable[str], separator: str) -> str:
    """Return labels as a cell that :func:`split_labels` reads: separated, or as a JSON list."""
    names = list(names)
    text = separator.join(names)
    return (
        text if split_or_none(text, separator) == names else json.dumps(names, ensure_ascii=False)
    )


def split_or_none(text: str, separator: str) -> list[str] | None:
    try:
        return split_labels(text, separator)
    except ValueError:
        return None


def label_text(task: Task, value: Any) -> str:
    """Return an example's label as text.

    Parameters
    ----------
    task : Task
    value : number or array
        The number of a class, 0 or 1 for each label, or the number of a regression.
    """
    if task.regression:
        return f"{value:.9g}"
    if task.multi_label:
        return join_labels((task.labels[i] for i in np.flatnonzero(value)), task.separator or "")
    return task.labels[value]
