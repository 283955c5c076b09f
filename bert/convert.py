"""Weights from and to Hugging Face's files: one table of names, used in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bert.errors import UserError
from bert.modeling import BERTConfig

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
# What a checkpoint may hold beside the encoder: pre-training heads, another task's classifier,
# and a buffer that old versions of transformers saved.
_IGNORED_PREFIXES = ("cls.", "classifier.", "embeddings.position_ids")

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


def gluon_to_huggingface(num_layers: int) -> dict[str, str]:
    """Return {Gluon's structural name: Hugging Face's name without "bert."} of a BERT."""
    names = dict(_MODEL_NAMES)
    for layer in range(num_layers):
        for gluon, huggingface in _LAYER_NAMES.items():
            names[f"encoder.transformer_cells.{layer}.{gluon}"] = (
                f"encoder.layer.{layer}.{huggingface}"
            )
    return names


def read_json(path: Path) -> dict:
    """Read a JSON object; UserError names the file when it is missing or is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


def config_from_huggingface(path: Path) -> BERTConfig:
    """Read the sizes of a BERT from Hugging Face's ``config.json`` (or a run's)."""
    content = read_json(path)
    if content.get("model_type", "bert") != "bert":
        raise UserError(f"{path} describes a {content['model_type']!r} model, not a BERT")
    if content.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{path}: the activation {content['hidden_act']!r} is not BERT's gelu")
    if content.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{path}: only absolute position embeddings are BERT's")
    sizes = {}
    for ours, theirs in _CONFIG_NAMES.items():
        if theirs not in content:
            raise UserError(f"{path} does not say {theirs}")
        kind = float if ours == "layer_norm_eps" else int
        if isinstance(content[theirs], bool) or not isinstance(content[theirs], (int, kind)):
            raise UserError(f"{path}: {theirs} is {content[theirs]!r}, not a number")
        sizes[ours] = kind(content[theirs])
    try:
        return BERTConfig(**sizes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def config_to_huggingface(config: BERTConfig) -> dict:
    """Return ``config.json``'s keys for a BERT's sizes."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in _CONFIG_NAMES.items()}
    return {"model_type": "bert", "hidden_act": "gelu", **sizes}


def lower_case_of(directory: Path) -> bool:
    """Read whether a model directory's vocabulary is for lowercased text; default: it is."""
    for name in ("tokenizer_config.json", "config.json"):
        if (directory / name).is_file():
            value = read_json(directory / name).get("do_lower_case")
            if isinstance(value, bool):
                return value
    return True


def parameters_from_safetensors(path: Path, config: BERTConfig) -> dict[str, np.ndarray]:
    """Read a Hugging Face BERT's weights under Gluon's structural names.

    Returns
    -------
    dict of str to float32 arrays
        Every parameter of :class:`bert.modeling.BERTModel`.

    Raises
    ------
    UserError
        The file is damaged, or its tensors are not those of a BERT of this config; the message
        lists what is missing, left over or of another shape.
    """
    try:
        tensors = load_file(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except TypeError as error:
        raise UserError(f"{path}: {error} (save it as float32)") from None
    except SafetensorError as error:
        raise UserError(
            f"{path} is damaged or not a safetensors file ({error}): fetch it again"
        ) from None
    found = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("bert.")
        if not name.startswith(_IGNORED_PREFIXES):
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
            found[name.replace("LayerNorm.beta", "LayerNorm.bias")] = tensor
    names = gluon_to_huggingface(config.num_layers)
    missing = sorted(set(names.values()) - set(found))
    left_over = sorted(set(found) - set(names.values()))
    if missing or left_over:
        raise UserError(
            f"{path} does not hold the BERT its config.json describes; missing: "
            f"{', '.join(missing) or 'nothing'}; not known: {', '.join(left_over) or 'nothing'}"
        )
    return {ours: found[theirs].astype(np.float32) for ours, theirs in names.items()}
