"""Hugging Face's files: their config.json, safetensors, and the names of their parameters.

One table of names serves both directions. Loads no MXNet.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from bert import family
from bert.config import BERTConfig, parameter_shapes
from bert.errors import UserError
from bert.family import ACTIVATIONS
from bert.files import MOST_BYTES, read_json

_NAMES_SHOWN = 6  # in an error message

# Gluon's structural name -> Hugging Face's, for what exists once, where the model has it ...
_MODEL_NAMES = {
    "word_embed.0.weight": "embeddings.word_embeddings.weight",
    "token_type_embed.0.weight": "embeddings.token_type_embeddings.weight",
    "encoder.position_weight": "embeddings.position_embeddings.weight",
    "encoder.layer_norm.gamma": "embeddings.LayerNorm.weight",
    "encoder.layer_norm.beta": "embeddings.LayerNorm.bias",
    "embed_project.weight": "embeddings_project.weight",
    "embed_project.bias": "embeddings_project.bias",
}
# ... and once a layer ("encoder.transformer_cells.N." -> "encoder.layer.N."): the parts that have a
# weight and a bias, and those of DistilBERT ("transformer.layer.N.").
_LAYER_NAMES = {
    "attention_cell.proj_query": ("attention.self.query", "attention.q_lin"),
    "attention_cell.proj_key": ("attention.self.key", "attention.k_lin"),
    "attention_cell.proj_value": ("attention.self.value", "attention.v_lin"),
    "proj": ("attention.output.dense", "attention.out_lin"),
    "layer_norm": ("attention.output.LayerNorm", "sa_layer_norm"),
    "ffn.ffn_1": ("intermediate.dense", "ffn.lin1"),
    "ffn.ffn_2": ("output.dense", "ffn.lin2"),
    "ffn.layer_norm": ("output.LayerNorm", "output_layer_norm"),
}
_POSITIONS = "encoder.position_weight"
_POOLER = ("pooler.weight", "pooler.bias")
# Type in a safetensors header -> NumPy's. NumPy has no bfloat16, the upper half of a float32.
_PARAMETERS = (".weight", ".bias", ".gamma", ".beta")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

_CONFIG_NAMES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "units": "hidden_size",
    "hidden_size": "intermediate_size",
    "num_heads": "num_attention_heads",
    "max_length": "max_position_embeddings",
    "token_type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
}
# What DistilBERT's config.json calls them.
_DISTILBERT_NAMES = {
    "num_hidden_layers": "n_layers",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}

# Keys of config.json that change what is computed: the value that is supported, which is also the
# one where the key is missing, and what is wrong with others.
_SETTINGS = {
    "position_embedding_type": ("absolute", "only absolute position embeddings are supported"),
    "is_decoder": (False, "a decoder attends to earlier tokens only, and this program encodes"),
    "is_causal": (False, "only attention to all tokens is supported"),
    "add_cross_attention": (False, "cross-attention is not supported"),
    "use_task_id": (False, "of ERNIE only version 1.0 is supported, which has no task embeddings"),
}
# Hugging Face's values for keys that old config.json files lack.
_CONFIG_DEFAULTS: dict[str, Any] = {
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "embedding_size": 128,
    "pad_token_id": 1,
}
# What every DistilBERT has, whatever its config.json says.
_DISTILBERT = {"type_vocab_size": 0, "layer_norm_eps": 1e-12}


def gluon_to_huggingface(config: BERTConfig) -> dict[str, str]:
    """Return {Gluon's structural name: Hugging Face's, without "bert."} of what was pretrained."""
    distilbert = config.model_type == "distilbert"
    shapes = parameter_shapes(config)
    names = {ours: theirs for ours, theirs in _MODEL_NAMES.items() if ours in shapes}
    if config.member.pretrained_pooler:
        names |= _dense(_POOLER, config.member.pooler)
    for layer in range(config.num_layers):
        for ours, theirs in _LAYER_NAMES.items():
            gluon = f"encoder.transformer_cells.{layer}.{ours}"
            kinds = ("gamma", "beta") if ours.endswith("layer_norm") else ("weight", "bias")
            where = "transformer" if distilbert else "encoder"
            part = f"{where}.layer.{layer}.{theirs[distilbert]}"
            names |= _dense([f"{gluon}.{kind}" for kind in kinds], part)
    return names


def _dense(ours: Sequence[str], theirs: str) -> dict[str, str]:
    return dict(zip(ours, (f"{theirs}.weight", f"{theirs}.bias"), strict=True))


def head_names(config: BERTConfig) -> dict[str, str]:
    """Return {Gluon's structural name: Hugging Face's} of a classifier's head."""
    names = _dense(("classifier.1.weight", "classifier.1.bias"), config.member.output)
    if not config.member.pretrained_pooler:
        names |= _dense([f"bert.{name}" for name in _POOLER], config.member.pooler)
    return names


