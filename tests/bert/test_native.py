"""Every fused operator against float64 NumPy, forward and backward."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT
from mxnet import autograd
from scipy.special import expit, ndtr

from bert import native, runtime
from bert.modeling import BERTClassifier, BERTModel
from bert.parameters import parameters_of
from dataset import TokenizedExamples
from finetuning.training.inputs import network_inputs

EPS = 1e-12

pytestmark = pytest.mark.usefixtures("fused_operators")


# ---- dropout: the hash of common.h, in NumPy ----


def mix(x):
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint32)
        x = x ^ (x >> np.uint32(16))
        x = x * np.uint32(0x85EBCA6B)
        x = x ^ (x >> np.uint32(13))
        x = x * np.uint32(0xC2B2AE35)
        return x ^ (x >> np.uint32(16))


def dropout_factors(seed, rate, site, block, index):
    """Return what the elements ``index`` of block ``block`` are multiplied by."""
    threshold = round(rate * 2**24)
    if threshold == 0:
        return np.ones(np.shape(index))
    with np.errstate(over="ignore"):
        golden = np.uint32(0x9E3779B9)
        key = mix(mix(seed) ^ golden * np.uint32(site + 1))
        block_key = mix(key + golden * np.uint32(block))
        index = np.asarray(index, np.uint32)
        dropped = (mix(index * np.uint32(0x9E3779B1) ^ block_key) >> np.uint32(8)) < threshold
    return np.where(dropped, 0.0, 1 / (1 - threshold / 2**24))


def row_factors(seed, rate, site, rows, units):
    return np.stack(
        [dropout_factors(seed, rate, site, row, np.arange(units)) for row in range(rows)]
    )


# ---- calling an operator, and comparing ----


def run(operator, inputs, output_gradient, **attributes):
    """Return an operator's output, and its gradients for the float inputs."""
    arrays = [mx.nd.array(x, dtype="int32" if x.dtype.kind == "i" else "float32") for x in inputs]
    floats = [array for array in arrays if array.dtype == np.float32]
    for array in floats:
        array.attach_grad()
    with autograd.record():
        output = getattr(mx.nd, operator)(*arrays, **attributes)
    output.backward(mx.nd.array(output_gradient))
    return output.asnumpy(), [array.grad.asnumpy() for array in floats]


def assert_fails(message, *call, **attributes):
    with pytest.raises(mx.MXNetError, match=message):
        run(*call, **attributes)
    with suppress(mx.MXNetError):  # backward's failure, which no later test should meet
        mx.nd.waitall()


def assert_close(actual, expected, tolerance):
    """Compare to within ``tolerance`` of the largest value there is."""
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def check(actual, expected):
    (output, gradients), (expected_output, expected_gradients) = actual, expected
    assert_close(output, expected_output, 1e-5)
    assert len(gradients) == len(expected_gradients)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, expected_gradient, 1e-4)


def normal(random, *shape):
    return random.normal(size=shape).astype(np.float32).astype(np.float64)


def layer_norm(x, gamma, beta, dy):
    """Return LayerNorm's output, and its gradients for x, gamma and beta."""
    centred = x - x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
    n, g = centred * rstd, dy * gamma
    dx = rstd * (g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True))
    return n * gamma + beta, dx, (dy * n).sum(0), dy.sum(0)


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("rows, units", [(1, 8), (3, 5), (17, 384), (129, 768), (512, 33)])
def test_add_norm(rows, units, rate):
    random = np.random.default_rng(rows)
    x, residual, dy = (normal(random, rows, units) for _ in range(3))
    bias, gamma, beta = (normal(random, units) for _ in range(3))
    factors = row_factors(77, rate, 4, rows, units)
    out, dsum, dgamma, dbeta = layer_norm(residual + (x + bias) * factors, gamma, beta, dy)
    expected = out, [dsum * factors, (dsum * factors).sum(0), dsum, dgamma, dbeta]
    dropout = np.array([77, round(rate * 2**24)])
    inputs = x, bias, residual, gamma, beta, dropout
    check(run("bert_add_norm", inputs, dy, site=4, eps=EPS), expected)


