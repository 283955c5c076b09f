"""RoBERTa's, XLM-RoBERTa's and CamemBERT's tokenizers are used as they are, or refused.

The reference is the package tokenizers; transformers is no dependency of the tests.
"""

from __future__ import annotations

import json

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tokenizer_files import read, same, write
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from bert.errors import UserError

TEXTS = ("the cat sat", "Où est le café ?", "日本 <mask> 😀", "a</s>b  c", " the\tthe\n", "")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
KINDS = {
    "RobertaTokenizer": "roberta",
    "XLMRobertaTokenizer": "xlm-roberta",
    "CamembertTokenizer": "camembert",
}


def byte_level(**changes) -> Tokenizer:
    """Return RoBERTa's tokenizer, with another model, normalizer, pre_tokenizer or layout."""
    vocab = {token: id_ for id_, token in enumerate(SPECIAL)}
    for token in [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "Ġc", "at"]:
        vocab[token] = len(vocab)
    merges = [("t", "h"), ("th", "e"), ("Ġ", "c"), ("a", "t")]
    tokenizer = Tokenizer(changes.get("model") or models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    layout = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return changed(tokenizer, layout, changes)


def sentence_piece(**changes) -> Tokenizer:
    """Return XLM-RoBERTa's tokenizer, or one with another part."""
    pieces = [*SPECIAL, "▁", "▁the", "▁cat", "c", "a", "t", "s", "é", "日", "<s>NOTUSED"]
    pieces += ["</s>NOTUSED", "<unk>NOTUSED"]
    vocab = [(piece, -float(rank)) for rank, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocab, changes.get("unk_id", 3), False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    layout = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair=changes.get("pair", "<s> $A </s> </s> $B </s>"),
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return changed(tokenizer, layout, changes)


def changed(tokenizer: Tokenizer, layout, changes: dict) -> Tokenizer:
    tokenizer.add_special_tokens([*SPECIAL[:4], AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = layout
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        if part in changes:
            setattr(tokenizer, part, changes[part])
    return tokenizer


def written(folder, kind: str, said=(), **changes):
    make = byte_level if kind == "RobertaTokenizer" else sentence_piece
    tokenizer = make(**changes)
    content = json.loads(tokenizer.to_str())
    write(folder, vocab=None, tokenizer=content, tokenizer_config=dict(said))
    return folder, {"model_type": KINDS[kind], "type_vocab_size": 1}, tokenizer


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(list(KINDS)), st.lists(st.text(max_size=12), min_size=1, max_size=3))
def test_texts_get_the_ids_that_tokenizer_json_gives_them(tmp_path, kind, texts):
    folder, config, expected = written(tmp_path / "model", kind)
    found = read(folder, config)
    assert same(found, expected, [*texts, *TEXTS], 16)
    export = tmp_path / "export"
    export.mkdir(exist_ok=True)
    for name, text in found.huggingface_files(48, token_types=False).items():
        (export / name).write_text(text, "utf-8")
    assert same(read(export, config), expected, [*texts, *TEXTS], 16)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_has_two_separators_in_its_middle_and_one_token_type(tmp_path, kind):
    folder, config, _ = written(tmp_path, kind, {"tokenizer_class": f"{kind}Fast"})
    encoded = read(folder, config).encode(["the"], ["the"], 16)
    a = read(folder, config).encode(["the"], None, 16).input_ids.tolist()
    assert a[0] == 0 and a[-1] == 2
    assert encoded.input_ids.tolist() == [*a, 2, *a[1:]]
    assert encoded.first_segment.tolist() == [len(encoded.input_ids)]


@pytest.mark.parametrize(
    "kind, said, changes, part",
    [
        ("RobertaTokenizer", {}, {"normalizer": normalizers.Lowercase()}, "normalizer"),
        ("RobertaTokenizer", {"add_prefix_space": True}, {}, "pre_tokenizer"),
        ("RobertaTokenizer", {}, {"pre_tokenizer": pre_tokenizers.ByteLevel()}, "pre_tokenizer"),
        ("RobertaTokenizer", {}, {"pre_tokenizer": pre_tokenizers.Whitespace()}, "pre_tokenizer"),
        (
            "RobertaTokenizer",
            {},
            {"model": models.BPE({**{t: i for i, t in enumerate(SPECIAL)}, "a": 5}, [])},
            None,
        ),
        (
            "RobertaTokenizer",
            {},
            {
                "model": models.BPE(
                    {**{t: i for i, t in enumerate(SPECIAL)}, "a": 5}, [], unk_token="<unk>"
                )
            },
            "unk_token",
        ),
        (
            "RobertaTokenizer",
            {},
            {"model": models.WordLevel({t: i for i, t in enumerate([*SPECIAL, "a"])}, "<unk>")},
            "model",
        ),
        (
            "RobertaTokenizer",
            {},
            {"post_processor": processors.BertProcessing(("</s>", 2), ("<s>", 0))},
            "post_processor",
        ),
        ("XLMRobertaTokenizer", {}, {"normalizer": normalizers.NFKC()}, "normalizer"),
        ("XLMRobertaTokenizer", {"add_prefix_space": False}, {}, "pre_tokenizer"),
        (
            "CamembertTokenizer",
            {},
            {"pre_tokenizer": pre_tokenizers.Metaspace()},
            "pre_tokenizer",
        ),
        ("XLMRobertaTokenizer", {}, {"unk_id": 1}, "unk_id"),
        ("CamembertTokenizer", {}, {"unk_id": 1}, "unk_id"),
        ("XLMRobertaTokenizer", {}, {"pair": "<s> $A </s> $B </s>"}, "post_processor"),
        ("CamembertTokenizer", {}, {"pair": "<s> $A </s> </s> $B:1 </s>:1"}, "post_processor"),
        ("CamembertTokenizer", {"add_prefix_space": "yes"}, {}, "add_prefix_space"),
    ],
)
def test_a_tokenizer_json_that_its_class_does_not_describe_is_refused(
    tmp_path, kind, said, changes, part
):
    folder, config, expected = written(tmp_path, kind, said, **changes)
    if part is None:
        assert same(read(folder, config), expected, ("a", "a b"))
        return
    with pytest.raises(UserError, match=rf"tokenizer\.json: (its )?{part} is ") as error:
        read(folder, config)
    assert "\n" not in str(error.value)


def test_several_spaces_may_be_replaced_by_one_where_words_are_split_at_spaces(tmp_path):
    spaces = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    steps = normalizers.Sequence([spaces])
    folder, config, expected = written(tmp_path, "XLMRobertaTokenizer", normalizer=steps)
    assert same(read(folder, config), expected, ("the  cat", "  the   "))


@pytest.mark.parametrize("kind", KINDS)
def test_without_tokenizer_json_the_command_is_named_that_makes_it(tmp_path, kind):
    folder, config, _ = written(tmp_path, kind)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"needs a tokenizer\.json .*save_pretrained"):
        read(folder, config)


@pytest.mark.parametrize(
    "config, said, wrong",
    [
        ({"model_type": "distilbert"}, {"tokenizer_class": "DistilBertTokenizer"}, False),
        ({"model_type": "distilbert"}, {"model_input_names": ["input_ids"]}, False),
        ({"model_type": "electra"}, {"tokenizer_class": "ElectraTokenizerFast"}, False),
        ({"model_type": "bert"}, {"tokenizer_class": "DistilBertTokenizer"}, True),
        ({"model_type": "electra"}, {"model_input_names": ["input_ids"]}, True),
    ],
)
def test_token_types_are_needed_by_models_that_read_them(tmp_path, config, said, wrong):
    write(tmp_path, tokenizer_config=said)
    if wrong:
        with pytest.raises(UserError, match="without token_type_ids"):
            read(tmp_path, config)
    else:
        assert read(tmp_path, config).tokenizer_json is None
