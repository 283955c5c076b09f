"""Write a model as a folder: Hugging Face's layout, Gluon's (parameters and config), a symbol."""

from __future__ import annotations

import json
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import mxnet as mx
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bert import huggingface, pretrained
from bert.classifier import load_classifier
from bert.files import json_text
from bert.modeling import BERTClassifier, BERTModel
from bert.parameters import arrays_of, parameters_of, set_parameters, write_params
from bert.run_config import config_text, is_run
from bert.tokenizer import BERT_TOKENS, BERTTokenizer, check_vocabulary

# Keys of a run's config.json that only this project uses: checksums, and what describes its
# tokenizer.json, which Hugging Face's other files do as well.
_CHECKSUMS = ("vocab_sha256", "sha256")
_TOKENIZER = ("tokenizer_sha256", *BERT_TOKENS)
# Of a classifier's symbol: int32 [B, L], [B, L] and [B].
SYMBOL_INPUTS = ("input_ids", "token_types", "valid_length")


class Model(NamedTuple):
    """A BERT or a classifier, without a network."""

    arrays: dict[str, np.ndarray]  # the parameters, by Gluon's structural names
    config: dict  # the content of config.json
    tokenizer: BERTTokenizer


def read_model(
    src: str,
    bert_model: str | None = None,
    bert_dataset: str | None = None,
    revision: str | None = None,
) -> Model:
    """Read a run's classifier or a pretrained BERT.

    Parameters
    ----------
    src : str
        A run's folder, a ``.params`` file, or a name for :func:`bert.pretrained.find`.
    bert_model, bert_dataset : str, optional
        Model and pretraining data, as the zoo names them.
    revision : str, optional
        See :func:`bert.get_model`.
    """
    path = Path(src)
    if is_run(path):
        net, tokenizer, config = load_classifier(path)
        return Model(arrays_of(net), config, tokenizer)
    if path.suffix == ".params":
        source = pretrained.find_params(path, bert_model or path.name, bert_dataset)
    else:
        source = pretrained.find(src, bert_dataset, revision)
    check_vocabulary(source.tokenizer, source.config.vocab_size)
    config = {
        **huggingface.config_to_huggingface(source.config),
        "architectures": [f"{source.config.member.classes}Model"],
        **source.tokenizer.in_config(),
    }
    return Model(pretrained.read_weights(source), config, source.tokenizer)


def write_huggingface(
    folder: Path, arrays: dict[str, np.ndarray], config: dict, tokenizer: BERTTokenizer
) -> None:
    """Fill a folder with what Hugging Face's ``from_pretrained`` reads.

    Parameters
    ----------
    folder : Path
    arrays : dict of str to arrays
        The parameters of a BERT or of a classifier, by Gluon's names.
    config : dict
        Its ``config.json``.
    tokenizer : BERTTokenizer

    Raises
    ------
    OSError
        The disk is full, and the like.
    """
    write_tokenizer_and_config(folder, config, tokenizer)
    sizes = huggingface.parse_config(config, folder / "config.json")
    tensors = huggingface.huggingface_names(arrays, sizes)
    try:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from None
    with suppress(OSError):  # file systems without permissions
        # safetensors lets only the owner read it.
        mode = (folder / "config.json").stat().st_mode
        (folder / "model.safetensors").chmod(stat.S_IMODE(mode))


def write_tokenizer_and_config(folder: Path, config: dict, tokenizer: BERTTokenizer) -> None:
    """Write config.json with the labels, and the tokenizer's files, as Hugging Face reads them."""
    sizes = huggingface.parse_config(config, folder / "config.json")
    content = huggingface.own_names(_without(config, *_CHECKSUMS, *_TOKENIZER))
    _write(folder / "config.json", json_text(content))
    files = tokenizer.huggingface_files(sizes.max_length, sizes.reads_token_types)
    for name, text in files.items():
        _write(folder / name, text)


def read_huggingface(folder: Path) -> BERTClassifier:
    """Read a classifier from a folder that :func:`write_huggingface` has filled."""
    config = huggingface.config_from_huggingface(folder / "config.json")
    weights = folder / "model.safetensors"
    tensors = huggingface.read_safetensors(weights)
    encoder = huggingface.gluon_names(tensors, config, weights)
    arrays = {f"bert.{name}": array for name, array in encoder.items()}
    arrays |= {ours: tensors[theirs] for ours, theirs in huggingface.head_names(config).items()}
    classes = len(arrays["classifier.1.bias"])
    net = BERTClassifier(BERTModel(config, cls_only=True), classes)
    set_parameters(net, arrays, [mx.cpu()], weights)
    return net


def write_gluon(
    folder: Path, arrays: dict[str, np.ndarray], config: dict, tokenizer: BERTTokenizer
) -> None:
    """Fill a folder with what this project and gluonnlp read.

    The parameters are those of :func:`write_huggingface`.
    """
    vocabulary = tokenizer.vocabulary_text()
    _write(folder / "config.json", config_text(_without(config, *_CHECKSUMS), vocabulary))
    _write(folder / "vocab.txt", vocabulary)
    if tokenizer.tokenizer_json is not None:
        _write(folder / "tokenizer.json", tokenizer.tokenizer_json)
    _write(folder / "model.vocab", tokenizer.gluonnlp_vocabulary())
    write_params(folder / "model.params", arrays)


def write_symbol(
    folder: Path, net: BERTClassifier, config: dict, tokenizer: BERTTokenizer
) -> tuple[Path, Path]:
    """Fill a folder with a classifier as an MXNet symbol, of MXNet's own operators.

    Returns
    -------
    symbol, parameters : Path
        ``classifier-symbol.json``, inputs :data:`SYMBOL_INPUTS`, output ``logits_output``; and
        ``classifier-0000.params``.
    """
    symbol = net(*(mx.sym.var(name) for name in SYMBOL_INPUTS))
    # Gluon numbers the blocks of a process; without the numbers the names are always the same.
    names = {parameter.name: name for name, parameter in parameters_of(net).items()}
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        node["name"] = names.get(node["name"], node["name"].removeprefix(net.prefix))
    (output,) = graph["heads"]
    graph["nodes"][output[0]]["name"] = "logits"
    write_tokenizer_and_config(folder, config, tokenizer)
    paths = folder / "classifier-symbol.json", folder / "classifier-0000.params"
    _write(paths[0], json.dumps(graph, indent=2) + "\n")
    write_params(paths[1], {f"arg:{name}": array for name, array in arrays_of(net).items()})
    return paths


def _without(config: dict, *keys: str) -> dict:
    return {key: value for key, value in config.items() if key not in keys}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
