"""Texts that are too long: the reference is the truncation of the package tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from bert import encoding
from bert.errors import UserError
from bert.run_config import LONG_TEXT
from bert.tokenizer import BERTTokenizer

SPECIAL = ["[PAD]", "[UNK]", "<s>", "</s>"]
WORDS = [*SPECIAL, *"abcdefghij"]
FIRST, LAST = ("<s>", 2), ("</s>", 3)
LAYOUTS = {
    "bert": processors.BertProcessing(LAST, FIRST),
    "roberta": processors.RobertaProcessing(LAST, FIRST),
    "template": processors.TemplateProcessing(
        single="<s> $A </s> </s>",
        pair="<s> $A </s> </s> $B:1 </s>:1 <s>:1",
        special_tokens=[FIRST, LAST],
    ),
    "sequence": processors.Sequence(
        [processors.ByteLevel(), processors.BertProcessing(LAST, FIRST)]
    ),
}
TEXT = st.text("abcdefghij", max_size=40).map(" ".join)


def library(layout: str) -> tokenizers.Tokenizer:
    vocab = {word: number for number, word in enumerate(WORDS)}
    found = tokenizers.Tokenizer(models.WordLevel(vocab, "[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = LAYOUTS[layout]
    return found


def ours(layout: str) -> BERTTokenizer:
    return BERTTokenizer("t.json", tokenizer_json=library(layout).to_str())


def windows_of(encoded: encoding.EncodedTexts) -> list[tuple[list[int], list[int]]]:
    """Return ids and token types of each window."""
    found = []
    for i, first in enumerate(encoded.first_segment):
        ids = encoded.input_ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist()
        found.append((ids, [int(n >= first) for n in range(len(ids))]))
    return found


def texts_of(ids: list[int]) -> list[list[int]]:
    """Return the runs of ids that are no special tokens."""
    marks = " ".join("|" if id_ < 4 else str(id_) for id_ in ids).split("|")
    return [[int(word) for word in part.split()] for part in marks if part.split()]


@given(st.sampled_from(list(LAYOUTS)), TEXT, TEXT | st.none(), st.integers(7, 60))
def test_the_head_is_what_the_library_truncates_to(layout, text_a, text_b, max_len):
    expected = library(layout)
    whole = len(expected.encode(text_a, text_b).ids)
    expected.enable_truncation(max_len, strategy="longest_first")
    cut = expected.encode(text_a, text_b)
    encoded = ours(layout).encode([text_a], None if text_b is None else [text_b], max_len)
    assert windows_of(encoded) == [(cut.ids, cut.type_ids)]
    assert encoded.windows is None and encoded.seen.tolist() == [[len(cut.ids), whole]]
    assert encoded.truncated.tolist() == [bool(cut.overflowing)]


@given(st.sampled_from(list(LAYOUTS)), TEXT, st.integers(7, 60))
def test_windows_of_a_text_are_those_of_the_library(layout, text, max_len):
    expected = library(layout)
    room = max_len - expected.num_special_tokens_to_add(False)
    expected.enable_truncation(max_len, stride=room // 4)
    first = expected.encode(text)
    encoded = ours(layout).encode([text, "a"], None, max_len, "windows")
    found = windows_of(encoded)
    assert found[:-1] == [(part.ids, part.type_ids) for part in (first, *first.overflowing)]
    assert not encoded.truncated.any() and (encoded.seen[:, 0] == encoded.seen[:, 1]).all()
    if first.overflowing:
        assert encoded.windows.tolist() == [0, len(found) - 1, len(found)]
    else:
        assert encoded.windows is None


@given(st.sampled_from(list(LAYOUTS)), TEXT, TEXT, st.integers(10, 60))
def test_windows_of_a_pair_keep_the_shorter_text_and_slide_over_the_longer(layout, a, b, max_len):
    expected = library(layout)
    room = max_len - expected.num_special_tokens_to_add(True)
    lengths = [len(text.split()) for text in (a, b)]
    shorter, strategy = min(lengths), "only_first" if lengths[0] > lengths[1] else "only_second"
    encoded = ours(layout).encode([a], [b], max_len, "windows")
    if shorter <= room // 2:
        expected.enable_truncation(max_len, stride=(room - shorter) // 4, strategy=strategy)
        first = expected.encode(a, b)
        parts = [(part.ids, part.type_ids) for part in (first, *first.overflowing)]
        assert windows_of(encoded) == parts and not encoded.truncated.any()
        return
    # A shorter text that needs more than half of the room keeps its beginning and end there.
    assert encoded.truncated.all()
    for ids, _ in windows_of(encoded):
        assert len(ids) <= max_len
        kept = texts_of(ids)[int(strategy == "only_first")]
        whole = [WORDS.index(word) for word in (a if strategy == "only_second" else b).split()]
        head = (room // 2 + 2) // 4
        assert kept == whole[:head] + whole[len(whole) - (room // 2 - head) :]


@given(st.sampled_from(list(LAYOUTS)), TEXT, TEXT, st.integers(9, 60))
def test_head_and_tail_cut_a_text_to_a_quarter_and_the_rest(layout, a, b, max_len):
    head = windows_of(ours(layout).encode([a], [b], max_len))
    both = windows_of(ours(layout).encode([a], [b], max_len, "head_tail"))
    assert [(len(ids), types) for ids, types in head] == [(len(ids), types) for ids, types in both]
    kept = texts_of(both[0][0])
    sizes = map(len, texts_of(head[0][0]))
    for size, part, text in zip(sizes, kept, filter(None, (a, b)), strict=True):
        whole = [WORDS.index(word) for word in text.split()]
        first = (size + 2) // 4
        cut = whole[:first] + whole[len(whole) - (size - first) :]
        assert part == (whole if size == len(whole) else cut)


def test_the_papers_numbers_are_128_and_382():
    numbers = np.arange(1498)
    ends = encoding._ends(numbers, 510)
    assert ends.tolist() == [*range(128), *range(1498 - 382, 1498)]


@pytest.mark.parametrize("long_text", LONG_TEXT)
def test_texts_are_encoded_alike_in_chunks_of_few_characters(long_text, monkeypatch):
    texts = ["a b c " * n for n in range(30)], ["d e " * (30 - n) for n in range(30)]
    expected = ours("roberta").encode(*texts, 20, long_text)
    monkeypatch.setattr("bert.encoding._CHARACTERS", 100)
    found = ours("roberta").encode(*texts, 20, long_text)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    chunks = [len(chunk) for chunk in encoding._chunks(["a" * 60] * 5)]
    assert chunks == [2, 2, 1]


@pytest.mark.parametrize("long_text", LONG_TEXT)
def test_special_tokens_that_fill_max_len_are_refused(long_text):
    with pytest.raises(UserError, match=r"max_len 5 leaves no room .* adds 5 tokens"):
        ours("template").encode(["a b"], ["c"], 5, long_text)
