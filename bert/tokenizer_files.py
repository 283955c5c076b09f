"""The tokenizer of a folder or repository in Hugging Face's layout.

Up to five files describe it: tokenizer.json, vocab.txt, tokenizer_config.json,
special_tokens_map.json and added_tokens.json. What counts is what transformers' AutoTokenizer makes
of them, in versions 4 and 5 alike. Every setting is honoured or refused, and files that contradict
each other are refused: transformers then ignores a part, and which one depends on its version.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models

from bert.errors import UserError
from bert.family import member
from bert.files import read_json, read_text
from bert.tokenizer import (
    BERT_TOKENS,
    SPECIAL_TOKENS,
    BERTTokenizer,
    numbered,
    parse_lines,
    parse_tokenizer,
    word_pieces,
)
from bert.tokenizer_checks import (
    ADVICE,
    AROUND,
    ROBERTA_TOKENS,
    check_added,
    check_bert,
    check_roberta,
)

# Classes of tokenizers; the names of the first may end in "Fast".
_BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
_AS_IS = ("PreTrainedTokenizerFast", "TokenizersBackend")
# What tokenizer_config.json may say, with the default first, ...
_FLAGS = {
    "do_lower_case": (True, False),
    "tokenize_chinese_chars": (True, False),
    "strip_accents": (None, True, False),
}
# ... and settings that nothing but the default is supported of.
_ONLY = {
    "truncation_side": "right",
    "split_special_tokens": False,
    "fast_tokenizer_files": None,
    "vocab": None,
    "merges": None,
}
# In the order in which transformers adds them to a vocabulary.
_NAMES = "bos_token eos_token unk_token sep_token pad_token cls_token mask_token".split()
_EXTRA = ("extra_special_tokens", "additional_special_tokens")  # in version 5 and before it
Get = Callable[[str], Path | None]


def find_tokenizer(get: Get, config: dict, where: str | Path) -> BERTTokenizer:
    """Return the tokenizer of a model in Hugging Face's layout.

    Parameters
    ----------
    get : function
        Returns the path of the model's file of a name; None if it has none.
    config : dict
        The model's config.json.
    where : str or Path
        The folder or repository, for messages.

    Raises
    ------
    UserError
        A file is missing or damaged, the files contradict each other, or a setting is not
        supported.
    """
    path = get("tokenizer_config.json")
    settings = read_json(path) if path else {}
    kind = settings.get("tokenizer_class") or config.get("tokenizer_class")
    kind = str(kind or member(config.get("model_type", "bert")).tokenizer)
    kind = kind if kind in _AS_IS else kind.removesuffix("Fast")
    if kind not in (*_BERT, *AROUND, *_AS_IS):
        raise UserError(
            f"{where}: its tokenizer is a {kind!r}, which is not supported: only BertTokenizer, "
            f"{', '.join(AROUND)} and the tokenizer.json of a PreTrainedTokenizerFast are"
        )
    as_is = kind not in _BERT
    _check_settings(settings, config, as_is, where)
    file, own = get("tokenizer.json"), None
    if file:
        own = parse_tokenizer(text := read_text(file), file)
        settings = _with_truncation_and_padding(json.loads(text), settings, as_is, file)
    if as_is and (own is None or own.post_processor is None):
        raise UserError(
            f"{where}: its tokenizer, a {kind}, needs a tokenizer.json with a post_processor that "
            "adds the special tokens (transformers writes it: AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(…))"
        )
    if kind not in AROUND:
        _check_types(settings, config, kind, where)
    else:
        settings = {**ROBERTA_TOKENS, **settings}
        if kind == "CamembertTokenizer" and not set(_EXTRA) & set(settings):
            settings[_EXTRA[1]] = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
    try:
        declared, named, special_tokens = _added_tokens(get, settings, own, as_is)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(
            f"{where}: its added or special tokens are not supported ({error})"
        ) from None
    splitter = own
    if splitter is None or not as_is:
        file = file or get("vocab.txt")
        if file is None:
            raise UserError(f"{where} has neither vocab.txt nor tokenizer.json")
        if own is None and get("tokenizer.model"):
            raise UserError(f"{where}: SentencePiece's tokenizer.model is not supported")
        splitter = _bert(_vocabulary(own, file, special_tokens), settings, special_tokens)
    assert file is not None
    known = set()
    if own is not None:
        check_added(own, declared, file)
        known = {token.content for token in own.get_added_tokens_decoder().values()}
    new = [token for token in named if token.content not in known]
    _add(splitter, declared, new if as_is else named, file)
    if own is not None and not as_is:
        own.add_tokens([*declared.values(), *new])
        check_bert(own, splitter, file)
    if kind in AROUND:
        names = {name: _text(settings[name]) for name in ROBERTA_TOKENS}
        check_roberta(splitter, kind, settings | names, file)
    return _simplest(splitter, special_tokens, file)


def _check_settings(settings: dict, config: dict, as_is: bool, where: str | Path) -> None:
    for name, allowed in _FLAGS.items():
        value = settings.get(name, allowed[0])
        if not (as_is or any(value is one for one in allowed)):
            raise UserError(
                f"{where}: tokenizer_config.json's {name} is {value!r}, but must be true or false"
            )
    for name, value in _ONLY.items():
        if settings.get(name, value) != value:
            raise UserError(
                f"{where}: tokenizer_config.json's {name} is not supported (only {value!r} is)"
            )
    lower = settings.get("do_lower_case", True)
    if not as_is and config.get("do_lower_case", lower) != lower:
        raise UserError(
            f"{where}: config.json says do_lower_case {config['do_lower_case']!r}, but "
            "transformers reads it from tokenizer_config.json: write it there"
        )


def _check_types(settings: dict, config: dict, kind: str, where: str | Path) -> None:
    """Raise UserError where it depends on transformers' version which types the model gets."""
    types = 0 if config.get("model_type") == "distilbert" else config.get("type_vocab_size", 2)
    always = kind in ("BertTokenizer", "ElectraTokenizer")
    inputs = settings.get("model_input_names", ["token_type_ids"] if always else [])
    if types in (0, 1) and not member(config.get("model_type", "bert")).segments:
        return
    if not isinstance(inputs, list) or "token_type_ids" not in inputs:
        raise UserError(
            f"{where}: without token_type_ids in tokenizer_config.json's model_input_names, both "
            "texts of a pair get type 0 in some versions of transformers, which is not supported: "
            "if the model was trained with token types, set it to "
            '["input_ids", "token_type_ids", "attention_mask"]'
        )


