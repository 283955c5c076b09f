"""From files to batches: tasks, reading, token ids, and the order in which batches come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert.errors import UserError
from bert.tokenizer import BERTTokenizer

# Training batches are cut from pieces of this many batches, each sorted by length: large enough
# that a batch has hardly any padding, small enough that epochs differ. transformers' value.
_BATCHES_A_SORTED_PIECE = 50
# A padded length is a multiple of this, so that few distinct shapes have to be allocated.
_LENGTH_MULTIPLE = 8


@dataclass(frozen=True)
class Task:
    """A GLUE task: its columns, its labels in GLUE's order, and its metrics.

    The first metric is the main one, by which the best epoch is chosen.
    """

    name: str
    text_a_column: str
    text_b_column: str | None
    label_column: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]


TASKS = {
    "MRPC": Task("MRPC", "#1 String", "#2 String", "Quality", ("0", "1"), ("accuracy", "f1")),
}


@dataclass
class Examples:
    """The rows of one file, column by column; ``label`` holds indices into the task's labels."""

    text_a: list[str]
    text_b: list[str] | None
    label: np.ndarray  # [examples] int32

    def __len__(self) -> int:
        return len(self.text_a)

    def sample(self, size: int, seed: int) -> Examples:
        """Return ``size`` examples (all, if there are not so many) chosen by the seed, in order."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:size])
        text_b = self.text_b and [self.text_b[i] for i in chosen]
        return Examples([self.text_a[i] for i in chosen], text_b, self.label[chosen])


@dataclass
class TokenizedExamples:
    """Examples as token ids, one after the other in one array (ragged, nothing padded).

    Example i has ``input_ids[offsets[i] : offsets[i + 1]]``, of which the first
    ``first_segment[i]`` are of token type 0.
    """

    input_ids: np.ndarray  # [all tokens] int32
    offsets: np.ndarray  # [examples + 1] int64
    first_segment: np.ndarray  # [examples] int32
    label: np.ndarray  # [examples] int32, or float32 for regression
    max_len: int  # no example has more tokens
    truncated: int  # examples that max_len has cut

    def __len__(self) -> int:
        return len(self.label)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return all that training depends on."""
        return self.input_ids, self.offsets, self.first_segment, self.label


def find_task(name: str) -> Task:
    """Look a task up by name, in any case; UserError lists the tasks there are."""
    for task in TASKS.values():
        if task.name.lower() == name.lower():
            return task
    raise UserError(f"there is no task {name!r}; there are: {', '.join(TASKS)}")


