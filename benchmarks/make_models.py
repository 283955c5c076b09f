"""The two models that are measured, as folders of Hugging Face's layout. In each of them, ``run``
is the classifier as this project saves it, and ``onnx`` and ``onnx int8`` are its exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bert import runtime

runtime.prepare()

import mxnet as mx
import numpy as np
from safetensors.numpy import save_file

from bert import pretrained
from bert.config import BERTConfig, parameter_shapes
from bert.huggingface import config_to_huggingface, gluon_to_huggingface
from bert.parameters import arrays_of, write_params
from bert.run_config import config_text
from finetuning.data.tasks import find_task, task_to_config
from finetuning.options import parse
from finetuning.results.export_formats import quantize_onnx, write_onnx
from finetuning.training.start import new_classifier


def make(cache: Path) -> None:
    """Fill ``cache/MiniLM`` and ``cache/BERT base`` where they are not there yet."""
    weights = pretrained.find("bert_6_384_12", "minilm_en_uncased").weights
    if not (cache / "MiniLM").is_dir():
        shutil.copytree(weights.parent, cache / "MiniLM")
    base = cache / "BERT base"
    if not (base / "model.safetensors").is_file():
        base.mkdir(parents=True, exist_ok=True)
        for name in ("vocab.txt", "tokenizer.json"):
            shutil.copy(weights.parent / name, base / name)
        write_random(base, BERTConfig(30522))
    for model in (cache / "MiniLM", base):
        if not (model / "onnx int8" / "model.onnx").is_file():
            write_forms(model)


def write_random(folder: Path, config: BERTConfig) -> None:
    """Write a BERT of random weights."""
    (folder / "config.json").write_text(json.dumps(config_to_huggingface(config)))
    random = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    tensors = {}
    for gluon, huggingface in gluon_to_huggingface(config).items():
        values = random.standard_normal(shapes[gluon], np.float32) * 0.02
        tensors["bert." + huggingface] = values + np.float32(gluon.endswith("gamma"))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_forms(folder: Path) -> None:
    """Write the classifier of MRPC that training would start from, as a run and its exports."""
    task = find_task("MRPC")
    options = parse("", ["--pretrained_bert_parameters", str(folder)])
    model = new_classifier(options, task, [mx.cpu()])
    model.config.update(task_to_config(task))
    run = folder / "run"
    for part in (run, folder / "onnx", folder / "onnx int8"):
        part.mkdir(exist_ok=True)
    vocabulary = model.tokenizer.vocabulary_text()
    (run / "vocab.txt").write_text(vocabulary)
    (run / "config.json").write_text(config_text(model.config, vocabulary))
    write_params(run / "model.params", arrays_of(model.net))
    write_onnx(folder / "onnx", model)
    quantize_onnx(folder / "onnx int8", model)
