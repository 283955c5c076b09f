"""From texts to batches: examples, their token ids, and the order of the batches."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bert.run_config import HEAD
from bert.tokenizer import BERTTokenizer

if TYPE_CHECKING:
    from bert.frozen import Kept
    from bert.inference import Inference

# The file with a run's dev examples, on which every export of its model is checked.
DEV_EXAMPLES = "dev_examples.params"
# A padded length is a multiple of this, so that few distinct shapes have to be allocated.
_LENGTH_MULTIPLE = 8


# Where an example comes from: the row of its file, from 0, and the line where it begins, from 1.
ORIGIN = np.dtype([("row", np.int64), ("line", np.int64)])
NO_LINE = -1  # the line of a row of a file without lines


class Texts(Sequence):
    """A sequence of strings in one UTF-8 buffer, with half the memory of a list of ``str``."""

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
            return [self._text(i) for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._text(index)

    def _text(self, index: int) -> str:
        return self._utf8[self._ends[index] : self._ends[index + 1]].decode()


@dataclass
class Examples:
    """The rows of one file, column by column.

    ``label`` holds indices into the task's labels, 0 or 1 for each label where an example may have
    several, or the numbers of a regression. Without labels in the file it is all 0, and
    ``labelled`` is False.
    """

    text_a: Sequence[str]
    text_b: Sequence[str] | None
    label: np.ndarray  # [examples] int32; [examples, labels] uint8; float32 for regression
    labelled: bool = True
    origin: np.ndarray | None = None  # [examples] ORIGIN; None: unknown

    def __len__(self) -> int:
        return len(self.text_a)

    def take(self, indices: np.ndarray) -> Examples:
        """Return the examples with these indices, in their order."""
        text_a = Texts(self.text_a[i] for i in indices)
        text_b = None if self.text_b is None else Texts(self.text_b[i] for i in indices)
        origin = None if self.origin is None else self.origin[indices]
        return Examples(text_a, text_b, self.label[indices], self.labelled, origin)

    def swap(self, chosen: np.ndarray) -> Examples:
        """Return the pairs, those of ``chosen`` (bool ``[examples]``) with their texts swapped."""
        assert self.text_b is not None
        texts = (self.text_a, self.text_b)
        text_a, text_b = (
            Texts(texts[other ^ own][i] for i, other in enumerate(chosen)) for own in (0, 1)
        )
        return replace(self, text_a=text_a, text_b=text_b)

    def sample(self, size: int, seed: int) -> Examples:
        """Return ``size`` examples (or all, if there are fewer) drawn by the seed, in order."""
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:size]))


_ARRAYS = ("input_ids", "offsets", "first_segment", "label", "truncated")
# In a file.
_TYPES = {
    "input_ids": (np.int32,),
    "offsets": (np.int64,),
    "first_segment": (np.int32,),
    "label": (np.int32, np.float32, np.uint8),
    "truncated": (np.uint8,),
    "max_len": (np.int32,),
}
_OPTIONAL = {"windows": (np.int64,)}


@dataclass
class TokenizedExamples:
    """Examples as token ids, concatenated in one array without padding.

    An example is one window of tokens, or several where it is too long and is not cut. Window w has
    ``input_ids[offsets[w] : offsets[w + 1]]``, of which the first ``first_segment[w]`` are of token
    type 0. Batches consist of windows.
    """

    input_ids: np.ndarray  # [all tokens] int32
    offsets: np.ndarray  # [windows + 1] int64
    first_segment: np.ndarray  # [windows] int32
    label: np.ndarray  # [examples] int32; [examples, labels] uint8; float32 for regression
    max_len: int  # no window has more tokens
    truncated: np.ndarray  # [examples] bool: some tokens are in no window
    origin: np.ndarray | None = None  # [examples] ORIGIN; None: unknown; not saved
    # [examples + 1] int64: example i has windows[i] to windows[i + 1]; None: each has one
    windows: np.ndarray | None = None
    # [examples, 2] int64: tokens in a window, tokens in all; None: unknown; not saved
    seen: np.ndarray | None = None
    # the same pairs to train on in turn: half of them with their texts in the other order, then the
    # other half; (): train on these; not saved
    turns: tuple[TokenizedExamples, ...] = ()
    kept: Kept | None = field(
        default=None, init=False
    )  # what a frozen part gives for them; not saved

    def __len__(self) -> int:
        return len(self.label)

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each window: int64 ``[windows]``."""
        return np.diff(self.offsets)

    @cached_property
    def apart(self) -> TokenizedExamples:
        """The windows as examples of their own, each with its example's label: to train on."""
        if self.windows is None:
            return self
        example = np.repeat(np.arange(len(self)), np.diff(self.windows))
        return TokenizedExamples(
            self.input_ids,
            self.offsets,
            self.first_segment,
            self.label[example],
            self.max_len,
            self.truncated[example],
            None if self.origin is None else self.origin[example],
            turns=tuple(turn.apart for turn in self.turns),
        )

    def of_epoch(self, epoch: int) -> TokenizedExamples:
        """Return what an epoch trains on."""
        return self.turns[epoch % len(self.turns)] if self.turns else self

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return the arrays that decide what a training learns."""
        found = [self.input_ids, self.offsets, self.first_segment, self.label]
        if self.windows is not None:
            found.append(self.windows)
        return (*found, *(array for turn in self.turns for array in turn.arrays()))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, for a file; :meth:`from_arrays` is the inverse."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["truncated"] = self.truncated.view(np.uint8)
        if self.windows is not None:
            arrays["windows"] = self.windows
        return {**arrays, "max_len": np.array([self.max_len], np.int32)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> TokenizedExamples:
        """Return the examples that these arrays are.

        Raises
        ------
        ValueError
            An array is missing or unknown, or they do not fit together.
        """
        types = _TYPES | _OPTIONAL
        if not _TYPES.keys() <= arrays.keys() <= types.keys():
            raise ValueError("arrays are missing or unknown")
        for name, found in arrays.items():
            dimensions = 2 if name == "label" and found.dtype == np.uint8 else 1
            if found.dtype not in types[name] or found.ndim != dimensions:
                raise ValueError(f"{name} has the wrong type or shape")
        if len(arrays["max_len"]) != 1:
            raise ValueError("max_len is not one number")
        max_len = int(arrays["max_len"][0])
        windows = arrays.get("windows")
        required: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        examples = cls(max_len=max_len, windows=windows, **required)
        lengths, first = examples.lengths, examples.first_segment
        bounds = np.arange(len(examples) + 1) if windows is None else windows
        if not len(bounds) - 1 == len(examples) == len(examples.truncated) > 0:
            raise ValueError("the arrays do not fit together")
        if not len(lengths) == len(first) == bounds[-1] or bounds[0] != 0:
            raise ValueError("the arrays do not fit together")
        if not (bounds[1:] > bounds[:-1]).all():
            raise ValueError("an example has no window")
        if examples.offsets[0] != 0 or examples.offsets[-1] != len(examples.input_ids):
            raise ValueError("the offsets do not fit the tokens")
        if lengths.min() < 1 or lengths.max() > max_len:
            raise ValueError("the lengths do not fit the examples")
        if first.min() < 0 or (first > lengths).any():
            raise ValueError("the segments do not fit the lengths")
        if not np.isfinite(examples.label).all():
            raise ValueError("a label is not finite")
        return examples

    def tokens_of(self, indices: np.ndarray) -> np.ndarray:
        """Return where in ``input_ids`` the tokens of these windows are: int64 ``[T]``."""
        return _members(self.offsets, indices)

    def take(self, indices: np.ndarray) -> TokenizedExamples:
        """Return the examples with these indices, in their order."""
        chosen, windows = indices, None
        if self.windows is not None:
            chosen = _members(self.windows, indices)
            windows = _bounds(np.diff(self.windows)[indices])
        return TokenizedExamples(
            self.input_ids[self.tokens_of(chosen)],
            _bounds(self.lengths[chosen]),
            self.first_segment[chosen],
            self.label[indices],
            self.max_len,
            self.truncated[indices],
            None if self.origin is None else self.origin[indices],
            windows,
            None if self.seen is None else self.seen[indices],
            tuple(turn.take(indices) for turn in self.turns),
        )


def _bounds(sizes: np.ndarray) -> np.ndarray:
    """Return where groups of these sizes begin and end, one after the other: int64 [groups + 1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _members(bounds: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the members of groups, one after the other, of which g has bounds[g : g + 1]."""
    starts = bounds[groups]
    sizes = bounds[groups + 1] - starts
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())


def tokenize(
    examples: Examples,
    tokenizer: BERTTokenizer,
    max_len: int,
    long_text: str = HEAD,
    swap_pairs: bool = False,
) -> TokenizedExamples:
    """Turn examples into token ids, in windows of at most ``max_len`` tokens.

    ``long_text``: what becomes of a longer example, see :func:`bert.encoding.cut`.
    ``swap_pairs``: also make the ``turns`` of pairs.
    """
    turns: tuple[TokenizedExamples, ...] = ()
    if swap_pairs:
        # Half of them: every epoch has both orders. Drawn: in a file, labels may alternate.
        swapped = np.random.default_rng(0).random(len(examples)) < 0.5
        turns = tuple(
            tokenize(examples.swap(chosen), tokenizer, max_len, long_text)
            for chosen in (swapped, ~swapped)
        )
    encoded = tokenizer.encode(examples.text_a, examples.text_b, max_len, long_text)
    return TokenizedExamples(
        *encoded[:3],
        examples.label,
        max_len,
        encoded.truncated,
        examples.origin,
        encoded.windows,
        encoded.seen,
        turns,
    )


def rows_of(examples: Examples | TokenizedExamples) -> np.ndarray:
    """Return the row of its file of each example, from 0: int64 ``[examples]``."""
    return np.arange(len(examples)) if examples.origin is None else examples.origin["row"]


def length_statistics(
    examples: TokenizedExamples, batch_size: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Count examples by length, and with ``batch_size`` the padding that batches would have.

    Returns
    -------
    dict
        ``examples``, ``tokens``, ``truncated``: counts; ``lengths``: {tokens: windows}, in steps
        of 8, by each step's upper end; ``padding``: the share of padding if each window were
        padded to ``max_len``, or to the longest of its batch in the first epoch (the fused
        operators need no padding).
    """
    lengths = examples.lengths
    upper, counts = np.unique(_padded(lengths), return_counts=True)
    tokens = int(lengths.sum())
    statistics: dict[str, Any] = {
        "examples": len(examples),
        "tokens": tokens,
        "truncated": int(examples.truncated.sum()),
        "lengths": dict(zip(map(str, upper.tolist()), counts.tolist(), strict=True)),
    }
    if batch_size:
        batches = training_batches(len(lengths), batch_size, seed, epoch=1)
        rows = {
            f"all ({examples.max_len})": len(lengths) * examples.max_len,
            "random batches": sum(len(part) * int(lengths[part].max()) for part in batches),
        }
        statistics["padding"] = {name: 1 - tokens / count for name, count in rows.items()}
    return statistics


def _padded(length):
    """Round a length, or an array of lengths, up to a multiple of 8."""
    return (length + _LENGTH_MULTIPLE - 1) // _LENGTH_MULTIPLE * _LENGTH_MULTIPLE


def training_batches(examples: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Divide a shuffled epoch into batches.

    Seed and epoch alone decide the order, so a resumed run can continue in mid-epoch. Batches of
    similar length would need less padding, which only the stock operators have, but examples that
    share a length often share more: the label, even.

    Returns
    -------
    list of int arrays
        The indices of each batch's examples: every example once. Only the last batch may have fewer
        than ``batch_size``.
    """
    order = np.random.default_rng([seed, epoch]).permutation(examples)
    return [order[i : i + batch_size] for i in range(0, examples, batch_size)]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Divide windows into batches by descending length: the first needs the most memory."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def padded_batch(
    examples: TokenizedExamples, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pad B windows to their longest, rounded up to a multiple of 8: L tokens.

    Returns
    -------
    input_ids : int32 array ``[B, L]``, with 0 ([PAD]) after each window's end
    token_types : int32 array ``[B, L]``
    valid_length : int32 array ``[B]``
    """
    starts = examples.offsets[indices]
    valid_length = (examples.offsets[indices + 1] - starts).astype(np.int32)
    # Beyond max_len there may be no position embedding.
    length = min(_padded(int(valid_length.max())), examples.max_len)
    position = np.arange(length)
    valid = position < valid_length[:, None]  # [B, L]
    input_ids = np.zeros(valid.shape, np.int32)
    input_ids[valid] = examples.input_ids[(starts[:, None] + position)[valid]]
    token_types = valid & (position >= examples.first_segment[indices, None])
    return input_ids, token_types.astype(np.int32), valid_length


def packed_batch(
    examples: TokenizedExamples, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concatenate B windows, of T tokens in total, without padding.

    Returns
    -------
    input_ids : int32 array ``[T]``
    token_types : int32 array ``[T]``
    offsets : int32 array ``[B + 1]``: window b has the rows ``offsets[b]`` to ``offsets[b + 1]``
    """
    lengths = examples.offsets[indices + 1] - examples.offsets[indices]
    offsets = np.zeros(len(indices) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)  # [T]
    input_ids = examples.input_ids[examples.tokens_of(indices)]
    token_types = position >= np.repeat(examples.first_segment[indices], lengths)
    return input_ids, token_types.astype(np.int32), offsets


def logits_by(inference: Inference, examples: TokenizedExamples, indices: np.ndarray) -> np.ndarray:
    """Return the logits ``[B, outputs]`` float32 of B windows."""
    input_ids, token_types, offsets = packed_batch(examples, indices)
    return inference(input_ids, token_types, np.diff(offsets))
