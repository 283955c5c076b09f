"""Examples, their token ids, and parts of them."""

from __future__ import annotations

import numpy as np
import pytest

import dataset
from bert.tokenizer import BERTTokenizer
from dataset import Examples, Texts


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
def test_a_part_of_tokenized_examples_is_that_part_tokenized(pairs, tiny_bert):
    tokenizer = BERTTokenizer(tiny_bert / "vocab.txt")
    text_a = Texts("the cat " * n for n in range(1, 9))
    text_b = Texts("a dog " * (9 - n) for n in range(1, 9)) if pairs else None
    examples = Examples(text_a, text_b, np.arange(8, dtype=np.int32))
    chosen = np.array([5, 0, 7, 2])
    part = dataset.tokenize(examples, tokenizer, 12).take(chosen)
    expected = dataset.tokenize(examples.take(chosen), tokenizer, 12)
    for name in ("input_ids", "offsets", "first_segment", "label", "truncated"):
        found, wanted = getattr(part, name), getattr(expected, name)
        assert found.dtype == wanted.dtype and found.tolist() == wanted.tolist(), name
    assert part.input_ids.dtype == np.int32 and part.truncated.any()


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
