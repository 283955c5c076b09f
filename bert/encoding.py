"""Token ids of texts, in windows of limited length, and what becomes of texts that are too long.

The ways to fit a long text into a model are those of Sun et al. (2019, section 5.3.1,
https://arxiv.org/abs/1905.05583): its head, or head and tail; and windows over all of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from bert.errors import UserError
from bert.run_config import HEAD_TAIL, WINDOWS

# Neighbouring windows share this part of their tokens, so that a phrase which one of them cuts is
# whole in the other.
_OVERLAP = 1 / 4
# Texts per call of the tokenizers library: enough to keep every core busy. From so many characters
# on a call gets no more texts: the library's result takes a hundred times the memory of the ids.
_CHUNK, _CHARACTERS = 8192, 2**20


class EncodedTexts(NamedTuple):
    """Token ids of examples, concatenated in one array without padding.

    An example is one window of tokens, or several where it is too long and is not cut. Window w has
    ``input_ids[offsets[w] : offsets[w + 1]]``.
    """

    input_ids: np.ndarray  # [all tokens] int32
    offsets: np.ndarray  # [windows + 1] int64
    first_segment: np.ndarray  # [windows] int32: tokens of type 0 ([CLS], first text, its [SEP])
    # [examples + 1] int64: example i has windows[i] to windows[i + 1]; None: each has one
    windows: np.ndarray | None
    # [examples, 2] int64: how many of an example's tokens are in a window, and how many it has
    seen: np.ndarray

    @property
    def truncated(self) -> np.ndarray:
        """Whether some tokens of each example are in no window: bool ``[examples]``."""
        return self.seen[:, 0] < self.seen[:, 1]


def encode_all(
    split: Callable[[list], list],
    text_a: Sequence[str],
    text_b: Sequence[str] | None,
    max_len: int,
    long_text: str,
) -> EncodedTexts:
    """Do the work of :meth:`bert.tokenizer.BERTTokenizer.encode`.

    ``split`` turns texts, or pairs of texts, into tokenizers.Encodings with special tokens, uncut.
    """
    texts: Iterable[Any] = text_a if text_b is None else zip(text_a, text_b, strict=True)
    ids, lengths, first_segment = array("i"), array("q"), array("i")
    windows, seen = array("q", [0]), array("q")
    with tqdm(
        total=len(text_a),
        desc="tokenizing",
        unit=" examples",
        unit_scale=True,
        delay=1,
        leave=False,
        disable=None,
    ) as progress:
        for chunk in _chunks(texts):
            for encoding in split(chunk):
                size = len(encoding)
                if size <= max_len:
                    ids.extend(encoding.ids)
                    lengths.append(size)
                    first_segment.append(size if text_b is None else size - sum(encoding.type_ids))
                    seen.extend((size, size))
                else:
                    found = cut(encoding, max_len, long_text)
                    ids.frombytes(np.concatenate(found.ids).tobytes())
                    lengths.extend(map(len, found.ids))
                    first_segment.extend(found.first_segment)
                    seen.extend((found.seen, size))
                windows.append(len(lengths))
            progress.update(len(chunk))
    return EncodedTexts(
        np.frombuffer(ids, np.int32),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        np.array(first_segment, np.int32),
        np.array(windows, np.int64) if len(lengths) > len(text_a) else None,
        np.array(seen, np.int64).reshape(-1, 2),
    )


def _chunks(texts: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield texts, or pairs of texts, in lists for the tokenizers library."""
    chunk: list[Any] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        parts = text if isinstance(text, tuple) else (text,)
        characters += sum(len(part) for part in parts if isinstance(part, str))
        if len(chunk) == _CHUNK or characters >= _CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


class Cut(NamedTuple):
    """An example that was too long: one window, or several."""

    ids: list[np.ndarray]  # of each window: int32 [tokens]
    first_segment: list[int]  # of each window: tokens of type 0
    seen: int  # how many of the example's tokens are in some window


def cut(encoding: Any, max_len: int, how: str) -> Cut:
    """Fit the encoding of a text, or of a pair, into ``max_len`` tokens.

    Every window has all special tokens. Of a pair, the shorter text keeps up to half of the room,
    and the longer text gets the rest, as transformers' ``longest_first`` does it.

    Parameters
    ----------
    encoding : tokenizers.Encoding
        With its special tokens, and longer than ``max_len``.
    max_len : int
    how : str
        ``head``: the beginning of each text. ``head_tail``: of a text
        that is cut, the beginning in a quarter of its room, and the end in the rest (of 510 tokens
        the 128 and 382 of the paper). ``windows``: several windows over the longer text, which
        overlap by a quarter (as transformers' with that ``stride``); a shorter text that is cut
        is cut as by ``head_tail``.

    Raises
    ------
    UserError
        The special tokens leave no room.
    """
    ids, types = np.array(encoding.ids, np.int32), np.array(encoding.type_ids)
    text = np.array([-1 if number is None else number for number in encoding.sequence_ids])
    special, *texts = (np.flatnonzero(text == number) for number in (-1, 0, 1))
    room = max_len - len(special)
    if room < 1:
        raise UserError(
            f"max_len {max_len} leaves no room for texts: the tokenizer adds {len(special)} tokens"
        )
    rooms = _rooms(len(texts[0]), len(texts[1]), room)
    longer = int(len(texts[1]) >= len(texts[0]))
    if how == WINDOWS:
        other = _ends(texts[1 - longer], rooms[1 - longer])
        kept = [[other, part] for part in _windows(texts[longer], rooms[longer])]
        seen = len(special) + len(other) + len(texts[longer])
    else:
        one = _ends if how == HEAD_TAIL else _beginning
        kept = [[one(*both) for both in zip(texts, rooms, strict=True)]]
        seen = max_len
    windows = [np.sort(np.concatenate([special, *parts])) for parts in kept]
    return Cut([ids[w] for w in windows], [int((types[w] == 0).sum()) for w in windows], seen)


def _rooms(length_a: int, length_b: int, room: int) -> tuple[int, int]:
    """Divide the room among two texts that do not fit in it together."""
    small = min(length_a, length_b, room // 2)
    return (room - small, small) if length_a > length_b else (small, room - small)


def _beginning(text: np.ndarray, room: int) -> np.ndarray:
    return text[:room]


def _ends(text: np.ndarray, room: int) -> np.ndarray:
    """Return beginning and end of a text that has no room."""
    if len(text) <= room:
        return text
    head = (room + 2) // 4  # a quarter, rounded
    return np.concatenate([text[:head], text[len(text) - (room - head) :]])


def _windows(text: np.ndarray, size: int) -> list[np.ndarray]:
    step = size - int(_OVERLAP * size)
    # The last one is the first that reaches the end.
    return [text[start : start + size] for start in range(0, max(1, len(text) - size + step), step)]