def config_from_huggingface(path: Path) -> BERTConfig:
    """Read the sizes of a BERT, or of a member of its family, from Hugging Face's ``config.json``.

    A run's is one too.

    Raises
    ------
    UserError
        It is not JSON, or describes something else than a BERT that encodes, or a BERT with a
        setting that is not supported.
    """
    return parse_config(read_json(path), path)


def parse_config(content: dict, path: str | Path) -> BERTConfig:
    """Return the sizes in the content of a ``config.json``; see :func:`config_from_huggingface`."""
    model_type = content.get("model_type", "bert")
    try:
        member = family.member(model_type)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for name, (value, problem) in _SETTINGS.items():
        found = content.get(name, value)
        if found != value and not (found is None and value is False):
            raise UserError(f"{path}: {name} is {found!r}, but {problem}")
    if content.get("quantization_config"):
        raise UserError(f"{path}: its weights are quantized, which is not supported")
    content = dict(content)
    sizes: dict[str, Any] = {"model_type": model_type}
    if model_type == "distilbert":
        own = {ours: content[name] for ours, name in _DISTILBERT_NAMES.items() if name in content}
        content |= own | _DISTILBERT
    for name, value in _CONFIG_DEFAULTS.items():
        if content.get(name) is None:
            content[name] = value
    for ours, theirs in _CONFIG_NAMES.items():
        kind = float if ours == "layer_norm_eps" else int
        sizes[ours] = kind(_number(content, theirs, path, kind, theirs == "type_vocab_size"))
    act = content["hidden_act"]
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act is {act!r}, but the activations that are supported are "
            f"{', '.join(sorted(set(ACTIVATIONS.values())))}"
        )
    if member.from_padding:
        sizes["unused_positions"] = _number(content, "pad_token_id", path, int, True) + 1
        sizes["max_length"] -= sizes["unused_positions"]
    if model_type == "electra":
        width = _number(content, "embedding_size", path, int)
        sizes["embedding_size"] = None if width == sizes["units"] else width
    try:
        return BERTConfig(**sizes, hidden_act=ACTIVATIONS[act])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _number(content: dict, name: str, path: str | Path, kind: type[Any], zero: bool = False) -> Any:
    """Return a number of a config.json; UserError if it is missing, or not positive and finite."""
    value: Any = content.get(name)
    if value is None:
        raise UserError(f"{path} lacks {name}")
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise UserError(f"{path}: {name} is {value!r}, not a number")
    if not 0 < value < 1 << 40 and not (zero and value == 0):
        raise UserError(f"{path}: {name} must be positive and finite")
    return value


def config_to_huggingface(config: BERTConfig) -> dict:
    """Return the part of ``config.json`` that describes a BERT, under the names of BERT's."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in _CONFIG_NAMES.items()}
    content: dict[str, Any] = {
        "model_type": config.model_type,
        "hidden_act": config.hidden_act,
        **sizes,
    }
    if config.member.from_padding:
        content["pad_token_id"] = config.unused_positions - 1
        content["max_position_embeddings"] += config.unused_positions
    if config.model_type == "electra":
        content["embedding_size"] = config.embedding_units
    return content


def own_names(content: dict) -> dict:
    """Return the content of a ``config.json`` with the names that its model has in transformers."""
    if content["model_type"] != "distilbert":
        return content
    renamed = {
        _DISTILBERT_NAMES.get(name, name): value
        for name, value in content.items()
        if name not in _DISTILBERT
    }
    if "dropout" in renamed:  # of a classifier
        renamed["seq_classif_dropout"] = renamed["dropout"]
    return renamed


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file's floating-point tensors as float32, by their names.

    Raises
    ------
    UserError
        The file cannot be read, or is damaged.
    """
    try:
        _check_file(path)
        with safe_open(path, "numpy"):
            pass  # opening checks the header, and that it fits the file
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            _check_types(path, header)
            return {
                name: _read_tensor(file, 8 + size, about)
                for name, about in header.items()
                if about["dtype"] in _DTYPES
            }
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, OverflowError) as error:  # shapes of no elements that NumPy cannot have
        raise UserError(f"{path}: a tensor's shape is not possible ({error})") from None
    except SafetensorError as error:
        raise UserError(
            f"{path} is damaged or not a safetensors file ({error}): download it again"
        ) from None


