"""The two models that are measured, in Hugging Face's layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bert import runtime

runtime.prepare()

import numpy as np
from safetensors.numpy import save_file

from bert import pretrained
from bert.config import BERTConfig, parameter_shapes
from bert.huggingface import config_to_huggingface, gluon_to_huggingface


def make(cache: Path) -> None:
    """Fill ``cache/MiniLM`` and ``cache/BERT base`` where they are not there yet."""
    weights = pretrained.find("bert_6_384_12", "minilm_en_uncased").weights
    if not (cache / "MiniLM").is_dir():
        shutil.copytree(weights.parent, cache / "MiniLM")
    base = cache / "BERT base"
    if (base / "model.safetensors").is_file():
        return
    base.mkdir(parents=True, exist_ok=True)
    config = BERTConfig(30522)
    (base / "config.json").write_text(json.dumps(config_to_huggingface(config)))
    for name in ("vocab.txt", "tokenizer.json"):
        shutil.copy(weights.parent / name, base / name)
    random = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    tensors = {}
    for gluon, huggingface in gluon_to_huggingface(config).items():
        values = random.standard_normal(shapes[gluon], np.float32) * 0.02
        tensors["bert." + huggingface] = values + np.float32(gluon.endswith("gamma"))
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
