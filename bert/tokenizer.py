"""WordPiece with BERT's layout of a pair: ``[CLS] text_a [SEP] text_b [SEP]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from bert.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class BERTTokenizer:
    """A vocabulary, and the splitting of text into its word pieces.

    Parameters
    ----------
    vocab_file : path
        ``vocab.txt``: one token a line, its line number from 0 is its id.
    do_lower_case : bool
        Lowercase and strip accents first, as the uncased checkpoints need. Chinese characters
        are split from their neighbours either way.

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

    def tokenize(self, text: str) -> list[str]:
        """Return the word pieces of ``text``, without [CLS] and [SEP]."""
        self._splitter.no_truncation()
        return self._splitter.encode(text, add_special_tokens=False).tokens

    def encode(
        self, text_a: Sequence[str], text_b: Sequence[str] | None, max_len: int
    ) -> tuple[list[np.ndarray], np.ndarray, int]:
        """Turn texts, or pairs of texts, into token ids.

        Parameters
        ----------
        text_a, text_b : sequences of str
            ``text_b`` is None for single sentences.
        max_len : int
            Tokens an example may have, special ones included; the longer text of a pair is cut
            first.

        Returns
        -------
        input_ids : list of int32 arrays
            One ``[length]`` array an example.
        first_segment : int32 array ``[examples]``
            How many leading tokens are of token type 0 ([CLS], the first text, its [SEP]).
        truncated : int
            How many examples ``max_len`` has cut.
        """
        self._splitter.enable_truncation(max_len, strategy="longest_first")
        examples = list(text_a) if text_b is None else list(zip(text_a, text_b, strict=True))
        encodings = self._splitter.encode_batch(examples)
        input_ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
        first_segment = np.array(
            [e.type_ids.index(1) if 1 in e.type_ids else len(e.type_ids) for e in encodings],
            np.int32,
        )
        return input_ids, first_segment, sum(bool(e.overflowing) for e in encodings)


def read_vocabulary(vocab_file: str | Path) -> dict[str, int]:
    """Read ``vocab.txt`` into {token: id}; see :class:`BERTTokenizer` for what it raises."""
    try:
        lines = Path(vocab_file).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"cannot read the vocabulary {vocab_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{vocab_file} is not a UTF-8 vocabulary") from None
    if lines and not lines[-1]:
        lines.pop()
    vocab: dict[str, int] = {}
    for number, line in enumerate(lines):
        token = line.rstrip("\r")
        if token in vocab:
            raise UserError(
                f"{vocab_file}, line {number + 1}: the token {token!r} stands here twice "
                f"(first in line {vocab[token] + 1})"
            )
        vocab[token] = number
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise UserError(f"{vocab_file} is not a BERT vocabulary: it lacks {', '.join(missing)}")
    return vocab


def check_vocabulary(tokenizer: BERTTokenizer, vocab_size: int) -> None:
    """Raise UserError where a vocabulary is not of the model's size."""
    if len(tokenizer) != vocab_size:
        raise UserError(
            f"{tokenizer.vocab_file} has {len(tokenizer)} tokens and the model {vocab_size}: they "
            "do not belong together"
        )
