"""The output of predict.py as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bert.errors import UserError
from bert.prediction import Answer
from finetuning.data.parquet import load_pyarrow
from finetuning.data.tables import PARQUET
from finetuning.data.tasks import Task
from finetuning.results.predictions import OutputFormat, cell

# Rows that are compressed together, unless they have so many bytes before: they stay in memory.
_ROW_GROUP, _ROW_GROUP_BYTES = 1 << 16, 64 << 20


class ParquetFormat(OutputFormat):
    """How predictions become the bytes of a Parquet file, with the columns of a table.

    Parameters
    ----------
    task, errors, keep, top_k
        As of :class:`OutputFormat`.
    types : mapping of str to pyarrow.DataType
        Of the columns to keep; values of others become text.

    Raises
    ------
    UserError
        pyarrow is missing, or a column to keep has the name of another column of the output.
    """

    def __init__(
        self,
        task: Task,
        errors: bool,
        keep: Sequence[str] = (),
        top_k: int | None = None,
        types: Mapping[str, Any] | None = None,
    ):
        super().__init__(PARQUET, task, errors, keep=keep, top_k=top_k)
        self._pa = pa = load_pyarrow("--format parquet")
        self._types = types or {}
        known = {
            "index": pa.int64(),
            "label": pa.string(),
            "labels": pa.list_(pa.string()),
            "error": pa.string(),
            **{name: self._types.get(name, pa.string()) for name in keep},
        }
        # The rest are the score and the probabilities.
        fields = [(name, known.get(name, pa.float64())) for name in self.columns]
        self._schema = pa.schema(fields)
        self._sink = _Sink()
        self._writer = pa.parquet.ParquetWriter(self._sink, self._schema)
        self._batches: list = []

    def encode(
        self, answers: Sequence[Answer | str], first: int, kept: Sequence[Sequence] = ()
    ) -> bytes:
        """Encode answers as :meth:`OutputFormat.encode`; returns what can be written already."""
        columns = zip(*self._rows(answers, first, kept), strict=True)
        arrays = [
            self._pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._batches.append(self._pa.record_batch(arrays, schema=self._schema))
        rows = sum(batch.num_rows for batch in self._batches)
        if rows >= _ROW_GROUP or sum(b.nbytes for b in self._batches) >= _ROW_GROUP_BYTES:
            self._write_group()
        return self._sink.take()

    def end(self) -> bytes:
        """Return the last rows and the footer, without which the file cannot be read."""
        self._write_group()
        self._writer.close()
        return self._sink.take()

    def _write_group(self) -> None:
        if self._batches:
            self._writer.write_table(self._pa.Table.from_batches(self._batches))
            self._batches = []

    def _kept(self, values: Sequence) -> list:
        pairs = zip(self._keep, values, strict=True)
        return [value if name in self._types else _text(value) for name, value in pairs]

    def _joined(self, answer: Answer) -> list[str]:
        return answer["labels"]

    def _error(self, problem: str) -> str | None:
        return _text(problem)


def refuse_bytes(types: Mapping[str, Any]) -> None:
    """Raise UserError if a column of these types, which is kept in text, holds bytes."""
    for name, kind in types.items():
        if "binary" in str(kind):
            raise UserError(
                f"--keep_columns {name}: the column holds bytes ({kind}), which only a Parquet "
                "output can keep"
            )


def _text(value: object) -> str | None:
    # Half of a surrogate pair, out of JSON, is no text.
    return None if value is None else cell(value).encode(errors="backslashreplace").decode()


class _Sink:
    """A file for pyarrow, whose bytes are taken away."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        self._position += len(part)
        return len(part)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        found = b"".join(self._parts)
        self._parts = []
        return found
