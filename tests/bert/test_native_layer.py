"""The operator for a layer against float64 NumPy, with factors rounded where it rounds them."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from scipy.special import ndtr
from test_native import (
    EPS,
    KINDS,
    assert_close,
    assert_fails,
    attend,
    layer_norm,
    normal,
    row_factors,
    run,
)

pytestmark = pytest.mark.usefixtures("fused_operators")

SEED, SITE = 12345, 4


def gelu(z):
    return z * ndtr(z), ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def exactly(x):
    return x


def to_bfloat16(x):
    """Round to the nearest number of 8 bits, as the operator does on its way from float32."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return (rounded << np.uint32(16)).view(np.float32).astype(np.float64)


def reference(x, offsets, parameters, dy, heads, activation, cls, rate, low):
    """Return the layer's output and the gradients of x and of the parameters.

    ``low`` rounds what the operator multiplies, or keeps for backward.
    """
    wq, bq, wk, bk, wv, bv, wo, bo, g1, b1, w1, c1, w2, c2, g2, b2 = parameters
    first = offsets[:-1] if cls else slice(None)
    source = x[first]
    low_x = low(x)
    q = low(low_x[first] @ low(wq).T + bq)
    k, v = low(low_x @ low(wk).T + bk), low(low_x @ low(wv).T + bv)
    context, *_ = attend(q, k, v, offsets, heads, cls, (SEED, rate, SITE), np.zeros_like(q))
    context = low(context)
    mask = row_factors(SEED, rate, SITE + 1, *source.shape)
    outer_mask = row_factors(SEED, rate, SITE + 2, *source.shape)
    total = source + (context @ low(wo).T + bo) * mask
    attended = layer_norm(total, g1, b1, np.zeros_like(total))[0]
    low_attended = low(attended)
    inner, slope = activation(low_attended @ low(w1).T + c1)
    inner, slope = low(inner), low(slope)
    outer_total = attended + (inner @ low(w2).T + c2) * outer_mask

    out, d_total, dg2, db2 = layer_norm(outer_total, g2, b2, dy)
    d = d_total * outer_mask
    low_d = low(d)
    d_inner = (low_d @ low(w2)) * slope
    d_attended = d_total + low(d_inner) @ low(w1)
    _, d_source, dg1, db1 = layer_norm(total, g1, b1, d_attended)
    e = d_source * mask
    low_e = low(e)
    _, dq, dk, dv = attend(q, k, v, offsets, heads, cls, (SEED, rate, SITE), low(low_e @ low(wo)))
    low_q, low_k, low_v = low(dq), low(dk), low(dv)
    dx = low_k @ low(wk) + low_v @ low(wv)
    np.add.at(dx, first, low_q @ low(wq) + d_source)
    return out, [
        *(dx, low_q.T @ low_x[first], dq.sum(0), low_k.T @ low_x, dk.sum(0)),
        *(low_v.T @ low_x, dv.sum(0), low_e.T @ context, e.sum(0), dg1, db1),
        *(low(d_inner).T @ low_attended, d_inner.sum(0), low_d.T @ inner, d.sum(0), dg2, db2),
    ]


def random_layer(units, hidden, lengths, cls):
    """Return x, offsets, the parameters, and a gradient of the output."""
    random = np.random.default_rng(units)

    def weight(*shape):
        return (normal(random, *shape) / np.sqrt(shape[1])).astype(np.float32).astype(np.float64)

    def vector(size, mean=0.0):
        return mean + 0.1 * normal(random, size)

    dense = [part for _ in range(4) for part in (weight(units, units), vector(units))]
    parameters = [
        *(*dense, vector(units, 1.0), vector(units)),
        *(weight(hidden, units), vector(hidden), weight(units, hidden), vector(units)),
        *(vector(units, 1.0), vector(units)),
    ]
    parameters = [p.astype(np.float32).astype(np.float64) for p in parameters]
    offsets = np.cumsum([0, *lengths])
    x = normal(random, offsets[-1], units)
    return x, offsets, parameters, normal(random, len(lengths) if cls else offsets[-1], units)


def run_layer(x, offsets, parameters, dy, rate, **attributes):
    dropout = np.array([SEED, round(rate * 2**24)])
    attributes = {"site": SITE, "eps": EPS, **attributes}
    return run("bert_layer", (x, offsets, dropout, *parameters), dy, **attributes)


# units, hidden units, heads, lengths, activation, rate of dropout
SIZES = [
    (5, 1, 1, [1], 3, 0.0),
    (6, 3, 1, [1, 2], 2, 0.1),
    (12, 20, 3, [3, 1, 7], 1, 0.0),
    (33, 50, 3, [5, 1, 130, 2], 3, 0.1),
    (64, 48, 2, [17] * 9, 0, 0.5),
    (100, 130, 4, [73], 1, 0.1),
    (384, 96, 12, [54, 3, 90, 1, 8], 3, 0.1),
]


