"""What is frozen of a network has no gradients and drops nothing; the rest has both, as ever."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from conftest import cpus, new_net
from mxnet import autograd
from numpy_bert import NumpyBERT
from scipy.special import log_softmax

from bert.frozen import BehindFrozen, frozen_output
from bert.huggingface import gluon_to_huggingface
from bert.parameters import parameters_of
from dataset import packed_batch, padded_batch

pytestmark = pytest.mark.usefixtures("fused_operators")

INDICES = np.arange(6)
# Layers of the tiny BERT, which has two, and whether the pooler is frozen.
PARTS = pytest.mark.parametrize("part", [(0, False), (1, False), (2, False), (2, True)])


def frozen_net(config, start, part, dropout=0.0, fused=True):
    net = new_net(config, start, cpus(1), dropout)
    net.bert.freeze(*part)
    if fused:
        net.bert.fuse()
    return net


def int_arrays(arrays):
    return [mx.nd.array(array, dtype="int32") for array in arrays]


@pytest.mark.parametrize("fused", [False, True])
def test_a_frozen_part_drops_nothing_and_the_rest_does(fused, tiny_config, start, examples):
    def pooled(part, seed):
        net = frozen_net(tiny_config, start, part, dropout=0.3, fused=fused)
        batch = packed_batch if fused else padded_batch
        inputs = int_arrays(batch(examples, INDICES))
        if fused:
            inputs += int_arrays([[seed, 0.3 * 2**24]])
        mx.random.seed(seed)
        with autograd.train_mode():
            return net.bert(*inputs)[1].asnumpy()

    for part in ((2, True), (2, False)):
        np.testing.assert_array_equal(pooled(part, 1), pooled(part, 2))
    for part in ((1, False), (0, False)):
        assert not np.allclose(pooled(part, 1), pooled(part, 2))


@pytest.mark.parametrize("part", [(-1, False), (3, False), (1, True)])
def test_parts_that_a_network_does_not_have_are_refused(part, tiny_config, start):
    with pytest.raises(ValueError, match="cannot freeze"):
        frozen_net(tiny_config, start, part)


def float64_loss(config, arrays, examples) -> float:
    """Return the summed cross-entropy in float64."""
    names = gluon_to_huggingface(config)
    tensors = {names[n.removeprefix("bert.")]: a for n, a in arrays.items() if n[:5] == "bert."}
    bert = NumpyBERT(tensors, config.num_layers, config.num_heads, config.layer_norm_eps)
    (head,) = (n for n in arrays if n.startswith("classifier") and n.endswith("weight"))
    total = 0.0
    for i in INDICES:
        ids = examples.input_ids[examples.offsets[i] : examples.offsets[i + 1]]
        types = (np.arange(len(ids)) >= examples.first_segment[i]).astype(int)
        logits = bert(ids, types)[1] @ arrays[head].T + arrays[head.replace("weight", "bias")]
        total -= log_softmax(logits)[examples.label[i]]
    return total


@PARTS
def test_gradients_behind_a_frozen_part_equal_finite_differences_in_float64(
    part, tiny_config, start, examples
):
    net = frozen_net(tiny_config, start, part)
    *ids, offsets = int_arrays(packed_batch(examples, INDICES))
    hidden = frozen_output(net.bert, *ids, offsets)
    behind = BehindFrozen(net)
    behind.hybridize(static_alloc=True)
    batch = () if part[0] == 2 else (offsets, mx.nd.zeros(2, dtype="int32"))
    label = mx.nd.array(examples.label[INDICES])
    with autograd.record():
        logits = behind(hidden, *batch)
        loss = -mx.nd.log_softmax(logits).pick(label).sum()
    loss.backward()
    exact = {name: array.astype(np.float64) for name, array in start.items()}
    assert loss.asscalar() == pytest.approx(float64_loss(tiny_config, exact, examples), rel=1e-5)

    random, step, trained = np.random.default_rng(0), 1e-5, 0
    for name, parameter in parameters_of(net).items():
        if parameter.grad_req == "null":
            continue
        trained += 1
        direction = random.normal(size=parameter.shape)
        above, below = (
            float64_loss(tiny_config, exact | {name: exact[name] + move * direction}, examples)
            for move in (step, -step)
        )
        found = (parameter.grad().asnumpy() * direction).sum()
        assert found == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=1e-5), name
    per_layer, pooler, head = 16, 2, 2
    assert trained == (2 - part[0]) * per_layer + (not part[1]) * pooler + head