def _check_file(path: Path) -> None:
    """Raise UserError if reading a file would not end, or would fill the memory."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"cannot read {path}: it is not a regular file")
    if status.st_size > MOST_BYTES:
        raise UserError(
            f"cannot read {path}: it has {status.st_size:,} bytes, more than {MOST_BYTES:,}"
        )


def _check_types(path: Path, header: dict) -> None:
    """Raise UserError if parameters are of a type that is not read; other tensors are ignored."""
    for name, about in header.items():
        if about["dtype"] not in _DTYPES and name.endswith(_PARAMETERS):
            raise UserError(
                f"{path}: {name} is of type {about['dtype']}, but only F64, F32, F16 and BF16 are "
                "supported"
            )


def _read_tensor(file: BinaryIO, start: int, about: dict) -> np.ndarray:
    begin, end = about["data_offsets"]
    file.seek(start + begin)
    values = np.frombuffer(file.read(end - begin), _DTYPES[about["dtype"]])
    if about["dtype"] == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # set_parameters refuses what is not finite
        return values.astype(np.float32, copy=False).reshape(about["shape"])


def gluon_names(
    tensors: dict[str, np.ndarray], config: BERTConfig, source: str | Path
) -> dict[str, np.ndarray]:
    """Rename a Hugging Face BERT's tensors to Gluon's structural names.

    Returns
    -------
    dict of str to arrays
        Every parameter of :class:`bert.modeling.BERTModel`; without the pooler if the source has
        none that was pretrained, and without the rows of the position table that no token has.

    Raises
    ------
    UserError
        The tensors do not match the config; the message lists which ones are missing, unexpected
        or of the wrong shape. ``source`` is the file that the message names.
    """
    found: dict[str, np.ndarray] = {}
    full_names = {}
    prefix = config.member.prefix
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(prefix)
        if not name.startswith(config.member.ignored):
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
            name = name.replace("LayerNorm.beta", "LayerNorm.bias")
            if name in found:
                raise UserError(f"{source} has two tensors for {name}")
            found[name], full_names[name] = tensor, full_name
    names = gluon_to_huggingface(config)
    if not any(names.get(ours) in found for ours in _POOLER):
        names = {ours: theirs for ours, theirs in names.items() if ours not in _POOLER}
    shapes = parameter_shapes(config)
    positions, width = shapes[_POSITIONS]
    shapes[_POSITIONS] = (config.unused_positions + positions, width)
    missing = sorted(set(names.values()) - set(found))
    unexpected = sorted(set(found) - set(names.values()))
    misshapen = [
        f"{theirs} {found[theirs].shape} (not {shapes[ours]})"
        for ours, theirs in names.items()
        if theirs in found and found[theirs].shape != shapes[ours]
    ]
    if missing or unexpected or misshapen:
        raise UserError(
            f"{source} does not match its config.json; missing: {_some(missing)}; unexpected: "
            f"{_some(unexpected)}; wrong shape: {_some(misshapen)}"
        )
    if len({full_name.startswith(prefix) for full_name in full_names.values()}) > 1:
        raise UserError(
            f'{source} has tensors with and without "{prefix}" before their name: which ones are '
            "the model's cannot be told"
        )
    arrays = {ours: found[theirs] for ours, theirs in names.items()}
    arrays[_POSITIONS] = arrays[_POSITIONS][config.unused_positions :]
    return arrays


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN]) or "nothing"
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def huggingface_names(arrays: dict[str, np.ndarray], config: BERTConfig) -> dict[str, np.ndarray]:
    """Rename a network's parameters to Hugging Face's names: the inverse of :func:`gluon_names`.

    Parameters
    ----------
    arrays : dict of str to arrays
        The parameters of a :class:`bert.modeling.BERTModel`, or of a
        :class:`bert.classifier.BERTClassifier`: these get the names of Hugging Face's classifier,
        such as BertForSequenceClassification.
    config : BERTConfig
    """
    names, head = gluon_to_huggingface(config), head_names(config)
    positions = _POSITIONS
    if set(head) <= set(arrays):
        prefix = config.member.prefix
        names = {f"bert.{ours}": f"{prefix}{theirs}" for ours, theirs in names.items()} | head
        positions = f"bert.{_POSITIONS}"
    if config.unused_positions:
        table = arrays[positions]
        unused = np.zeros((config.unused_positions, table.shape[1]), table.dtype)
        arrays = {**arrays, positions: np.concatenate([unused, table])}
    return {theirs: arrays[ours] for ours, theirs in names.items() if ours in arrays}