@pytest.mark.parametrize("rows, units", [(1, 1), (7, 13), (200, 1536)])
def test_bias_gelu(rows, units):
    random = np.random.default_rng(units)
    x, dy, bias = (
        3 * normal(random, rows, units),
        normal(random, rows, units),
        normal(random, units),
    )
    z = x + bias
    slope = ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    expected = z * ndtr(z), [dy * slope, (dy * slope).sum(0)]
    check(run("bert_bias_gelu", (x, bias), dy), expected)


@pytest.mark.parametrize("value", [-100.0, -10.0, -1e-8, 0.0, 1e-8, 10.0, 100.0])
def test_gelu_of_extreme_values(value):
    out, (dx, _) = run("bert_bias_gelu", (np.array([[value]]), np.zeros(1)), np.ones((1, 1)))
    np.testing.assert_allclose(out, [[value * ndtr(value)]], atol=1e-6, rtol=1e-6)
    slope = ndtr(value) + value * np.exp(-(value**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(dx, [[slope]], atol=1e-6)


def test_gelu_keeps_its_relative_accuracy_where_it_is_tiny():
    z = np.linspace(-10, 10, 4001).astype(np.float32).astype(np.float64)[:, None]
    out, _ = run("bert_bias_gelu", (z, np.zeros(1)), np.ones_like(z))
    np.testing.assert_allclose(out, z * ndtr(z), rtol=1e-5, atol=0)
    np.testing.assert_allclose(out[abs(z) < 3], (z * ndtr(z))[abs(z) < 3], rtol=2e-6, atol=0)


def test_the_rough_gelu_of_bfloat16_is_within_its_bound(tmp_path):
    source, library = tmp_path / "rough.cc", tmp_path / "rough.so"
    source.write_text("""#include "gelu.h"
        extern "C" void rough(const float* z, int count, float* value, float* derivative) {
          for (int i = 0; i < count; ++i) {
            value[i] = bert::RoughGelu::value(z[i]);
            derivative[i] = bert::RoughGelu::derivative(z[i]);
          }
        }""")
    folders = [f"-I{ROOT / 'bert' / 'native'}", f"-I{Path(mx.__file__).parent / 'include'}"]
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-fopenmp", *folders]
    subprocess.run(["g++", *flags, source, "-o", library], check=True)
    z = np.linspace(-6, 6, 100_001, dtype=np.float32)
    found = np.empty((2, len(z)), np.float32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (z, *found)]
    ctypes.CDLL(str(library)).rough(pointers[0], len(z), *pointers[1:])
    x = z.astype(np.float64)
    expected = x * ndtr(x), ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    assert np.abs(found - expected).max() < 3e-4


def gelu_new(z):
    inner = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
    value = z / 2 * (1 + np.tanh(inner))
    return value, (1 + np.tanh(inner)) / 2 + z / 2 * slope / np.cosh(np.clip(inner, -90, 90)) ** 2


# Of each kind of bert_bias_activation: its value and its derivative.
KINDS = (
    lambda z: (np.maximum(z, 0), (z > 0).astype(float)),
    lambda z: (z * expit(z), expit(z) + z * expit(z) * expit(-z)),
    gelu_new,
)


@pytest.mark.parametrize("kind", range(len(KINDS)))
@pytest.mark.parametrize("rows, units", [(1, 1), (7, 13), (200, 1536)])
def test_bias_activation(kind, rows, units):
    random = np.random.default_rng(units)
    x, dy, bias = (
        3 * normal(random, rows, units),
        normal(random, rows, units),
        normal(random, units),
    )
    value, slope = KINDS[kind](x + bias)
    expected = value, [dy * slope, (dy * slope).sum(0)]
    check(run("bert_bias_activation", (x, bias), dy, kind=kind), expected)


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_activations_of_extreme_values(kind):
    z = np.array([-1e4, -100, -10, -1e-8, 0, 1e-8, 10, 100, 1e4])[:, None]
    out, (dx, _) = run("bert_bias_activation", (z, np.zeros(1)), np.ones_like(z), kind=kind)
    value, slope = KINDS[kind](z)
    np.testing.assert_allclose(out, value, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(dx, slope, atol=1e-6)
    nan = np.full((1, 1), np.nan)
    out, _ = run("bert_bias_activation", (nan, np.zeros(1)), nan, kind=kind)
    assert np.isnan(out).all()


def skip_without_amx():
    if not runtime.allow_amx():
        pytest.skip("there is no AMX, and MXNet's dense layers are used")
    assert native.amx, "the compiler does not know AMX (GCC does from version 11)"


@pytest.mark.parametrize(
    "rows, depth, units",
    [(1, 1, 1), (1, 768, 64), (33, 31, 17), (17, 384, 1536), (500, 801, 65), (64, 3072, 50)],
)
def test_dense(rows, depth, units):
    skip_without_amx()
    random = np.random.default_rng(rows)
    x, weight, dy = (normal(random, *s) for s in ((rows, depth), (units, depth), (rows, units)))
    check(run("bert_dense", (x, weight), dy), (x @ weight.T, [dy @ weight, dy.T @ x]))


@pytest.mark.parametrize("exponents", [(0, 0), (-9, 3)])
def test_dense_is_as_exact_as_products_in_float32(exponents):
    skip_without_amx()
    random = np.random.default_rng(0)
    x, weight, dy = (
        (normal(random, *s) * 10 ** random.uniform(*exponents, s)).astype(np.float32)
        for s in ((300, 700), (90, 700), (300, 90))
    )
    out, (dx, dw) = run("bert_dense", (x, weight), dy)
    for ours, left, right in ((out, x, weight.T), (dx, dy, weight), (dw, dy.T, x)):
        exact = left.astype(np.float64) @ right.astype(np.float64)
        size = np.abs(left).astype(np.float64) @ np.abs(right).astype(np.float64)
        stock = mx.nd.FullyConnected(
            mx.nd.array(left), mx.nd.array(right.T), num_hidden=right.shape[1], no_bias=True
        ).asnumpy()
        assert (np.abs(ours - exact) / size).max() < 1e-6
        assert np.sqrt(np.mean((ours - exact) ** 2) / np.mean((stock - exact) ** 2)) < 1.25


def test_dense_passes_on_what_is_not_finite_and_only_to_its_row():
    skip_without_amx()
    x = np.ones((40, 50))
    x[3, 5], x[7, 49] = np.nan, np.inf
    out, _ = run("bert_dense", (x, np.ones((20, 50))), np.ones((40, 20)))
    assert not np.isfinite(out[[3, 7]]).any()
    np.testing.assert_array_equal(np.delete(out, [3, 7], 0), 50)


def attention(q, k, v, heads, factors, dout):
    """Return one pair's context, and the gradients of q, k and v, ``[tokens, units]`` each."""
    context, dq, dk, dv = (np.zeros_like(x) for x in (q, q, k, v))
    depth = q.shape[1] // heads
    for head in range(heads):
        columns = slice(head * depth, (head + 1) * depth)
        scores = q[:, columns] @ k[:, columns].T / np.sqrt(depth)
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        dropped = p * factors[head]
        context[:, columns] = dropped @ v[:, columns]
        dv[:, columns] = dropped.T @ dout[:, columns]
        dp = dout[:, columns] @ v[:, columns].T * factors[head]
        ds = p * (dp - (p * dp).sum(1, keepdims=True)) / np.sqrt(depth)
        dq[:, columns] = ds @ k[:, columns]
        dk[:, columns] = ds.T @ q[:, columns]
    return context, dq, dk, dv


def attend(q, k, v, offsets, heads, cls_only, dropout, dout):
    """Return all pairs' contexts, and the gradients of q, k and v; dropout: seed, rate, site."""
    context, dq, dk, dv = (np.zeros_like(x) for x in (q, q, k, v))
    for pair, length in enumerate(np.diff(offsets)):
        rows = slice(offsets[pair], offsets[pair + 1])
        queries = slice(pair, pair + 1) if cls_only else rows
        index = (np.arange(1 if cls_only else length)[:, None] << 16) + np.arange(length)
        factors = [dropout_factors(*dropout, pair * heads + head, index) for head in range(heads)]
        context[queries], dq[queries], dk[rows], dv[rows] = attention(
            q[queries], k[rows], v[rows], heads, factors, dout[queries]
        )
    return context, dq, dk, dv


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize(
    "heads, depth, lengths",
    [
        (1, 1, [1]),
        (2, 5, [1, 7, 1]),
        (3, 32, [64, 1, 33]),
        (2, 64, [128, 17]),
        (1, 32, [512]),
        (12, 32, [3, 50, 21, 90]),
    ],
)
def test_attention(heads, depth, lengths, cls_only, rate):
    random = np.random.default_rng(depth)
    units, offsets = heads * depth, np.cumsum([0, *lengths])
    tokens, pairs, seed, site = offsets[-1], len(lengths), 12345, 2
    bias = normal(random, 3 * units)
    q = normal(random, pairs if cls_only else tokens, units)
    k, v = normal(random, tokens, units), normal(random, tokens, units)
    dout = normal(random, *q.shape)
    biased = [x + b for x, b in zip((q, k, v), np.split(bias, 3), strict=True)]
    context, dq, dk, dv = attend(*biased, offsets, heads, cls_only, (seed, rate, site), dout)
    dbias = np.concatenate([dq.sum(0), dk.sum(0), dv.sum(0)])
    dropout = np.array([seed, round(rate * 2**24)])
    if cls_only:
        inputs = q, np.concatenate([k, v], 1), bias, offsets, dropout
        gradients = [dq, np.concatenate([dk, dv], 1), dbias]
    else:
        inputs = np.concatenate([q, k, v], 1), bias, offsets, dropout
        gradients = [np.concatenate([dq, dk, dv], 1), dbias]
    operator = "bert_cls_attention" if cls_only else "bert_attention"
    check(run(operator, inputs, dout, heads=heads, site=site), (context, gradients))


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("units, lengths", [(8, [1]), (384, [5, 1, 30]), (33, [128, 2])])
def test_embedding(units, lengths, rate):
    random = np.random.default_rng(units)
    offsets = np.cumsum([0, *lengths])
    tokens = offsets[-1]
    tables = normal(random, 20, units), normal(random, 2, units), normal(random, 130, units)
    gamma, beta, dy = normal(random, units), normal(random, units), normal(random, tokens, units)
    ids, types = random.integers(0, 20, tokens), random.integers(0, 2, tokens)
    rows = ids, types, np.concatenate([np.arange(length) for length in lengths])
    factors = row_factors(9, rate, 0, tokens, units)
    summed = sum(table[index] for table, index in zip(tables, rows, strict=True))
    out, dsum, dgamma, dbeta = layer_norm(summed, gamma, beta, dy * factors)
    gradients = [np.zeros_like(table) for table in tables]
    for gradient, index in zip(gradients, rows, strict=True):
        np.add.at(gradient, index, dsum)
    inputs = *tables, gamma, beta, ids, types, offsets, np.array([9, round(rate * 2**24)])
    actual = run("bert_embedding", inputs, dy, site=0, eps=EPS)
    check(actual, (out * factors, [*gradients, dgamma, dbeta]))


def test_nan_comes_out_where_nan_goes_in():
    qkv = np.random.default_rng(0).normal(size=(40, 96))
    qkv[3, 5] = np.nan  # a query's
    inputs = qkv, np.zeros(96), np.array([0, 40]), np.array([0, 0])
    out, _ = run("bert_attention", inputs, np.ones((40, 32)), heads=2, site=0)
    assert np.isnan(out[3, :16]).all() and np.isfinite(np.delete(out, 3, 0)).all()
    out, _ = run("bert_bias_gelu", (qkv, np.zeros(96)), np.ones((40, 96)))
    assert np.argwhere(np.isnan(out)).tolist() == [[3, 5]]


def test_loading_leaves_numpys_subnormal_numbers_alone():
    assert (np.full(4, 1e-40, np.float32) * np.float32(1)).all()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_its_share_and_differs_by_seed_and_site(rate):
    rows, units = 2000, 384
    inputs = [np.ones((rows, units)), np.zeros(units), np.zeros((rows, units))]

    def kept(seed, site):
        # gamma 1, beta 0: a kept element is above its row's mean, a dropped one below.
        dropout = np.array([seed, round(rate * 2**24)])
        arrays = [*inputs, np.ones(units), np.zeros(units), dropout]
        return run("bert_add_norm", arrays, np.ones((rows, units)), site=site, eps=EPS)[0] > 0

    one = kept(1, 1)
    sigma = np.sqrt(rate * (1 - rate) / one.size)
    assert abs(one.mean() - (1 - rate)) < 4 * sigma
    assert np.abs(one.mean(0) - (1 - rate)).max() < 5 * sigma * np.sqrt(units)
    assert np.abs(one.mean(1) - (1 - rate)).max() < 5 * sigma * np.sqrt(rows)
    for other in (kept(2, 1), kept(1, 2)):
        agreement = (one == other).mean()
        expected = rate**2 + (1 - rate) ** 2
        assert abs(agreement - expected) < 4 * np.sqrt(expected * (1 - expected) / one.size)


def random_examples(config, count=9):
    random = np.random.default_rng(3)
    lengths = random.integers(1, config.max_length, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    input_ids = random.integers(0, config.vocab_size, offsets[-1]).astype(np.int32)
    first_segment = random.integers(1, lengths + 1).astype(np.int32)
    label = random.integers(0, 2, count).astype(np.int32)
    return TokenizedExamples(input_ids, offsets, first_segment, label, config.max_length, 0)


def test_the_whole_networks_gradients_equal_the_stock_operators(tiny_config):
    examples, gradients, outputs = random_examples(tiny_config), [], []
    stock, fused = (BERTClassifier(BERTModel(tiny_config, 0.0, True), 2, 0.0) for _ in range(2))
    stock.initialize()
    fused.initialize()
    for name, parameter in parameters_of(fused).items():
        parameter.set_data(parameters_of(stock)[name].data())
    fused.bert.fuse()
    for net in (stock, fused):
        net.hybridize(static_alloc=True)
        with autograd.record():
            logits = net(*network_inputs(net, examples, np.arange(len(examples)), mx.cpu(), 1))
        logits.backward(mx.nd.array(np.random.default_rng(0).normal(size=logits.shape)))
        outputs.append(logits.asnumpy())
        gradients.append({k: p.grad().asnumpy() for k, p in parameters_of(net).items()})
    assert_close(outputs[1], outputs[0].astype(np.float64), 1e-5)
    for name, expected in gradients[0].items():
        if not name.endswith("proj_key.bias"):  # is 0: every score of a query moves alike
            assert_close(gradients[1][name], expected, 1e-4)


THREADS_SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}, {tests!r} + "/bert"]
from bert import runtime
runtime.prepare({threads})
import hashlib, mxnet as mx, numpy as np
from mxnet import autograd
from bert import native
native.load()
from bert.modeling import BERTClassifier
from bert.modeling import BERTConfig, BERTModel
from bert.parameters import parameters_of
from test_native import random_examples
from finetuning.training.inputs import network_inputs
config = BERTConfig(40, num_layers=2, units=32, hidden_size=64, num_heads=4, max_length=48)
net = BERTClassifier(BERTModel(config, 0.1, True), 2, 0.0)
net.initialize()
random = np.random.default_rng(1)
for p in parameters_of(net).values():
    p.set_data(mx.nd.array(random.normal(0, 0.1, p.shape)))
net.bert.fuse()
digests = set()
for _ in range(5):
    with autograd.record():
        logits = net(*network_inputs(net, random_examples(config), np.arange(9), mx.cpu(), 7))
    logits.backward()
    arrays = [p.grad().asnumpy() for p in parameters_of(net).values()]
    digests.add(hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
assert len(digests) == 1, "not the same bits each time"
np.save({file!r}, np.concatenate([a.ravel() for a in arrays]))
"""


def test_threads_change_neither_the_mask_nor_more_than_the_last_bits(tmp_path):
    gradients = []
    for threads in (1, 2, 3):
        file = str(tmp_path / f"{threads}.npy")
        script = THREADS_SCRIPT.format(
            root=str(ROOT), tests=str(ROOT / "tests"), threads=threads, file=file
        )
        subprocess.run([sys.executable, "-c", script], check=True)
        gradients.append(np.load(file))
    for other in gradients[1:]:
        assert_close(other, gradients[0].astype(np.float64), 1e-5)


def adam_inputs(random):
    shapes = [(40, 1000), (7,), (1,)]
    return [[normal(random, *shape) for _ in range(2)] + [np.zeros(shape)] * 2 for shape in shapes]


def test_adam_equals_float64_over_updates_with_and_without_clipping():
    random = np.random.default_rng(0)
    parameters = adam_inputs(random)
    arrays = [[mx.nd.array(x) for x in parameter] for parameter in parameters]
    rates, decay = [1e-3, 2e-3, 1e-4], [0.01, 0.0, 0.5]
    for step in range(10):
        factor = 1e-4 if step % 2 else 0.25
        hyper = [1.5, 1e-6, factor, 1.0]
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter[1] = normal(random, *parameter[1].shape)
            array[1][:] = mx.nd.array(parameter[1])
        norm = mx.nd.bert_adam(
            *map(mx.nd.array, (hyper, rates, decay)),
            *(array for parameter in arrays for array in parameter),
            parameters=3,
            beta1=0.9,
            beta2=0.999,
        )
        expected = factor * np.sqrt(sum((p[1] ** 2).sum() for p in parameters))
        np.testing.assert_allclose(norm.asscalar(), expected, rtol=1e-5)
        for p, lr, wd in zip(parameters, rates, decay, strict=True):
            g = p[1] * factor / max(1.0, expected)
            p[2] = 0.9 * p[2] + 0.1 * g
            p[3] = 0.999 * p[3] + 0.001 * g * g
            p[0] = p[0] - lr * (1.5 * p[2] / (np.sqrt(p[3]) + 1e-6) + wd * p[0])
    for parameter, array in zip(parameters, arrays, strict=True):
        np.testing.assert_allclose(array[0].asnumpy(), parameter[0], atol=1e-5)
        np.testing.assert_allclose(array[3].asnumpy(), parameter[3], rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_adam_changes_nothing_where_the_norm_is_not_finite(bad):
    parameters = adam_inputs(np.random.default_rng(0))
    parameters[0][1][3, 5] = bad
    arrays = [mx.nd.array(x) for parameter in parameters for x in parameter]
    before = [array.asnumpy() for array in arrays]
    head = mx.nd.array([1.0, 1e-6, 1.0, 1.0]), mx.nd.full((3,), 1e-3), mx.nd.zeros(3)
    norm = mx.nd.bert_adam(*head, *arrays, parameters=3, beta1=0.9, beta2=0.999)
    assert not np.isfinite(norm.asscalar())
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array.asnumpy(), old)


def test_adams_moments_become_zero_before_they_are_subnormal():
    weight, gradient, m, v = (mx.nd.full((1000,), x) for x in (1.0, 0.0, 1.2e-38, 1.175e-38))
    head = mx.nd.array([1.0, 1e-6, 1.0, 1.0]), mx.nd.full((1,), 1e-3), mx.nd.zeros(1)
    mx.nd.bert_adam(*head, weight, gradient, m, v, parameters=1, beta1=0.9, beta2=0.999)
    assert not m.asnumpy().any() and not v.asnumpy().any()
    np.testing.assert_array_equal(weight.asnumpy(), 1)


LIMITED_SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}, {tests!r} + "/bert"]
from bert import runtime
runtime.prepare(2)
import numpy as np
import test_native
test_native.native.load()
test_native.test_add_norm(17, 384, 0.1)
test_native.test_bias_gelu(200, 1536)
if test_native.native.amx:
    test_native.test_dense(500, 401, 65)
test_native.test_attention(3, 32, [64, 1, 33], False, 0.1)
test_native.test_embedding(384, [5, 1, 30], 0.1)
"""


@pytest.mark.parametrize("limit", ["OMP_THREAD_LIMIT=1", "OMP_DYNAMIC=true"])
def test_gradients_are_whole_where_openmp_gives_fewer_threads_than_asked_for(limit):
    name, value = limit.split("=")
    script = LIMITED_SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests"))
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, name: value})
