"""BERT's family: transformers' outputs, float64's gradients, and exports that compute the same."""

from __future__ import annotations

import json
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT
from mxnet import autograd
from numpy_bert import NumpyBERT
from safetensors.numpy import load_file, save_file

import dataset
from bert import convert, export, native, onnx_graph, pretrained
from bert.config import BERTConfig, parameter_shapes
from bert.errors import UserError
from bert.huggingface import gluon_to_huggingface
from bert.inference import Inference
from bert.modeling import BERTClassifier, BERTModel
from bert.parameters import arrays_of, parameters_of, set_parameters
from finetuning.training.inputs import network_inputs

GOLDEN = json.loads((ROOT / "tests/golden/family.json").read_text())


def write(folder, case, **changes):
    """Write a model as transformers does, with the weights that the golden values are of."""
    random = np.random.default_rng(1)
    tensors = {}
    for name, shape in case["shapes"].items():
        centre = "LayerNorm.weight" in name or "layer_norm.weight" in name
        tensors[name] = (random.normal(0, 0.5, shape) + centre).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(case["config"] | changes))
    return tensors


def as_examples(pairs) -> dataset.TokenizedExamples:
    lengths = [len(pair["input_ids"]) for pair in pairs]
    return dataset.TokenizedExamples(
        np.concatenate([pair["input_ids"] for pair in pairs]).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.array([pair["token_type_ids"].count(0) for pair in pairs], np.int32),
        np.zeros(len(pairs), np.int32),
        max(lengths),
        np.zeros(len(pairs), bool),
    )


def logits_of(net, pairs, fused: bool) -> np.ndarray:
    if fused:
        try:
            native.load()
        except native.NativeUnavailable as reason:
            pytest.skip(str(reason))
        net.bert.fuse()
    net.hybridize(static_alloc=True)
    return net(*network_inputs(net, as_examples(pairs), np.arange(len(pairs)), mx.cpu())).asnumpy()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", GOLDEN)
def test_logits_are_those_of_transformers(name, fused, tmp_path):
    case = GOLDEN[name]
    write(tmp_path, case)
    logits = logits_of(export.read_huggingface(tmp_path), case["pairs"], fused)
    expected = [pair["logits"] for pair in case["pairs"]]
    np.testing.assert_allclose(logits, expected, atol=2e-5)


@pytest.mark.usefixtures("native_library")
def test_those_that_compute_as_bert_does_are_computed_without_mxnet(tmp_path):
    plain = []
    for name, case in GOLDEN.items():
        write(tmp_path, case)
        net, examples = export.read_huggingface(tmp_path), as_examples(case["pairs"])
        if net.bert.config.is_plain:
            plain.append(name)
            logits = dataset.logits_by(Inference.of(net), examples, np.arange(3))
            expected = [pair["logits"] for pair in case["pairs"]]
            np.testing.assert_allclose(logits, expected, atol=2e-5)
        else:
            with pytest.raises(ValueError, match="other operations"):
                Inference.of(net)
    assert plain == ["RoBERTa", "RoBERTa, two types", "XLM-RoBERTa", "CamemBERT"]


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_written_for_transformers_has_the_names_and_values_that_were_read(name, tmp_path):
    case = GOLDEN[name]
    tensors = write(tmp_path, case)
    net = export.read_huggingface(tmp_path)
    written = export.huggingface.huggingface_names(arrays_of(net), net.bert.config)
    for position in [key for key in tensors if key.endswith("position_embeddings.weight")]:
        tensors[position][: net.bert.config.unused_positions] = 0  # no token has these positions
    assert written.keys() == tensors.keys()
    assert all(written[key].tobytes() == tensors[key].tobytes() for key in tensors)


