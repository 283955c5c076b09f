"""Hugging Face's files: their config.json, safetensors, and the names of their parameters.

One table of names serves both directions. Loads no MXNet.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from bert.config import BERTConfig, parameter_shapes
from bert.errors import UserError
from bert.files import MOST_BYTES, read_json

_NAMES_SHOWN = 6  # in an error message

# Gluon's structural name -> Hugging Face's, for what exists once ...
_MODEL_NAMES = {
    "word_embed.0.weight": "embeddings.word_embeddings.weight",
    "token_type_embed.0.weight": "embeddings.token_type_embeddings.weight",
    "encoder.position_weight": "embeddings.position_embeddings.weight",
    "encoder.layer_norm.gamma": "embeddings.LayerNorm.weight",
    "encoder.layer_norm.beta": "embeddings.LayerNorm.bias",
    "pooler.weight": "pooler.dense.weight",
    "pooler.bias": "pooler.dense.bias",
}
# ... and once a layer ("encoder.transformer_cells.N." -> "encoder.layer.N.").
_LAYER_NAMES = {
    "attention_cell.proj_query.weight": "attention.self.query.weight",
    "attention_cell.proj_query.bias": "attention.self.query.bias",
    "attention_cell.proj_key.weight": "attention.self.key.weight",
    "attention_cell.proj_key.bias": "attention.self.key.bias",
    "attention_cell.proj_value.weight": "attention.self.value.weight",
    "attention_cell.proj_value.bias": "attention.self.value.bias",
    "proj.weight": "attention.output.dense.weight",
    "proj.bias": "attention.output.dense.bias",
    "layer_norm.gamma": "attention.output.LayerNorm.weight",
    "layer_norm.beta": "attention.output.LayerNorm.bias",
    "ffn.ffn_1.weight": "intermediate.dense.weight",
    "ffn.ffn_1.bias": "intermediate.dense.bias",
    "ffn.ffn_2.weight": "output.dense.weight",
    "ffn.ffn_2.bias": "output.dense.bias",
    "ffn.layer_norm.gamma": "output.LayerNorm.weight",
    "ffn.layer_norm.beta": "output.LayerNorm.bias",
}
# Ignored in a checkpoint: pre-training heads, another task's head, and buffers that old versions of
# transformers saved.
_IGNORED_PREFIXES = ("cls.", "classifier.", "qa_outputs.", "embeddings.position_ids")
HEAD_NAMES = {"classifier.1.weight": "classifier.weight", "classifier.1.bias": "classifier.bias"}
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

# Keys of config.json that change what is computed: the value that is supported, which is also the
# one where the key is missing, and what is wrong with others.
_SETTINGS = {
    "model_type": ("bert", "only BERT is supported"),
    "hidden_act": ("gelu", "only BERT's own activation, gelu, is supported"),
    "position_embedding_type": ("absolute", "only absolute position embeddings are supported"),
    "is_decoder": (False, "a decoder attends to earlier tokens only, and this program encodes"),
    "is_causal": (False, "only attention to all tokens is supported"),
    "add_cross_attention": (False, "cross-attention is not supported"),
}
# Hugging Face's values for keys that old config.json files lack.
_CONFIG_DEFAULTS = {"type_vocab_size": 2, "layer_norm_eps": 1e-12}


def gluon_to_huggingface(num_layers: int) -> dict[str, str]:
    """Return {Gluon's structural name: Hugging Face's name without "bert."} for a BERT."""
    names = dict(_MODEL_NAMES)
    for layer in range(num_layers):
        for gluon, huggingface in _LAYER_NAMES.items():
            names[f"encoder.transformer_cells.{layer}.{gluon}"] = (
                f"encoder.layer.{layer}.{huggingface}"
            )
    return names


def config_from_huggingface(path: Path) -> BERTConfig:
    """Read the sizes of a BERT from Hugging Face's ``config.json`` (or a run's).

    Raises
    ------
    UserError
        It is not JSON, or describes something else than a BERT that encodes, or a BERT with a
        setting that is not supported.
    """
    content = read_json(path)
    for name, (value, problem) in _SETTINGS.items():
        found = content.get(name, value)
        if found != value and not (found is None and value is False):
            raise UserError(f"{path}: {name} is {found!r}, but {problem}")
    if content.get("quantization_config"):
        raise UserError(f"{path}: its weights are quantized, which is not supported")
    sizes: dict[str, Any] = {}
    for ours, theirs in _CONFIG_NAMES.items():
        content.setdefault(theirs, _CONFIG_DEFAULTS.get(theirs))
        if content[theirs] is None:
            raise UserError(f"{path} lacks {theirs}")
        kind = float if ours == "layer_norm_eps" else int
        if isinstance(content[theirs], bool) or not isinstance(content[theirs], (int, kind)):
            raise UserError(f"{path}: {theirs} is {content[theirs]!r}, not a number")
        if not 0 < content[theirs] < 1 << 40:
            raise UserError(f"{path}: {theirs} must be positive and finite")
        sizes[ours] = kind(content[theirs])
    try:
        return BERTConfig(**sizes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def config_to_huggingface(config: BERTConfig) -> dict:
    """Return the part of ``config.json`` that describes a BERT's sizes."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in _CONFIG_NAMES.items()}
    return {"model_type": "bert", "hidden_act": "gelu", **sizes}


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
        none.

    Raises
    ------
    UserError
        The tensors do not match the config; the message lists which ones are missing, unexpected
        or of the wrong shape. ``source`` is the file that the message names.
    """
    found: dict[str, np.ndarray] = {}
    full_names = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("bert.")
        if not name.startswith(_IGNORED_PREFIXES):
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
            name = name.replace("LayerNorm.beta", "LayerNorm.bias")
            if name in found:
                raise UserError(f"{source} has two tensors for {name}")
            found[name], full_names[name] = tensor, full_name
    names = gluon_to_huggingface(config.num_layers)
    if not any(names[ours] in found for ours in _POOLER):
        names = {ours: theirs for ours, theirs in names.items() if ours not in _POOLER}
    shapes = parameter_shapes(config)
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
    if len({full_name.startswith("bert.") for full_name in full_names.values()}) > 1:
        raise UserError(
            f'{source} has tensors with and without "bert." before their name: which ones are '
            "the model's cannot be told"
        )
    return {ours: found[theirs] for ours, theirs in names.items()}


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN]) or "nothing"
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def huggingface_names(arrays: dict[str, np.ndarray], num_layers: int) -> dict[str, np.ndarray]:
    """Rename a network's parameters to Hugging Face's names: the inverse of :func:`gluon_names`.

    Parameters
    ----------
    arrays : dict of str to arrays
        The parameters of a :class:`bert.modeling.BERTModel`, or of a
        :class:`bert.classifier.BERTClassifier`: these get BertForSequenceClassification's names.
    num_layers : int
    """
    names = gluon_to_huggingface(num_layers)
    if set(HEAD_NAMES) <= set(arrays):
        names = {f"bert.{ours}": f"bert.{theirs}" for ours, theirs in names.items()} | HEAD_NAMES
    return {theirs: arrays[ours] for ours, theirs in names.items() if ours in arrays}