def _with_truncation_and_padding(content: dict, settings: dict, as_is: bool, path: Path) -> dict:
    """Return the settings, completed from a tokenizer.json as transformers does."""
    side = (content.get("truncation") or {}).get("direction", "Right")
    if side != "Right" and "truncation_side" not in settings:
        raise UserError(f"{path} cuts long texts on the left, which is not supported")
    if as_is and content.get("padding"):
        return {"pad_token": content["padding"]["pad_token"], **settings}
    return settings


def _added_tokens(
    get: Get, settings: dict, own: tokenizers.Tokenizer | None, as_is: bool
) -> tuple[dict[int, AddedToken], list[AddedToken], dict[str, str | None]]:
    """Return the tokens beside the vocabulary, as transformers finds them.

    Returns
    -------
    declared : dict of int to AddedToken
        Those with an id, in its order.
    named : list of AddedToken
        Special tokens that are not among them.
    special_tokens : dict of str to str or None
        See :class:`BERTTokenizer`.
    """
    settings, declared = dict(settings), {}
    if "added_tokens_decoder" in settings:
        for id_, token in settings["added_tokens_decoder"].items():
            declared[int(id_)] = AddedToken(**token)
    else:
        map_path, path = get("special_tokens_map.json"), get("added_tokens.json")
        names = read_json(map_path) if map_path else {}
        for name in set(_EXTRA) & set(names):
            if any(settings.get(other, names[name]) != names[name] for other in _EXTRA):
                raise ValueError(
                    f"tokenizer_config.json has other {name} than special_tokens_map.json"
                )
        if path:
            declared |= _old_added_tokens(read_json(path), settings, names)
        settings |= names
        if own is not None:
            declared |= own.get_added_tokens_decoder()
    named = _special(settings, as_is)
    contents = {token.content for token in declared.values()}
    known = contents | {token.content for token in named}
    for name, value in settings.items():
        if name.endswith("_token") and isinstance(value, str) and value not in known:
            raise ValueError(f"versions of transformers use {name}, {value!r}, differently")
    standard = {
        name: None if value is None else _token(value).content
        for name, value in _named(settings, as_is).items()
    }
    for token in declared.values():
        token.special = token.special or token.content in standard.values()
    return (
        dict(sorted(declared.items())),
        [token for token in named if token.content not in contents],
        {name: standard[name] for name in BERT_TOKENS},
    )


def _old_added_tokens(ids: dict, settings: dict, names: dict) -> dict[int, AddedToken]:
    """Return the tokens of an added_tokens.json; special ones are found before normalization."""
    named = [(settings | names).get(name) for name in _NAMES]
    special = {token.content for token in _tokens([*named, *_more(settings)])}
    unsure = {token.content for token in _tokens(_more(names))} - special
    for content in unsure & set(ids):
        raise ValueError(
            f"versions of transformers treat {content!r} differently: write it into "
            "tokenizer_config.json's additional_special_tokens too"
        )
    return {
        id_: AddedToken(content, normalized=content not in special, special=content in special)
        for content, id_ in ids.items()
    }


