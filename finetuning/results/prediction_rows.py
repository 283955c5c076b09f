"""The rows that predict.py writes, in JSON Lines, TSV or CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence

from finetuning.data.tasks import Task
from finetuning.results.predictions import delimited

_DELIMITERS = {"tsv": "\t", "csv": ","}


class OutputFormat:
    """How predictions become bytes.

    Parameters
    ----------
    format : str
        ``jsonl``, ``tsv`` or ``csv``.
    task : Task
    errors : bool
        Whether a row may have an error instead of a prediction; a table has a column for it.
    """

    def __init__(self, format: str, task: Task, errors: bool):
        self._delimiter = _DELIMITERS.get(format)
        self._labels = task.labels
        self._errors = errors
        names = ["score"] if task.regression else ["label"]
        names += [f"probability_{label}" for label in task.labels]
        self._width = len(names)
        # Of a table; the keys of a JSON object depend on the row.
        self.columns = ["index", *names, *(["error"] if errors else [])] if self._delimiter else []
        self.header = self._table([self.columns]) if self._delimiter else b""

    def encode(self, answers: Sequence[list | str], first: int) -> bytes:
        """Encode predictions (label and probabilities, or a score) and errors, from an index on."""
        numbered = enumerate(answers, first)
        if self._delimiter:
            return self._table([self._fields(index, answer) for index, answer in numbered])
        return b"".join(self._json(index, answer) for index, answer in numbered)

    def _fields(self, index: int, answer: list | str) -> list:
        if isinstance(answer, str):
            return [index, *[""] * self._width, answer]
        return [index, *answer, *([""] if self._errors else [])]

    def _table(self, rows: list[list]) -> bytes:
        return delimited(rows, self._delimiter or "").encode()

    def _json(self, index: int, answer: list | str) -> bytes:
        content: dict[str, object] = {"index": index}
        if isinstance(answer, str):
            content["error"] = answer
        elif self._labels:
            label, *probabilities = answer
            content["label"] = label
            content["probabilities"] = dict(zip(self._labels, probabilities, strict=True))
        else:
            (content["score"],) = answer
        return (json.dumps(content, ensure_ascii=False) + "\n").encode()

    def index(self, line: bytes) -> int | None:
        """Return the index of a row; None if the line is not a row in this format."""
        try:
            if self._delimiter:
                return int(line.split(self._delimiter.encode())[0])
            return json.loads(line)["index"]
        except (ValueError, KeyError, TypeError):
            return None