@pytest.mark.parametrize("name", GOLDEN)
def test_an_onnx_file_computes_the_same_and_takes_the_tokenizers_arrays_only(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    case = GOLDEN[name]
    write(tmp_path, case)
    net = export.read_huggingface(tmp_path)
    onnx_graph.write(tmp_path / "model.onnx", arrays_of(net), net.bert.config)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs = {node.name for node in session.get_inputs()}
    assert ("token_type_ids" in inputs) == net.bert.config.reads_token_types
    ids, types, lengths = dataset.padded_batch(as_examples(case["pairs"]), np.arange(3))
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    batch = {key: array.astype(np.int64) for key, array in batch.items() if key in inputs}
    expected = [pair["logits"] for pair in case["pairs"]]
    np.testing.assert_allclose(session.run(["logits"], batch)[0], expected, atol=2e-5)


def configs() -> dict[str, BERTConfig]:
    sizes = {"num_layers": 2, "units": 8, "hidden_size": 12, "num_heads": 2, "max_length": 14}
    bert = BERTConfig(40, **sizes, layer_norm_eps=1e-5)
    roberta = replace(bert, model_type="roberta", token_type_vocab_size=1, unused_positions=2)
    return {
        "gelu_new": replace(bert, hidden_act="gelu_new"),
        "silu": replace(bert, hidden_act="silu"),
        "ernie": replace(bert, model_type="ernie", hidden_act="relu"),
        "distilbert": replace(bert, model_type="distilbert", token_type_vocab_size=0),
        "roberta": roberta,
        "electra": replace(bert, model_type="electra", embedding_size=4),
    }


def float64_logits(config: BERTConfig, arrays: dict, pairs) -> np.ndarray:
    names = gluon_to_huggingface(replace(config, model_type="bert"))
    activations = config.hidden_act, config.member.pooler_activation
    reference = NumpyBERT(
        {theirs: arrays[f"bert.{ours}"] for ours, theirs in names.items()},
        config.num_layers,
        config.num_heads,
        config.layer_norm_eps,
        activations,
    )
    pooled = [
        reference(np.array(pair["input_ids"]), np.array(pair["token_type_ids"]))[1]
        for pair in pairs
    ]
    return pooled @ arrays["classifier.1.weight"].T + arrays["classifier.1.bias"]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", configs())
def test_gradients_are_those_of_float64(name, fused):
    """Compare derivatives along a random direction of each parameter with finite differences."""
    config, pairs = configs()[name], GOLDEN["ERNIE 1.0"]["pairs"]
    random = np.random.default_rng(3)
    net = BERTClassifier(BERTModel(config, 0.0, cls_only=True), 3, 0.0)
    arrays = {
        key: random.normal(key.endswith("gamma"), 0.5, parameter.shape)
        for key, parameter in parameters_of(net).items()
    }
    arrays = {key: array.astype(np.float32).astype(np.float64) for key, array in arrays.items()}
    set_parameters(
        net, {key: array.astype(np.float32) for key, array in arrays.items()}, [mx.cpu()], "test"
    )
    logits_of(net, pairs, fused)
    weights = random.normal(0, 1, (len(pairs), 3)).astype(np.float32)
    with autograd.record():
        logits = net(*network_inputs(net, as_examples(pairs), np.arange(3), mx.cpu()))
    logits.backward(mx.nd.array(weights))
    np.testing.assert_allclose(logits.asnumpy(), float64_logits(config, arrays, pairs), atol=2e-5)
    for key, parameter in parameters_of(net).items():
        direction = random.normal(0, 1, parameter.shape) / np.sqrt(parameter.data().size)
        step = 1e-5
        ahead, behind = (
            (float64_logits(config, {**arrays, key: arrays[key] + s * direction}, pairs) * weights)
            for s in (step, -step)
        )
        expected = (ahead - behind).sum() / (2 * step)
        found = (parameter.grad().asnumpy() * direction).sum()
        assert abs(found - expected) < 1e-4 * max(1, abs(expected)), key


@pytest.mark.parametrize("name", GOLDEN)
def test_a_pretrained_model_is_read_without_its_head_and_converted(name, tmp_path, tiny_bert):
    case = GOLDEN[name]
    tensors = write(tmp_path, case)
    words = [f"w{i}" for i in range(case["config"]["vocab_size"] - 5)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in special + words))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    net, _ = pretrained.get_model(str(tmp_path), cls_only=True)
    member = net.config.member
    head = export.read_huggingface(tmp_path)
    for key, array in arrays_of(net).items():
        same = array.tobytes() == arrays_of(head)[f"bert.{key}"].tobytes()
        assert same == (member.pretrained_pooler or "pooler" not in key), key
    back = tmp_path / "back"
    assert convert.main([str(tmp_path), str(back), "--to", "huggingface"]) == 0
    written = load_file(back / "model.safetensors")
    assert {f"{member.prefix}{key}" for key in written} == {
        key for key in tensors if key.startswith(member.prefix)
    }
    config = json.loads((back / "config.json").read_text())
    assert config["architectures"] == [
        case["architecture"].removesuffix("ForSequenceClassification") + "Model"
    ]
    for key in set(config) & set(case["config"]) - {"hidden_act"}:
        assert config[key] == case["config"][key]


@pytest.mark.parametrize(
    "changes, nearest",
    [
        ({"model_type": "albert"}, "DistilBERT"),
        ({"model_type": "deberta-v2"}, "roberta_12_768_12"),
        ({"model_type": "modernbert"}, "roberta_12_768_12"),
        ({"model_type": "mpnet"}, "roberta_12_768_12"),
        ({"model_type": "xlm-roberta-xl"}, "XLM-RoBERTa"),
        ({"model_type": "who-knows"}, "bert_12_768_12"),
        ({"model_type": ["bert"]}, "bert_12_768_12"),
    ],
)
def test_a_model_outside_the_family_is_refused_and_the_nearest_one_named(
    changes, nearest, tmp_path
):
    write(tmp_path, GOLDEN["ERNIE 1.0"], **changes)
    with pytest.raises(UserError, match=nearest) as error:
        pretrained.find(str(tmp_path))
    assert "\n" not in str(error.value) and "is not supported" in str(error.value)


@pytest.mark.parametrize(
    "name, changes, complaint",
    [
        ("ERNIE 1.0", {"use_task_id": True}, "only version 1.0"),
        ("ERNIE 1.0", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ("ERNIE 1.0", {"hidden_act": ["relu"]}, "hidden_act is"),
        ("DistilBERT", {"activation": "quick_gelu"}, "is 'quick_gelu'"),
        ("DistilBERT", {"n_heads": 3}, "not divisible by 3 heads"),
        ("RoBERTa", {"pad_token_id": -1}, "pad_token_id must be"),
        ("RoBERTa", {"pad_token_id": 20}, "max_length must be positive"),
        ("ELECTRA", {"embedding_size": "4"}, "embedding_size is '4', not a number"),
        ("ELECTRA", {"embedding_size": 6}, "wrong shape"),
        ("RoBERTa", {"is_decoder": True}, "is_decoder is True"),
    ],
)
def test_settings_that_are_not_supported_are_refused(name, changes, complaint, tmp_path):
    write(tmp_path, GOLDEN[name], **changes)
    with pytest.raises(UserError, match=complaint):
        export.read_huggingface(tmp_path)


def test_the_shapes_are_known_without_a_network():
    for config in configs().values():
        shapes = {name: p.shape for name, p in parameters_of(BERTModel(config)).items()}
        assert shapes == parameter_shapes(config)