def task_folder(data_dir: str | Path | None, task: Task) -> Path:
    """Return the folder of a task's files below ``data_dir`` (``GLUE_DIR``)."""
    if not data_dir:
        raise UserError(
            "where is the data? Set GLUE_DIR or pass --data_dir: the folder that "
            f"download_glue_data.py has filled, with {task.name}/train.tsv in it"
        )
    folder = Path(data_dir) / task.name
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: run download_glue_data.py --data_dir {data_dir} "
            f"--tasks {task.name}"
        )
    return folder


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end); a byte order mark is dropped."""
    try:
        # Bytes are split before they are decoded: text has line ends (U+2028) that files do not,
        # and an error can then name its line.
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, line.decode().rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}, line {number}: byte {error.start + 1} is not UTF-8 text"
                    ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_glue(path: Path, task: Task) -> Examples:
    """Read a labelled file of a GLUE task: tab-separated, a header, no quoting.

    Raises
    ------
    UserError
        With file and line: no such file, no rows, a column or field missing, a label that the
        task does not have, bytes that are not UTF-8.
    """
    lines = _lines(path)
    _, header_line = next(lines, (0, ""))
    header = header_line.split("\t")
    columns = [task.text_a_column, task.text_b_column, task.label_column]
    for column in columns:
        if column is not None and column not in header:
            raise UserError(
                f"{path}, line 1: {task.name} needs a column {column!r}"
                + (f"; there are: {', '.join(header)}" if header_line else ", the file is empty")
            )
    a, b, label = (None if column is None else header.index(column) for column in columns)
    index_of = {name: index for index, name in enumerate(task.labels)}
    text_a, text_b, labels = [], [], []
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(header):
            raise UserError(
                f"{path}, line {number}: {len(fields)} tab-separated fields where the header has "
                f"{len(header)}"
            )
        if fields[label] not in index_of:
            raise UserError(
                f"{path}, line {number}: {fields[label]!r} is not a label of {task.name} "
                f"({', '.join(task.labels)})"
            )
        text_a.append(fields[a])
        if b is not None:
            text_b.append(fields[b])
        labels.append(index_of[fields[label]])
    if not labels:
        raise UserError(f"{path} has no rows below its header")
    return Examples(text_a, text_b if b is not None else None, np.array(labels, np.int32))


def tokenize(examples: Examples, tokenizer: BERTTokenizer, max_len: int) -> TokenizedExamples:
    """Turn examples into token ids of at most ``max_len`` tokens each."""
    input_ids, first_segment, truncated = tokenizer.encode(
        examples.text_a, examples.text_b, max_len
    )
    offsets = np.zeros(len(input_ids) + 1, np.int64)
    np.cumsum([len(ids) for ids in input_ids], out=offsets[1:])
    return TokenizedExamples(
        np.concatenate(input_ids), offsets, first_segment, examples.label, max_len, truncated
    )


def training_batches(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Cut a shuffled epoch into batches of examples of similar length.

    The order is a function of seed and epoch alone, so a resumed run finds its place in it.

    Parameters
    ----------
    lengths : int array ``[examples]``
    batch_size, seed, epoch : int

    Returns
    -------
    list of int arrays
        Indices of the examples of each batch; every example is in exactly one. Only one batch
        may be short, anywhere in the epoch.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    # At least four pieces, so that small data is shuffled too and not merely sorted.
    batches_a_piece = max(1, min(_BATCHES_A_SORTED_PIECE, len(lengths) // (4 * batch_size)))
    piece = batch_size * batches_a_piece
    batches = []
    for start in range(0, len(order), piece):
        indices = order[start : start + piece]
        indices = indices[np.argsort(lengths[indices], kind="stable")]
        batches += [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut examples into batches by descending length (the largest need is met first)."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def padded_batch(
    examples: TokenizedExamples, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pad B examples to their longest, rounded up to a multiple of 8: L tokens.

    Returns
    -------
    input_ids : int32 array ``[B, L]``, 0 ([PAD]) behind each example's end
    token_types : int32 array ``[B, L]``
    valid_length : int32 array ``[B]``
    """
    starts = examples.offsets[indices]
    valid_length = (examples.offsets[indices + 1] - starts).astype(np.int32)
    length = -(-int(valid_length.max()) // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    length = min(length, examples.max_len)  # there is no position embedding beyond
    position = np.arange(length)
    valid = position < valid_length[:, None]  # [B, L]
    input_ids = np.zeros(valid.shape, np.int32)
    input_ids[valid] = examples.input_ids[(starts[:, None] + position)[valid]]
    token_types = valid & (position >= examples.first_segment[indices, None])
    return input_ids, token_types.astype(np.int32), valid_length


def packed_batch(
    examples: TokenizedExamples, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put B examples of T tokens altogether one after the other, without padding.

    Returns
    -------
    input_ids : int32 array ``[T]``
    token_types : int32 array ``[T]``
    offsets : int32 array ``[B + 1]``: example b has the rows ``offsets[b]`` to ``offsets[b + 1]``
    """
    starts = examples.offsets[indices]
    lengths = examples.offsets[indices + 1] - starts
    offsets = np.zeros(len(indices) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)  # [T]
    input_ids = examples.input_ids[np.repeat(starts, lengths) + position]
    token_types = position >= np.repeat(examples.first_segment[indices], lengths)
    return input_ids, token_types.astype(np.int32), offsets
