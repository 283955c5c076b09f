"""Token ids equal Hugging Face's; vocabularies that are none are refused."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from bert.errors import UserError
from bert.tokenizer import SPECIAL_TOKENS, BERTTokenizer

STRINGS = json.loads((ROOT / "tests/golden/tokenizer_uncased.json").read_text())["cases"]
PAIRS = json.loads((ROOT / "tests/golden/minilm_pairs.json").read_text())["cases"]


@pytest.mark.parametrize("case", STRINGS, ids=lambda case: repr(case["text"][:20]))
def test_word_pieces_equal_hugging_faces(minilm, case):
    _, tokenizer = minilm
    assert tokenizer.tokenize(case["text"]) == case["tokens"]
    assert [tokenizer.vocab[token] for token in case["tokens"]] == case["ids"]


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: f"{len(case['input_ids'])} tokens")
def test_the_layout_and_truncation_of_pairs_equal_hugging_faces(minilm, case):
    _, tokenizer = minilm
    text_b = None if case["text_b"] is None else [case["text_b"]]
    input_ids, _, first_segment, *_ = tokenizer.encode([case["text_a"]], text_b, 128)
    assert input_ids.tolist() == case["input_ids"]
    types = [int(i >= first_segment[0]) for i in range(len(input_ids))]
    assert types == case["token_type_ids"]


def test_truncation_is_counted_and_keeps_both_texts(tiny_bert):
    tokenizer = BERTTokenizer(tiny_bert / "vocab.txt")
    texts = ["the cat sat", "the dog " * 20], ["a bird", "a fish"]
    encoded = tokenizer.encode(*texts, 12)
    input_ids, offsets, first_segment = encoded[:3]
    assert encoded.truncated.tolist() == [False, True]
    assert offsets.tolist() == [0, 8, 20]
    assert input_ids[8 + first_segment[1] : -1].tolist() == [
        tokenizer.vocab["a"],
        tokenizer.vocab["fish"],
    ]


def test_many_texts_get_the_ids_that_each_gets_alone(tiny_bert, monkeypatch):
    monkeypatch.setattr("bert.encoding._CHUNK", 3)
    tokenizer = BERTTokenizer(tiny_bert / "vocab.txt")
    texts = ["the cat " * n for n in range(1, 8)], ["a [SEP] bird" + " ran" * n for n in range(7)]
    together = tokenizer.encode(*texts, 16)
    for i, (text_a, text_b) in enumerate(zip(*texts, strict=True)):
        alone = tokenizer.encode([text_a], [text_b], 16)
        ids = together.input_ids[together.offsets[i] : together.offsets[i + 1]]
        assert ids.tolist() == alone.input_ids.tolist()
        assert together.first_segment[i] == alone.first_segment[0]
        assert together.truncated[i] == alone.truncated[0]


def test_a_cased_vocabulary_keeps_capitals_and_accents(tmp_path):
    vocab_file = tmp_path / "vocab.txt"
    vocab_file.write_text("\n".join([*SPECIAL_TOKENS, "Été", "ete", ""]), encoding="utf-8")
    assert BERTTokenizer(vocab_file, do_lower_case=False).tokenize("Été") == ["Été"]
    assert BERTTokenizer(vocab_file, do_lower_case=True).tokenize("Été") == ["ete"]


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n", r"lacks \[MASK\]"),
        (
            "\n".join([*SPECIAL_TOKENS, "cat", "dog", "cat"]).encode(),
            "line 8: duplicate token 'cat'",
        ),
        (b"[PAD]\n\xff\xfe\n", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content, complaint):
    vocab_file = tmp_path / "vocab.txt"
    vocab_file.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        BERTTokenizer(vocab_file)
    assert str(vocab_file) in str(error.value)
