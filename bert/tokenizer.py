"""WordPiece with BERT's layout of a pair: ``[CLS] text_a [SEP] text_b [SEP]``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from bert.encoding import EncodedTexts, encode_all
from bert.errors import UserError, lacks_memory
from bert.files import read_json, read_text
from bert.run_config import HEAD

# Hugging Face's names of the special tokens, and what BERT calls them.
BERT_TOKENS: dict[str, str | None] = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A model may have more rows than its vocabulary has tokens: up to a multiple of 8, 64 or 128.
_PADDED_TO, _MOST_PADDING = 8, 128


class BERTTokenizer:
    """A vocabulary, and how text is split into its word pieces.

    Parameters
    ----------
    vocab_file : path
        ``vocab.txt``: one token per line, its line number from 0 is its id; or another file that
        :func:`read_vocabulary` reads.
    do_lower_case : bool
        Lowercase and strip accents first, as the uncased checkpoints need. Chinese characters
        become tokens of their own either way.
    tokenizer_json : str, optional
        The text of a ``tokenizer.json``, for a tokenizer that is not the original BERT's. It is
        used as it is; ``vocab_file`` is then the file that messages name.
    special_tokens : dict of str to str or None
        The names of the special tokens, by Hugging Face's keys.

    Raises
    ------
    UserError
        The file is not UTF-8, repeats a token or lacks one of BERT's special tokens; or
        ``tokenizer_json`` does not describe a tokenizer that BERT can use.
    """

    def __init__(
        self,
        vocab_file: str | Path,
        do_lower_case: bool = True,
        tokenizer_json: str | None = None,
        special_tokens: dict[str, str | None] = BERT_TOKENS,
    ):
        self.vocab_file = vocab_file
        self.special_tokens = special_tokens
        self.tokenizer_json = tokenizer_json
        if tokenizer_json is None:
            self.vocab = read_vocabulary(vocab_file)
            self.do_lower_case = do_lower_case
            self._splitter = word_pieces(self.vocab, do_lower_case)
            # As Hugging Face's tokenizer does: "[MASK]" in a text is the mask token, not three
            # pieces.
            self._splitter.add_special_tokens(list(SPECIAL_TOKENS))
        else:
            self._splitter = parse_tokenizer(tokenizer_json, vocab_file)
            check_layout(self._splitter, vocab_file)
            self.vocab = numbered(self._splitter.get_vocab(), vocab_file)
            normalizer = self._splitter.normalizer
            self.do_lower_case = normalizer is not None and normalizer.normalize_str("A") == "a"

    def __len__(self) -> int:
        return len(self.vocab)

    @property
    def unknown_id(self) -> int:
        """The id that stands for unknown words; -1 if none does."""
        return self.vocab.get(self.special_tokens["unk_token"] or "", -1)

    def vocabulary_text(self) -> str:
        """Return the content of ``vocab.txt``."""
        return "".join(token + "\n" for token in self.vocab)

    def in_config(self) -> dict[str, str | bool | None]:
        """Return what config.json says about the tokenizer, for :func:`read_tokenizer`."""
        entries: dict[str, str | bool | None] = {"do_lower_case": self.do_lower_case}
        if self.tokenizer_json is None:
            return entries
        return entries | {"tokenizer_sha256": _sha256(self.tokenizer_json)} | self.special_tokens

    def huggingface_files(self, max_length: int, token_types: bool = True) -> dict[str, str]:
        """Return {name: text} of the files that make Hugging Face's tokenizer the same.

        Without ``token_types`` it gives none, for a model that takes none.
        """
        about: dict[str, Any]
        inputs = ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"]
        if self.tokenizer_json is not None:
            # transformers uses the tokenizer.json of this class as it is, whatever its version.
            about = {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_input_names": inputs,
                "model_max_length": max_length,
                **{name: token for name, token in self.special_tokens.items() if token is not None},
            }
            return {
                "tokenizer.json": self.tokenizer_json,
                "tokenizer_config.json": json.dumps(about, indent=2) + "\n",
            }
        about = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.do_lower_case,
            "tokenize_chinese_chars": True,
            "strip_accents": None,
            "model_max_length": max_length,
            **self.special_tokens,
        }
        if not token_types:
            about["model_input_names"] = inputs
        return {
            "vocab.txt": self.vocabulary_text(),
            "tokenizer.json": self._splitter.to_str(),
            "tokenizer_config.json": json.dumps(about, indent=2) + "\n",
        }

    def gluonnlp_vocabulary(self) -> str:
        """Return the text of a ``.vocab`` that ``gluonnlp.vocab.BERTVocab.from_json`` reads."""
        content = {
            "idx_to_token": list(self.vocab),
            "token_to_idx": self.vocab,
            "reserved_tokens": None,
            "unknown_token": self.special_tokens["unk_token"],
            "padding_token": self.special_tokens["pad_token"],
            "cls_token": self.special_tokens["cls_token"],
            "sep_token": self.special_tokens["sep_token"],
            "mask_token": self.special_tokens["mask_token"],
            "bos_token": None,
            "eos_token": None,
        }
        return json.dumps(content) + "\n"

    def tokenize(self, text: str) -> list[str]:
        """Return the word pieces of ``text``, without [CLS] and [SEP]."""
        return self._splitter.encode(text, add_special_tokens=False).tokens

    def encode(
        self,
        text_a: Sequence[str],
        text_b: Sequence[str] | None,
        max_len: int,
        long_text: str = HEAD,
    ) -> EncodedTexts:
        """Convert texts or pairs of texts to token ids, on all cores.

        Parameters
        ----------
        text_a, text_b : sequences of str
            ``text_b`` is None for single sentences.
        max_len : int
            Maximum tokens per window, including [CLS] and [SEP].
        long_text : str
            What becomes of a longer text: see :func:`bert.encoding.cut`.
        """

        def split(texts: list) -> list:
            with _library(f"{self.vocab_file} cannot split a text"):
                return self._splitter.encode_batch_fast(texts)

        return encode_all(split, text_a, text_b, max_len, long_text)


def word_pieces(
    vocab: dict[str, int],
    lowercase: bool,
    strip_accents: bool | None = None,
    chinese: bool = True,
    special_tokens: dict[str, str | None] = BERT_TOKENS,
) -> tokenizers.Tokenizer:
    """Return BERT's way of splitting text; the special tokens are not yet added to it.

    Parameters
    ----------
    vocab : dict of str to int
        The id of each token.
    lowercase, strip_accents : bool
        None: accents are stripped if the text is lowercased.
    chinese : bool
        Chinese characters become tokens of their own.
    special_tokens : dict of str to str
        The tokens that stand for unknown words, before the first text and after each text.
    """
    unknown, first, separator = (
        str(special_tokens[name]) for name in ("unk_token", "cls_token", "sep_token")
    )
    splitter = tokenizers.Tokenizer(
        models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100)
    )
    splitter.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    splitter.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    splitter.post_processor = processors.BertProcessing(
        (separator, vocab[separator]), (first, vocab[first])
    )
    return splitter


def parse_tokenizer(text: str, source: str | Path) -> tokenizers.Tokenizer:
    """Return the tokenizer that the text of a tokenizer.json describes.

    Raises
    ------
    UserError
        The text, which is that of the file ``source``, describes none; or one that gives different
        ids each time, or none for unknown words.
    """
    with _library(f"{source} is not a tokenizer.json"):
        splitter = tokenizers.Tokenizer.from_str(text)
        splitter.no_truncation()
        splitter.no_padding()
        model = json.loads(splitter.to_str())["model"]
    if model.get("dropout") or model.get("alpha") or model.get("nbest_size"):
        raise UserError(f"{source} splits words at random, which is not supported")
    unknown = model.get("unk_token")
    if unknown is not None and splitter.token_to_id(unknown) is None:
        raise UserError(f"{source} is not a BERT vocabulary: it lacks {unknown}")
    if model["type"] == "Unigram" and model["unk_id"] is None:
        raise UserError(f"{source} has no unk_id, the token for unknown words")
    return splitter


def check_layout(splitter: tokenizers.Tokenizer, source: str | Path) -> None:
    """Raise UserError unless the network can take what a tokenizer adds to texts.

    The types of all tokens are 0, or 1 from somewhere in the second text's part on: the network is
    given where that is.
    """
    with _library(f"{source}: it cannot split text"):
        empty, single = splitter.encode(""), splitter.encode("a")
        pair = splitter.encode("a", "a a")
    types = pair.type_ids
    if any(single.type_ids) or types != sorted(types) or not set(types) <= {0, 1}:
        raise UserError(
            f"{source}: the token types of a pair are {types}, which is not supported: they must "
            "be 0 for the first text and 1 for the second"
        )
    if not empty.ids or max(single.ids + pair.ids) >= splitter.get_vocab_size():
        raise UserError(f"{source}: its post_processor adds no token, or one of an unknown id")


@contextmanager
def _library(problem: str) -> Iterator[None]:
    """Turn what the tokenizers library raises, also where it panics, into a UserError."""
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"  # no Exception, and of no public module
        if lacks_memory(error) or not (panic or isinstance(error, Exception)):
            raise
        raise UserError(f"{problem} ({str(error).splitlines()[0]})") from None


def numbered(vocab: dict[str, int], source: str | Path) -> dict[str, int]:
    """Return a vocabulary in the order of its ids; UserError if they are not 0, 1, 2, …"""
    whole = all(type(id_) is int for id_ in vocab.values())
    if not whole or set(vocab.values()) != set(range(len(vocab))):
        raise UserError(f"{source}: the ids of its tokens are not 0, 1, 2, …")
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


def read_tokenizer(folder: Path, config: dict) -> BERTTokenizer:
    """Read the tokenizer of a folder that a run or ``bert.convert`` has written.

    Parameters
    ----------
    folder : Path
    config : dict
        Its config.json, with what :meth:`BERTTokenizer.in_config` returns.

    Raises
    ------
    UserError
        A file is missing, damaged or was edited.
    """
    if not isinstance(config["do_lower_case"], bool):
        raise UserError(f"{folder / 'config.json'}: do_lower_case must be true or false")
    if "tokenizer_sha256" not in config:
        return BERTTokenizer(folder / "vocab.txt", config["do_lower_case"])
    path = folder / "tokenizer.json"
    text = read_text(path)
    if _sha256(text) != config["tokenizer_sha256"]:
        raise UserError(f"{path} is damaged or was edited: its checksum in config.json differs")
    names = {name: config.get(name) for name in BERT_TOKENS}
    if not all(isinstance(token, (str, type(None))) for token in names.values()):
        raise UserError(f"{folder / 'config.json'}: a special token is not a text")
    return BERTTokenizer(path, tokenizer_json=text, special_tokens=names)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_vocabulary(vocab_file: str | Path) -> dict[str, int]:
    """Read a vocabulary into {token: id}, in the order of the ids.

    ``vocab.txt``, Hugging Face's ``tokenizer.json`` or gluonnlp's ``.vocab``, by the name's ending.
    It raises what :class:`BERTTokenizer` raises.
    """
    if Path(vocab_file).suffix in (".json", ".vocab"):
        vocab = _parse_json(read_json(Path(vocab_file)), vocab_file)
    else:
        vocab = parse_lines(read_text(Path(vocab_file)), vocab_file)
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise UserError(f"{vocab_file} is not a BERT vocabulary: it lacks {', '.join(missing)}")
    return vocab


def parse_lines(text: str, vocab_file: str | Path) -> dict[str, int]:
    """Return the vocabulary in the text of a ``vocab.txt``; UserError if it repeats a token."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    vocab: dict[str, int] = {}
    for number, line in enumerate(lines):
        token = line.rstrip("\r")
        if token in vocab:
            raise UserError(
                f"{vocab_file}, line {number + 1}: duplicate token {token!r} (first in line "
                f"{vocab[token] + 1})"
            )
        vocab[token] = number
    return vocab


def _parse_json(content: dict, vocab_file: str | Path) -> dict[str, int]:
    try:
        # At the top level in gluonnlp's files, in "model" in Hugging Face's.
        ids = content["token_to_idx"] if "token_to_idx" in content else content["model"]["vocab"]
        ids = dict(ids)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{vocab_file} contains no vocabulary ({error})") from None
    return numbered(ids, vocab_file)


def check_vocabulary(tokenizer: BERTTokenizer, vocab_size: int) -> None:
    """Raise UserError if a vocabulary does not have the model's size.

    Rows of the model that pad it to a multiple of 8, as fast matrix products want it, are allowed.
    """
    more = vocab_size - len(tokenizer)
    if more and not (0 < more < _MOST_PADDING and vocab_size % _PADDED_TO == 0):
        raise UserError(
            f"{tokenizer.vocab_file} has {len(tokenizer)} tokens, but the model has {vocab_size}: "
            "this is not the model's vocabulary"
        )
