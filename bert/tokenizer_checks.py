"""Whether a tokenizer.json is what the other files of its model describe.

Versions of transformers take different parts of a tokenizer from tokenizer.json, and build the rest
as the tokenizer's class says. So what contradicts the class is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

from bert.errors import UserError
from bert.tokenizer import check_layout

# tokenizer_config.json's names of the flags of a tokenizer.json's normalizer.
_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
ADVICE = (
    "make them agree, or, if tokenizer.json is what the model was trained with, set in "
    'tokenizer_config.json "tokenizer_class": "PreTrainedTokenizerFast" and "model_input_names": '
    '["input_ids", "token_type_ids", "attention_mask"]'
)

# RoBERTa's, XLM-RoBERTa's and CamemBERT's tokenizers: the names of the tokens around texts ...
AROUND = {
    "RobertaTokenizer": ("cls_token", "sep_token"),
    "XLMRobertaTokenizer": ("bos_token", "eos_token"),
    "CamembertTokenizer": ("bos_token", "eos_token"),
}
# ... and the special tokens that all three have by default.
ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_XLM_ROBERTA_UNKNOWN = 3  # the id, in every version of transformers


def check_added(own: tokenizers.Tokenizer, declared: dict[int, AddedToken], file: Path) -> None:
    """Raise UserError where tokenizer.json and tokenizer_config.json differ in an added token."""
    for id_, token in own.get_added_tokens_decoder().items():
        other = declared.get(id_, token)
        # Whether it is called special is no matter: it is found in texts all the same.
        states = [{**one.__getstate__(), "special": True} for one in (token, other)]
        if states[0] != states[1]:
            raise UserError(
                f"{file}: its added token {token.content!r} is another one in "
                "tokenizer_config.json: make them agree"
            )


def check_bert(own: tokenizers.Tokenizer, splitter: tokenizers.Tokenizer, file: Path) -> None:
    """Raise UserError unless tokenizer.json describes the tokenizer that the settings describe.

    Of a BertTokenizer, version 5 of transformers takes the vocabulary from tokenizer.json and
    nothing else; version 4 takes all but the three flags of the normalizer.
    """
    found, expected = json.loads(own.to_str()), json.loads(splitter.to_str())
    _compare_flags(found["normalizer"] or {}, expected["normalizer"], file)
    for part in ("normalizer", "pre_tokenizer", "added_tokens", "model"):
        if found[part] != expected[part]:
            raise UserError(
                f"{file} contradicts tokenizer_config.json (or its defaults): the {part} is "
                f"another one; {ADVICE}"
            )
    check_layout(own, file)
    for texts in (("a",), ("a", "a a"), ("a a", "a")):
        ours, theirs = splitter.encode(*texts), own.encode(*texts)
        if (ours.ids, ours.type_ids) != (theirs.ids, theirs.type_ids):
            raise UserError(
                f"{file} contradicts tokenizer_config.json (or its defaults): the special tokens "
                f"are in other places; {ADVICE}"
            )


def _compare_flags(found: dict, expected: dict, file: Path) -> None:
    """Raise UserError if the flags of two BertNormalizers differ; else make them the same."""
    if found.get("type") != expected["type"]:
        return
    for name, flag in _NORMALIZER.items():
        values = [part[flag] for part in (found, expected)]
        if flag == "strip_accents":  # None: accents are stripped if the text is lowercased
            values = [
                part["lowercase"] if value is None else value
                for part, value in zip((found, expected), values, strict=True)
            ]
        if values[0] != values[1]:
            raise UserError(
                f"{file} says {name} {values[0]}, but tokenizer_config.json (or its default) says "
                f"{values[1]}, and transformers follows that: set the right one in both"
            )
        found[flag] = expected[flag]


def check_roberta(own: tokenizers.Tokenizer, kind: str, settings: dict, file: Path) -> None:
    """Raise UserError unless a tokenizer.json is what transformers makes of its class.

    Parameters
    ----------
    own : tokenizers.Tokenizer
        That of the tokenizer.json, with all added tokens.
    kind : str
        One of :data:`AROUND`.
    settings : dict
        The names of its special tokens, as texts, and ``add_prefix_space``.
    file : Path
        The tokenizer.json, for messages.
    """
    content = json.loads(own.to_str())
    prefix = settings.get("add_prefix_space", kind != "RobertaTokenizer")
    if not isinstance(prefix, bool):
        raise UserError(f"{file}: add_prefix_space is {prefix!r}, but must be true or false")
    if kind == "RobertaTokenizer":
        wrong = _not_byte_level(content, prefix)
    else:
        wrong = _not_sentence_piece(content, prefix)
        camembert = kind == "CamembertTokenizer"
        unknown = own.token_to_id(settings["unk_token"]) if camembert else _XLM_ROBERTA_UNKNOWN
        if not wrong and content["model"]["unk_id"] != unknown:
            wrong = "unk_id"
    if wrong:
        raise UserError(f"{file}: its {wrong} is not that of a {kind}; {ADVICE}")
    check_layout(own, file)
    first, separator = (own.token_to_id(settings[name]) for name in AROUND[kind])
    a, b = (own.encode(text, add_special_tokens=False).ids for text in ("a", "a a"))
    single, pair = own.encode("a"), own.encode("a", "a a")
    ids = [first, *a, separator, separator, *b, separator]
    if single.ids != [first, *a, separator] or pair.ids != ids or any(pair.type_ids):
        raise UserError(f"{file}: its post_processor is not that of a {kind}; {ADVICE}")


def _not_byte_level(content: dict, prefix: bool) -> str | None:
    """Return which part of a tokenizer.json is not that of byte-level BPE, if one is not."""
    model, splitter = content["model"], content["pre_tokenizer"] or {}
    if content["normalizer"]:
        return "normalizer"
    expected = {"type": "ByteLevel", "add_prefix_space": prefix, "use_regex": True}
    if {name: splitter.get(name) for name in expected} != expected:
        return "pre_tokenizer"
    affixes = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    if model["type"] != "BPE" or any(affixes):
        return "model"
    if model["byte_fallback"] or model["ignore_merges"]:
        return "model"
    # No byte is unknown where all have a token; elsewhere versions treat it differently.
    complete = set(pre_tokenizers.ByteLevel.alphabet()) <= set(model["vocab"])
    return None if complete or not model["unk_token"] else "unk_token"


def _not_sentence_piece(content: dict, prefix: bool) -> str | None:
    """Return which part of a tokenizer.json is not that of a SentencePiece unigram model."""
    normalizer = content["normalizer"] or {"type": "Sequence", "normalizers": []}
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    # Several spaces are one to the pre_tokenizer anyway.
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    if [step["type"] for step in steps if step != spaces] not in ([], ["Precompiled"]):
        return "normalizer"
    scheme = "always" if prefix else "never"
    words = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    if content["pre_tokenizer"] != {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, words],
    }:
        return "pre_tokenizer"
    model = content["model"]
    return None if model["type"] == "Unigram" and not model["byte_fallback"] else "model"
