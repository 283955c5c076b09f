"""The network against Hugging Face's reference values and against gluonnlp's own BERT."""

from __future__ import annotations

import json
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, gluonnlp_bert

from bert.config import BERTConfig, parameter_shapes
from bert.errors import UserError
from bert.modeling import BERTClassifier, BERTModel
from bert.parameters import parameters_of

GOLDEN = json.loads((ROOT / "tests/golden/minilm_pairs.json").read_text())["cases"]


def int_array(values) -> mx.nd.NDArray:
    return mx.nd.array(values, dtype="int32")


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{len(case['input_ids'])} tokens")
@pytest.mark.parametrize("padding", [0, 3])
def test_hidden_states_equal_hugging_faces(minilm, case, padding):
    net, _ = minilm
    length = len(case["input_ids"])
    hidden, pooled = net(
        int_array([case["input_ids"] + [0] * padding]),
        int_array([case["token_type_ids"] + [0] * padding]),
        int_array([length]),
    )
    np.testing.assert_allclose(pooled.asnumpy()[0], case["pooler_output"], atol=2e-5)
    np.testing.assert_allclose(hidden.asnumpy()[0, 0], case["cls_hidden"], atol=2e-5)
    last = hidden.asnumpy()[0, length - 1]
    np.testing.assert_allclose(last, case["last_token_hidden"], atol=2e-5)


def random_batch(config: BERTConfig, batch: int = 3, length: int = 11):
    random = np.random.default_rng(5)
    return (
        int_array(random.integers(0, config.vocab_size, (batch, length))),
        int_array(random.integers(0, 2, (batch, length))),
        int_array([length, 1, 7]),
    )


def test_the_classifier_reads_the_cls_row_and_nothing_is_lost_by_computing_only_it(tiny_config):
    whole, cls_only = BERTModel(tiny_config), BERTModel(tiny_config, cls_only=True)
    whole.initialize()
    cls_only.initialize()
    for name, parameter in parameters_of(cls_only).items():
        parameter.set_data(parameters_of(whole)[name].data())
    batch = random_batch(tiny_config)
    hidden, pooled = whole(*batch)
    cls_row, pooled_too = cls_only(*batch)
    assert cls_row.shape == (3, 1, tiny_config.units)
    np.testing.assert_allclose(pooled_too.asnumpy(), pooled.asnumpy(), atol=1e-6)
    np.testing.assert_allclose(cls_row.asnumpy(), hidden.asnumpy()[:, :1], atol=1e-6)


def test_the_shapes_of_the_parameters_are_known_without_a_network(tiny_config):
    parameters = parameters_of(BERTModel(tiny_config))
    assert {name: p.shape for name, p in parameters.items()} == parameter_shapes(tiny_config)


@pytest.mark.parametrize(
    "sizes, complaint",
    [
        ({"vocab_size": 0}, "vocab_size must be positive and finite, not 0"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be positive"),
        ({"units": 30}, "30 units are not divisible by 4 heads"),
        ({"num_layers": 1001}, "invalid number of layers: 1001"),
    ],
)
def test_sizes_that_no_bert_has_are_refused(tiny_config, sizes, complaint):
    with pytest.raises(UserError, match=complaint):
        replace(tiny_config, **sizes)


def test_fusing_needs_a_network_that_returns_only_the_cls_rows(tiny_config):
    with pytest.raises(ValueError, match="cls_only"):
        BERTModel(tiny_config).fuse()


def test_padding_changes_no_logit(tiny_config):
    net = BERTClassifier(BERTModel(tiny_config, cls_only=True))
    net.initialize()
    ids, types, valid_length = random_batch(tiny_config)
    logits = net(ids, types, valid_length).asnumpy()
    other = ids.asnumpy()
    for row, length in enumerate(valid_length.asnumpy()):
        other[row, length:] = 3
    np.testing.assert_array_equal(net(int_array(other), types, valid_length).asnumpy(), logits)


def test_a_saved_classifier_loads_into_gluonnlp_with_the_same_logits(
    gluonnlp, tiny_config, tmp_path
):
    net = BERTClassifier(BERTModel(tiny_config, cls_only=True))
    net.initialize()
    net.save_parameters(str(tmp_path / "model.params"))
    theirs = gluonnlp.model.BERTClassifier(gluonnlp_bert(tiny_config), num_classes=2, dropout=0.1)
    theirs.load_parameters(str(tmp_path / "model.params"))
    ids, types, valid_length = random_batch(tiny_config)
    np.testing.assert_allclose(
        theirs(ids, types, valid_length.astype("float32")).asnumpy(),
        net(ids, types, valid_length).asnumpy(),
        atol=1e-6,
    )