@pytest.mark.parametrize("bfloat16", [0, 1])
@pytest.mark.parametrize("cls", [0, 1])
@pytest.mark.parametrize("units, hidden, heads, lengths, kind, rate", SIZES)
def test_a_layer(units, hidden, heads, lengths, kind, rate, cls, bfloat16):
    x, offsets, parameters, dy = random_layer(units, hidden, lengths, cls)
    how = (heads, (*KINDS, gelu)[kind], cls, rate, to_bfloat16 if bfloat16 else exactly)
    expected, gradients = reference(x, offsets, parameters, dy, *how)
    attributes = {"heads": heads, "kind": kind, "cls": cls, "bfloat16": bfloat16}
    out, found = run_layer(x, offsets, parameters, dy, rate, **attributes)
    # Where a number lies between two of bfloat16, float32 and float64 may round it apart.
    tolerance = 1e-2 if bfloat16 else 2e-5
    assert_close(out, expected, tolerance)
    assert len(found) == len(gradients)
    key_bias = 4  # its gradient is 0: every score of a query moves alike
    scale = np.abs(gradients[2]).max() + 1e-3
    assert np.abs(found[key_bias]).max() < (0.05 if bfloat16 else 1e-4) * scale * len(x)
    for index, (gradient, reference_gradient) in enumerate(zip(found, gradients, strict=True)):
        if index != key_bias:
            assert_close(gradient, reference_gradient, 2 * tolerance)


def test_more_rows_than_a_gradients_sum_takes_at_once():
    x, offsets, parameters, dy = random_layer(8, 12, [512] * 6, 0)
    how = (2, gelu, 0, 0.1)
    for bfloat16, low, tolerance in ((0, exactly, 1e-4), (1, to_bfloat16, 2e-2)):
        _, gradients = reference(x, offsets, parameters, dy, *how, low)
        attributes = {"heads": 2, "kind": 3, "cls": 0, "bfloat16": bfloat16}
        _, found = run_layer(x, offsets, parameters, dy, 0.1, **attributes)
        for weight in (1, 5, 7, 11, 13):
            assert_close(found[weight], gradients[weight], tolerance)


@pytest.mark.parametrize("bfloat16", [0, 1])
def test_the_same_bytes_each_time(bfloat16):
    inputs = random_layer(96, 200, [40, 100, 7, 1], 0)
    attributes = {"heads": 3, "kind": 3, "cls": 0, "bfloat16": bfloat16}
    first, *others = (run_layer(*inputs, 0.1, **attributes) for _ in range(4))
    for out, gradients in others:
        np.testing.assert_array_equal(out, first[0])
        for one, other in zip(gradients, first[1], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bfloat16", [0, 1])
def test_nan_stays_in_its_pair(bfloat16):
    x, offsets, parameters, dy = random_layer(12, 20, [3, 4], 0)
    x[1, 5] = np.nan
    attributes = {"heads": 3, "kind": 3, "cls": 0, "bfloat16": bfloat16}
    out, gradients = run_layer(x, offsets, parameters, dy, 0.0, **attributes)
    assert np.isnan(out[:3]).all() and np.isfinite(out[3:]).all()
    assert np.isnan(gradients[1]).any()


@pytest.mark.parametrize("offsets", [[0, 2, 2], [0, 3, 2], [0, 1, 3], [1, 1, 2]])
@pytest.mark.parametrize("cls", [0, 1])
def test_offsets_that_do_not_rise_to_the_number_of_tokens_are_an_error(offsets, cls):
    x, _, parameters, dy = random_layer(8, 12, [1, 1], cls)
    inputs = x, np.array(offsets), np.array([0, 0]), *parameters
    attributes = {"heads": 2, "kind": 3, "cls": cls, "bfloat16": 1, "site": 0, "eps": EPS}
    assert_fails("offsets", "bert_layer", inputs, dy, **attributes)


@pytest.mark.parametrize("heads", [0, 3, "x"])
def test_heads_that_do_not_divide_the_columns_are_an_error(heads):
    x, offsets, parameters, _ = random_layer(8, 12, [1, 1], 0)
    arrays = [mx.nd.array(a) for a in (x, *parameters)]
    integers = [mx.nd.array(a, dtype="int32") for a in (offsets, [0, 0])]
    with pytest.raises(mx.MXNetError, match="heads"):
        mx.nd.bert_layer(arrays[0], *integers, *arrays[1:], heads=heads).asnumpy()


def test_an_input_of_a_wrong_shape_is_an_error_and_no_access_to_memory():
    x, offsets, parameters, _ = random_layer(8, 12, [3, 1], 0)
    arrays = [x, offsets, np.array([0, 0]), *parameters]

    def call(inputs):
        types = ["int32" if i in (1, 2) else "float32" for i in range(len(inputs))]
        inputs = [mx.nd.array(a, dtype=t) for a, t in zip(inputs, types, strict=True)]
        attributes = {"heads": 2, "site": 0, "eps": EPS, "kind": 3, "cls": 0, "bfloat16": 1}
        return mx.nd.bert_layer(*inputs, **attributes).asnumpy()

    assert np.isfinite(call(arrays)).all()
    for place, array in enumerate(arrays):
        wrong = [np.ones((*array.shape, 1)), np.ones(array.shape[1:] or (1, *array.shape))]
        for axis in range(array.ndim):
            if (place, axis) in ((0, 0), (1, 0)):
                continue  # other numbers of tokens and pairs: their values must agree
            wrong.append(np.concatenate([array, array], axis))
        for other in wrong:
            with pytest.raises(mx.MXNetError):
                call([*arrays[:place], other, *arrays[place + 1 :]])
