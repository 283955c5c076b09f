"""From examples to batches: token ids, splits, and the order in which batches come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bert.tokenizer import BERTTokenizer
from finetuning.data.reading import Examples

# Training batches are cut from pieces of this many batches, each sorted by length: large enough
# that a batch has hardly any padding, small enough that epochs differ. transformers' value.
_BATCHES_A_SORTED_PIECE = 50
# The file of a run's dev examples: what its model is checked on wherever it is exported.
DEV_EXAMPLES = "dev_examples.params"
# A padded length is a multiple of this, so that few distinct shapes have to be allocated.
_LENGTH_MULTIPLE = 8


_ARRAYS = ("input_ids", "offsets", "first_segment", "label", "truncated")


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
    truncated: np.ndarray  # [examples] bool: max_len has cut it

    def __len__(self) -> int:
        return len(self.label)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return all that training depends on."""
        return self.input_ids, self.offsets, self.first_segment, self.label

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all of it by name, for a file; the inverse is :meth:`from_arrays`."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["truncated"] = self.truncated.view(np.uint8)
        return {**arrays, "max_len": np.array([self.max_len], np.int32)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> TokenizedExamples:
        """Make examples of arrays by name.

        Raises
        ------
        ValueError
            One is missing, or they are not those of examples.
        """
        try:
            examples = cls(**{**arrays, "max_len": int(arrays["max_len"][0])})
            lengths, ends = examples.lengths, examples.offsets[[0, -1]].tolist()
        except (KeyError, TypeError, IndexError):
            raise ValueError("it lacks arrays") from None
        if len(lengths) != len(examples) or min(lengths, default=0) < 1:
            raise ValueError("its lengths are not those of examples")
        if ends != [0, len(examples.input_ids)] or len(examples.first_segment) != len(examples):
            raise ValueError("its arrays do not fit each other")
        return examples

    def take(self, indices: np.ndarray) -> TokenizedExamples:
        """Return the examples with these indices, in their order."""
        lengths = self.lengths[indices]
        offsets = np.zeros(len(indices) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        # Position of every token: its example's old start, plus its place in the example.
        moved = np.repeat(self.offsets[indices] - offsets[:-1], lengths)
        return TokenizedExamples(
            self.input_ids[moved + np.arange(offsets[-1])],
            offsets,
            self.first_segment[indices],
            self.label[indices],
            self.max_len,
            self.truncated[indices],
        )


def tokenize(examples: Examples, tokenizer: BERTTokenizer, max_len: int) -> TokenizedExamples:
    """Turn examples into token ids of at most ``max_len`` tokens each."""
    encoded = tokenizer.encode(examples.text_a, examples.text_b, max_len)
    return TokenizedExamples(*encoded[:3], examples.label, max_len, encoded.truncated)


def length_statistics(
    examples: TokenizedExamples, batch_size: int | None = None, seed: int = 0
) -> dict:
    """Count examples by their tokens, and with ``batch_size`` what padding would add.

    Returns
    -------
    dict
        ``examples``, ``tokens``, ``truncated``; ``lengths``: {tokens: examples} in steps of 8,
        each step's upper end; ``padding``: the share of padding if each example were padded to
        ``max_len``, to the longest of a random batch, and to the longest of the batches that
        :func:`training_batches` cuts for the first epoch (the fused operators need none).
    """
    lengths = examples.lengths
    upper, counts = np.unique(-(-lengths // _LENGTH_MULTIPLE), return_counts=True)
    statistics = {
        "examples": len(examples),
        "tokens": int(lengths.sum()),
        "truncated": int(examples.truncated.sum()),
        "lengths": {
            str(n * _LENGTH_MULTIPLE): count
            for n, count in zip(upper.tolist(), counts.tolist(), strict=True)
        },
    }
    if batch_size:
        order = np.random.default_rng(seed).permutation(len(examples))
        shuffled = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        alike = training_batches(lengths, batch_size, seed, epoch=1)
        rows = {
            f"all ({examples.max_len})": len(examples) * examples.max_len,
            "random batches": sum(len(part) * int(lengths[part].max()) for part in shuffled),
            "batches of similar length": sum(len(p) * int(lengths[p].max()) for p in alike),
        }
        tokens = statistics["tokens"]
        statistics["padding"] = {name: 1 - tokens / count for name, count in rows.items()}
    return statistics


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
