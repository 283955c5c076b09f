"""Hugging Face's config.json and safetensors: what would change the computation is refused."""

from __future__ import annotations

import json
import os
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert import pretrained
from bert.errors import UserError


@pytest.fixture
def model(tiny_bert, tmp_path):
    return shutil.copytree(tiny_bert, tmp_path / "model")


def read(model) -> dict[str, np.ndarray]:
    return pretrained.read_weights(pretrained.find(str(model)))


def refused(model) -> str:
    with pytest.raises(UserError) as error:
        read(model)
    assert "\n" not in str(error.value)
    return str(error.value)


def configure(model, **changes) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"is_causal": True}, "is_causal is True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'"),
        ({"model_type": "albert"}, "model_type is 'albert'"),
        ({"model_type": {"bert": 1}}, "model_type is"),
        ({"quantization_config": {"load_in_8bit": True}}, "its weights are quantized"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps must be positive"),
        ({"vocab_size": 1 << 62}, "vocab_size must be positive"),
        ({"hidden_size": -1}, "hidden_size must be positive"),
        ({"hidden_size": True}, "hidden_size is True, not a number"),
    ],
)
def test_a_config_that_describes_another_computation_is_refused(model, changes, complaint):
    configure(model, **changes)
    assert complaint in refused(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"is_decoder": False, "add_cross_attention": None, "quantization_config": None},
        {"use_cache": True, "pruned_heads": {}, "torch_dtype": "float16", "architectures": 5},
    ],
)
def test_settings_that_change_nothing_are_accepted(model, changes):
    before = read(model)
    configure(model, **changes)
    assert all(after.tobytes() == before[name].tobytes() for name, after in read(model).items())


def test_what_means_the_same_parameter_twice_is_refused(model):
    path = model / "model.safetensors"
    tensors = load_file(path)
    plain = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    save_file(plain, path)
    assert set(read(model)) == set(pretrained.gluon_names(tensors, *_config(model)))
    half = {name: tensor for name, tensor in tensors.items() if "layer.0" in name}
    save_file(half | {n: t for n, t in plain.items() if "layer.0" not in n}, path)
    assert 'with and without "bert."' in refused(model)
    save_file(tensors | {"pooler.dense.bias": plain["pooler.dense.bias"] + 1}, path)
    assert "two tensors for pooler.dense.bias" in refused(model)
    gamma = {"bert.embeddings.LayerNorm.gamma": plain["embeddings.LayerNorm.weight"] + 1}
    save_file(tensors | gamma, path)
    assert "two tensors for embeddings.LayerNorm.weight" in refused(model)


def _config(model):
    return pretrained.find(str(model)).config, "model.safetensors"


def test_a_parameter_of_a_type_that_is_not_read_is_no_missing_parameter(model):
    path = model / "model.safetensors"
    tensors = load_file(path)
    for name in ("bert.pooler.dense.weight", "bert.pooler.dense.bias"):
        tensors[name] = tensors[name].astype(np.int8)
    save_file(tensors, path)
    assert "is of type I8" in refused(model)


@pytest.mark.parametrize("shape", [[0, 2**64 - 1], [0] * 200])
def test_a_shape_that_no_array_has_is_refused(model, shape):
    path = model / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header["x"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data)] * 2}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert "a tensor's shape is not possible" in refused(model)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_files_that_never_end_are_not_read(model, name):
    (model / name).unlink()
    os.mkfifo(model / name)
    refused(model)
    (model / name).unlink()
    (model / name).symlink_to("/dev/zero")
    refused(model)
    (model / name).unlink()
    (model / name).touch()
    os.truncate(model / name, 10**12)
    assert "has 1,000,000,000,000 bytes" in refused(model)
