"""WordPiece with BERT's layout of a pair: ``[CLS] text_a [SEP] text_b [SEP]``."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors
from tqdm import tqdm

from bert.errors import UserError

# Texts per call of the tokenizers library: enough to keep every core busy.
_CHUNK = 8192
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class EncodedTexts(NamedTuple):
    """Token ids of examples, concatenated in one array without padding.

    Example i has ``input_ids[offsets[i] : offsets[i + 1]]``.
    """

    input_ids: np.ndarray  # [all tokens] int32
    offsets: np.ndarray  # [examples + 1] int64
    first_segment: np.ndarray  # [examples] int32: tokens of type 0 ([CLS], first text, its [SEP])
    truncated: np.ndarray  # [examples] bool: longer than max_len


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

    Raises
    ------
    UserError
        The file is not UTF-8, repeats a token or lacks one of BERT's special tokens.
    """

    def __init__(self, vocab_file: str | Path, do_lower_case: bool = True):
        self.vocab_file = vocab_file
        self.vocab = read_vocabulary(vocab_file)
        self.do_lower_case = do_lower_case
        splitter = tokenizers.Tokenizer(
            models.WordPiece(self.vocab, unk_token="[UNK]", max_input_chars_per_word=100)
        )
        splitter.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=do_lower_case
        )
        splitter.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        splitter.post_processor = processors.BertProcessing(
            ("[SEP]", self.vocab["[SEP]"]), ("[CLS]", self.vocab["[CLS]"])
        )
        # As Hugging Face's tokenizer does: "[MASK]" in a text is the mask token, not three pieces.
        splitter.add_special_tokens(list(SPECIAL_TOKENS))
        self._splitter = splitter

    def __len__(self) -> int:
        return len(self.vocab)

    def vocabulary_text(self) -> str:
        """Return the content of ``vocab.txt``."""
        return "".join(token + "\n" for token in self.vocab)

    def huggingface_files(self, max_length: int) -> dict[str, str]:
        """Return {name: text} of the files that make Hugging Face's tokenizer the same."""
        self._splitter.no_truncation()
        about = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.do_lower_case,
            "tokenize_chinese_chars": True,
            "strip_accents": None,
            "model_max_length": max_length,
            **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS},
        }
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
            "unknown_token": "[UNK]",
            "padding_token": "[PAD]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
            "bos_token": None,
            "eos_token": None,
        }
        return json.dumps(content) + "\n"

    def tokenize(self, text: str) -> list[str]:
        """Return the word pieces of ``text``, without [CLS] and [SEP]."""
        self._splitter.no_truncation()
        return self._splitter.encode(text, add_special_tokens=False).tokens

    def encode(
        self, text_a: Sequence[str], text_b: Sequence[str] | None, max_len: int
    ) -> EncodedTexts:
        """Convert texts or pairs of texts to token ids, on all cores.

        Parameters
        ----------
        text_a, text_b : sequences of str
            ``text_b`` is None for single sentences.
        max_len : int
            Maximum tokens per example, including [CLS] and [SEP]; of a pair, the longer text is
            truncated first.
        """
        self._splitter.enable_truncation(max_len, strategy="longest_first")
        ids = array("i")
        lengths = np.zeros(len(text_a), np.int64)
        first_segment = np.zeros(len(text_a), np.int32)
        truncated = np.zeros(len(text_a), bool)
        # In chunks, because the library's result takes a hundred times the memory of the ids.
        with tqdm(
            total=len(text_a),
            desc="tokenizing",
            unit=" examples",
            unit_scale=True,
            delay=1,
            leave=False,
            disable=None,
        ) as progress:
            for start in range(0, len(text_a), _CHUNK):
                chunk: list[Any] = list(text_a[start : start + _CHUNK])
                if text_b is not None:
                    chunk = list(zip(chunk, text_b[start : start + _CHUNK], strict=True))
                for i, encoding in enumerate(self._splitter.encode_batch_fast(chunk), start):
                    ids.extend(encoding.ids)
                    lengths[i] = len(encoding)
                    first_segment[i] = len(encoding)
                    if text_b is not None:
                        first_segment[i] -= sum(encoding.type_ids)
                    truncated[i] = bool(encoding.overflowing)
                progress.update(len(chunk))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return EncodedTexts(np.frombuffer(ids, np.int32), offsets, first_segment, truncated)


def read_vocabulary(vocab_file: str | Path) -> dict[str, int]:
    """Read a vocabulary into {token: id}, in the order of the ids.

    ``vocab.txt``, Hugging Face's ``tokenizer.json`` or gluonnlp's ``.vocab``, by the name's ending.
    It raises what :class:`BERTTokenizer` raises.
    """
    try:
        text = Path(vocab_file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the vocabulary {vocab_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{vocab_file} is not a UTF-8 vocabulary") from None
    if Path(vocab_file).suffix in (".json", ".vocab"):
        vocab = _parse_json(text, vocab_file)
    else:
        vocab = _parse_lines(text, vocab_file)
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise UserError(f"{vocab_file} is not a BERT vocabulary: it lacks {', '.join(missing)}")
    return vocab


def _parse_lines(text: str, vocab_file: str | Path) -> dict[str, int]:
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


def _parse_json(text: str, vocab_file: str | Path) -> dict[str, int]:
    try:
        content = json.loads(text)
        # At the top level in gluonnlp's files, in "model" in Hugging Face's.
        ids = content["token_to_idx"] if "token_to_idx" in content else content["model"]["vocab"]
        vocab = dict(sorted(ids.items(), key=lambda item: item[1]))
        if list(vocab.values()) != list(range(len(vocab))):
            raise ValueError("its ids are not 0, 1, 2, …")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{vocab_file} contains no vocabulary ({error})") from None
    return vocab


def check_vocabulary(tokenizer: BERTTokenizer, vocab_size: int) -> None:
    """Raise UserError if a vocabulary does not have the model's size."""
    if len(tokenizer) != vocab_size:
        raise UserError(
            f"{tokenizer.vocab_file} has {len(tokenizer)} tokens, but the model has {vocab_size}: "
            "this is not the model's vocabulary"
        )