def _named(settings: dict, as_is: bool) -> dict[str, Any]:
    defaults = {} if as_is else BERT_TOKENS
    return {name: settings.get(name, defaults.get(name)) for name in _NAMES}


def _more(settings: dict) -> list:
    more = settings.get(_EXTRA[0]) or settings.get(_EXTRA[1]) or []
    return list(more.values() if isinstance(more, dict) else more)


def _special(settings: dict, as_is: bool) -> list[AddedToken]:
    """Return the special tokens that the settings name, each once."""
    tokens = _tokens([*_named(settings, as_is).values(), *_more(settings)])
    return list({token.content: token for token in reversed(tokens)}.values())[::-1]


def _tokens(values: list) -> list[AddedToken]:
    return [_token(value) for value in values if value is not None]


def _text(value: str | dict) -> str:
    """Return the text of a special token, which the settings name or describe."""
    return value if isinstance(value, str) else _token(value).content


def _token(value: str | dict) -> AddedToken:
    """Return a special token from its JSON."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    about = {key: item for key, item in value.items() if key not in ("__type", "special")}
    return AddedToken(**about, special=True)


def _vocabulary(
    own: tokenizers.Tokenizer | None, file: Path, special_tokens: dict[str, str | None]
) -> dict[str, int]:
    """Return the vocabulary of a tokenizer.json, else of a vocab.txt."""
    if own is not None:
        if not isinstance(own.model, models.WordPiece):
            kind = type(own.model).__name__
            raise UserError(
                f"{file} splits words by {kind}, but its tokenizer_config.json describes a "
                f"BertTokenizer, which splits them by WordPiece: {ADVICE}"
            )
        vocab = own.get_vocab(with_added_tokens=False)
    else:
        vocab = parse_lines(read_text(file), file)
        try:
            # As version 5 reads it: without the white space at the end of a token.
            trimmed = models.WordPiece.read_file(str(file))
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{file} is no vocabulary ({error})") from None
        for token, id_ in reversed(vocab.items()):
            if token.strip() and trimmed.get(token) != id_:
                raise UserError(
                    f"{file}, line {id_ + 1}: versions of transformers read the token {token!r} "
                    "differently: remove the white space at its end"
                )
    missing = [
        token or name
        for name, token in special_tokens.items()
        if token not in vocab and (token is not None or name != "mask_token")
    ]
    if missing:
        raise UserError(f"{file} is not a BERT vocabulary: it lacks {', '.join(missing)}")
    return numbered(vocab, file)


def _bert(
    vocab: dict[str, int], settings: dict, special_tokens: dict[str, str | None]
) -> tokenizers.Tokenizer:
    lowercase = settings.get("do_lower_case", True)
    strip = settings.get("strip_accents")
    if strip == lowercase:
        strip = None  # which means the same
    chinese = settings.get("tokenize_chinese_chars", True)
    return word_pieces(vocab, lowercase, strip, chinese, special_tokens)


def _add(
    splitter: tokenizers.Tokenizer,
    declared: dict[int, AddedToken],
    named: list[AddedToken],
    file: Path,
) -> None:
    """Add tokens in transformers' order; UserError if they do not get the ids they should have."""
    splitter.add_tokens(list(declared.values()))
    for id_, token in declared.items():
        if splitter.token_to_id(token.content) != id_:
            raise UserError(
                f"{file}: the added token {token.content!r} gets another id than {id_}, which its "
                "model's files give it"
            )
    splitter.add_tokens(named)


def _simplest(
    splitter: tokenizers.Tokenizer, special_tokens: dict[str, str | None], file: Path
) -> BERTTokenizer:
    """Return the original BERT's tokenizer if this is one: a vocab.txt is enough to describe it."""
    text = splitter.to_str()
    content = json.loads(text)
    vocab = splitter.get_vocab(with_added_tokens=False)
    normalizer = content["normalizer"] or {}
    berts = special_tokens == BERT_TOKENS and set(SPECIAL_TOKENS) <= set(vocab)
    if berts and normalizer.get("type") == "BertNormalizer":
        vocab = numbered(vocab, file)
        same = word_pieces(vocab, normalizer["lowercase"])
        same.add_special_tokens(list(SPECIAL_TOKENS))
        one_line_each = not any("\n" in token or "\r" in token for token in vocab)
        if same.to_str() == text and one_line_each:
            return BERTTokenizer(file, normalizer["lowercase"])
    return BERTTokenizer(file, tokenizer_json=text, special_tokens=special_tokens)
