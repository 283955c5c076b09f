"""Examples, their token ids, and parts of them."""

from __future__ import annotations

import numpy as np
import pytest

import dataset
from bert.prediction import averaged
from bert.run_config import LONG_TEXT
from bert.tokenizer import BERTTokenizer
from dataset import Examples, Texts, TokenizedExamples


@pytest.mark.parametrize("long_text", LONG_TEXT)
@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
def test_a_part_of_tokenized_examples_is_that_part_tokenized(pairs, tiny_bert, long_text):
    tokenizer = BERTTokenizer(tiny_bert / "vocab.txt")
    text_a = Texts("the cat " * n for n in range(1, 9))
    text_b = Texts("a dog " * (9 - n) for n in range(1, 9)) if pairs else None
    examples = Examples(text_a, text_b, np.arange(8, dtype=np.int32))
    chosen = np.array([5, 0, 7, 2])
    part = dataset.tokenize(examples, tokenizer, 12, long_text).take(chosen)
    expected = dataset.tokenize(examples.take(chosen), tokenizer, 12, long_text)
    names = ["input_ids", "offsets", "first_segment", "label", "truncated", "seen"]
    assert (part.windows is None) == (expected.windows is None) == (long_text != "windows")
    for name in names if part.windows is None else [*names, "windows"]:
        found, wanted = getattr(part, name), getattr(expected, name)
        assert found.dtype == wanted.dtype and found.tolist() == wanted.tolist(), name
    assert part.input_ids.dtype == np.int32
    assert part.truncated.any() == (long_text != "windows" or pairs)


@pytest.mark.parametrize("long_text", LONG_TEXT)
def test_each_pair_is_in_one_order_in_odd_epochs_and_in_the_other_in_even_ones(
    tiny_bert, long_text
):
    tokenizer = BERTTokenizer(tiny_bert / "vocab.txt")
    a, b = (
        Texts("the cat " * n for n in range(1, 9)),
        Texts("a dog " * (9 - n) for n in range(1, 9)),
    )
    label = np.arange(8, dtype=np.int32)
    pairs = dataset.tokenize(Examples(a, b, label), tokenizer, 16, long_text, swap_pairs=True)
    there = dataset.tokenize(Examples(a, b, label), tokenizer, 16, long_text)
    back = dataset.tokenize(Examples(b, a, label), tokenizer, 16, long_text)
    assert there.of_epoch(1) is there.of_epoch(2) is there
    first, second = pairs.of_epoch(1), pairs.of_epoch(2)
    assert pairs.of_epoch(3) is first and pairs.of_epoch(4) is second

    def ids(examples, i):
        return examples.take(np.array([i])).input_ids.tolist()

    orders = [(ids(first, i) == ids(there, i), ids(second, i) == ids(there, i)) for i in range(8)]
    assert set(orders) == {(True, False), (False, True)}
    for i, (unchanged, _) in enumerate(orders):
        assert ids(second if unchanged else first, i) == ids(back, i)
    # Every epoch has the same updates.
    assert len(first.apart) == len(second.apart) == len(pairs.apart)
    chosen = np.array([5, 0, 7, 2])
    for found, expected in (
        (pairs.take(chosen).of_epoch(2), second.take(chosen)),
        (pairs.apart.of_epoch(2), second.apart),
    ):
        for array, wanted in zip(found.arrays(), expected.arrays(), strict=True):
            assert array.tolist() == wanted.tolist()


def test_texts_are_a_sequence_of_what_was_put_in():
    strings = ["", "a\nb", "Füße \u2028 猫", "x"]
    texts = Texts(strings)
    assert list(texts) == strings and texts[1:3] == strings[1:3] and len(texts) == 4
    with pytest.raises(IndexError):
        texts[4]


def test_a_sample_is_the_seeds_and_in_order():
    label = np.arange(100, dtype=np.int32)
    examples = Examples(Texts(map(str, label)), None, label)
    sample = examples.sample(10, seed=1)
    assert sample.label.tolist() == sorted(sample.label)
    assert sample.text_a[:] == [str(i) for i in sample.label]
    assert sample.label.tolist() != examples.sample(10, seed=2).label.tolist()
    assert len(examples.sample(1000, seed=1)) == 100


@pytest.fixture
def windowed(tiny_bert) -> TokenizedExamples:
    """Three examples, the second of which is three windows."""
    texts = Texts(["the cat", "the big dog " * 8, "a dog sat"])
    origin = np.array([(0, 2), (1, 3), (4, 7)], dataset.ORIGIN)
    examples = Examples(texts, None, np.array([0, 1, 2], np.int32), origin=origin)
    tokenizer = BERTTokenizer(tiny_bert / "vocab.txt")
    return dataset.tokenize(examples, tokenizer, 12, "windows")


def test_windows_apart_are_examples_with_the_label_and_line_of_theirs(windowed):
    assert windowed.windows.tolist() == [0, 1, 4, 5] and len(windowed) == 3
    apart = windowed.apart
    assert apart is windowed.apart and apart.apart is apart
    assert len(apart) == 5 and apart.windows is None
    assert apart.label.tolist() == [0, 1, 1, 1, 2]
    assert apart.origin["line"].tolist() == [2, 3, 3, 3, 7]
    assert apart.input_ids is windowed.input_ids and apart.offsets is windowed.offsets


def test_the_logits_of_an_example_are_the_means_of_its_windows(windowed):
    logits = np.array([[1, 2], [3, 4], [5, 9], [1, 2], [7, 8]], np.float32)
    found = averaged(logits, windowed.windows)
    assert found.dtype == np.float32 and found.tolist() == [[1, 2], [3, 5], [7, 8]]
    assert averaged(logits, None) is logits


def test_examples_of_several_windows_are_read_back_from_their_arrays(windowed):
    arrays = windowed.to_arrays()
    found = TokenizedExamples.from_arrays(arrays)
    for one, other in zip(found.arrays(), windowed.arrays(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(windowed.arrays()) == 5 and len(windowed.apart.arrays()) == 4
    assert "windows" not in windowed.apart.to_arrays()
    for wrong in (
        [0, 1, 4],
        [0, 1, 4, 5, 5],
        [1, 2, 4, 5],
        [0, 1, 4, 6],
        [0, 1, 1, 5],
        [0, 4, 1, 5],
        [0, 2**62, -(2**62), 5],
        [],
    ):
        with pytest.raises(ValueError):
            TokenizedExamples.from_arrays({**arrays, "windows": np.array(wrong, np.int64)})
    with pytest.raises(ValueError):
        TokenizedExamples.from_arrays({**arrays, "windows": windowed.windows.astype(np.int32)})
