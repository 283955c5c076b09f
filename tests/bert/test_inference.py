"""The forward pass of inference against float64 NumPy, and what its bits may depend on."""

from __future__ import annotations

import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_bert import NumpyBERT

from bert.classifier import Classifier
from bert.config import BERTConfig
from bert.huggingface import gluon_to_huggingface
from bert.inference import Inference, classifier_shapes
from bert.modeling import BERTClassifier, BERTModel
from bert.parameters import set_parameters
from dataset import logits_by, padded_batch

EPS = 1e-12
FLOAT32, BFLOAT16 = 2e-5, 1.6e-2  # how far logits are from the exact ones


pytestmark = pytest.mark.usefixtures("native_library")


def sizes_of(units, hidden, heads, layers, max_length=512):
    return BERTConfig(50, layers, units, hidden, heads, max_length, 2, EPS)


def random_parameters(sizes, classes=2):
    """Return parameters whose layers neither blow up what they are given nor drown it."""
    random = np.random.default_rng(sizes.units)
    arrays = {}
    for name, shape in classifier_shapes(sizes, classes).items():
        spread = 0.8 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1
        centre = 1.0 if name.endswith("gamma") else 0.0
        arrays[name] = random.normal(centre, spread, shape).astype(np.float32)
    return arrays


def random_batch(lengths, seed=0):
    """Return (input_ids, token_types, valid_length)."""
    random, tokens = np.random.default_rng(seed), sum(lengths)
    return (random.integers(0, 50, tokens), random.integers(0, 2, tokens), lengths)


def one_by_one(compute, input_ids, token_types, valid_length):
    ends = np.cumsum(valid_length)[:-1]
    sentences = zip(np.split(input_ids, ends), np.split(token_types, ends), strict=True)
    return np.concatenate([compute(*sentence) for sentence in sentences])


def exact(parameters, sizes):
    """Return the network in float64, as a function of one sentence."""
    names = gluon_to_huggingface(sizes)
    tensors = {theirs: parameters[f"bert.{ours}"] for ours, theirs in names.items()}
    bert = NumpyBERT(tensors, sizes.num_layers, sizes.num_heads, EPS)
    weight, bias = (parameters[f"classifier.1.{x}"].astype(np.float64) for x in ("weight", "bias"))
    return lambda *sentence: (bert(*sentence)[1] @ weight.T + bias)[None]


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(
    "units, hidden, heads, layers, lengths, classes",
    [
        (1, 1, 1, 1, [1], 1),
        (5, 7, 5, 3, [1, 2], 2),
        (32, 64, 4, 2, [5, 1, 17], 2),
        (33, 50, 3, 2, [16, 1, 70, 15], 3),
        (40, 161, 8, 1, [512, 3, 100], 2),
        (48, 96, 1, 3, [130, 9], 60),
        (384, 1536, 12, 6, [16, 1, 128, 54], 2),
        (768, 3072, 12, 2, [33], 2),
        (1024, 4096, 16, 2, [61, 9], 5),
    ],
)
def test_logits_are_those_of_float64(units, hidden, heads, layers, lengths, classes, bfloat16):
    sizes = sizes_of(units, hidden, heads, layers)
    parameters, batch = random_parameters(sizes, classes), random_batch(lengths)
    expected = one_by_one(exact(parameters, sizes), *batch)
    logits = Inference(parameters, sizes, bfloat16)(*batch)
    assert logits.dtype == np.float32 and logits.shape == (len(lengths), classes)
    tolerance = BFLOAT16 if bfloat16 else FLOAT32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    assert bfloat16 == (np.abs(logits - expected).max() > FLOAT32) or units < 32


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "bfloat16"])
def small(request):
    sizes = sizes_of(32, 64, 4, 2, max_length=600)
    return Inference(random_parameters(sizes), sizes, request.param)


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 600), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_a_sentence_has_the_same_bits_whatever_it_is_computed_with(small, lengths, seed):
    batch = random_batch(lengths, seed)
    alone = one_by_one(lambda ids, types: small(ids, types, [len(ids)]), *batch)
    assert small(*batch).tobytes() == alone.tobytes()


def test_no_sentence_has_no_logits(small):
    assert small([], [], []).shape == (0, 2)


@pytest.mark.parametrize(
    "ids, types, lengths",
    [
        ([50], [0], [1]),
        ([-1], [0], [1]),
        ([0], [2], [1]),
        ([0], [-1], [1]),
        ([0] * 601, [0] * 601, [601]),
        ([0, 0], [0, 0], [1]),
        ([0, 0], [0, 0], [1, 2]),
        ([0, 0], [0, 0], [2, 0]),
        ([0, 0], [0, 0], [3, -1]),
        ([0, 0], [0], [2]),
        ([[0, 0]], [[0, 0]], [2]),
    ],
)
def test_what_no_sentence_can_be_is_an_error_and_no_access_to_memory(small, ids, types, lengths):
    with pytest.raises(ValueError):
        small(ids, types, lengths)


def test_parameters_of_another_shape_are_refused():
    parameters = random_parameters(sizes_of(32, 64, 4, 2))
    with pytest.raises(ValueError, match="shapes"):
        Inference(parameters, sizes_of(32, 65, 4, 2))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_nan_comes_out_where_nan_goes_in(bfloat16):
    sizes = sizes_of(32, 64, 4, 2)
    parameters = random_parameters(sizes)
    parameters["bert.word_embed.0.weight"][7] = np.nan
    ids = np.array([1, 2, 3, 4, 7, 5, 6])
    logits = Inference(parameters, sizes, bfloat16)(ids, 0 * ids, [3, 2, 2])
    assert np.isnan(logits).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_network_is_packed_as_it_is_now(tiny_config, examples, bfloat16):
    net = BERTClassifier(BERTModel(tiny_config, 0.1, cls_only=True), 3)
    set_parameters(net, random_parameters(tiny_config, 3), [mx.cpu()], "random")
    indices = np.arange(len(examples))
    before = logits_by(Inference.of(net), examples, indices)
    net.bert.encoder.transformer_cells[1].ffn_ffn_1_weight.data()[:] *= 1.5
    padded = [mx.nd.array(array, dtype="int32") for array in padded_batch(examples, indices)]
    stock = net(*padded).asnumpy()
    assert np.abs(stock - before).max() > 1e-2
    Classifier(net, None, {}).compile(bfloat16=bfloat16)
    logits = logits_by(Inference.of(net), examples, indices)
    np.testing.assert_allclose(logits, stock, atol=BFLOAT16 if bfloat16 else FLOAT32)
    assert bfloat16 == (np.abs(logits - stock).max() > 1e-4)


THREADS_SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}, {tests!r} + "/bert"]
from bert import native, runtime
runtime.prepare({threads})
native.library()  # OpenMP reads the number now; conftest sets another one
import concurrent.futures, hashlib, os
from test_inference import Inference, random_batch, random_parameters, sizes_of
sizes = sizes_of(96, 200, 3, 2)
batch = random_batch([1, 17, 300, 64, 90, 128, 5, 512, 33])
digest = hashlib.sha256()
for bfloat16 in (False, True):
    inference = Inference(random_parameters(sizes), sizes, bfloat16)
    found = {{inference(*batch).tobytes() for _ in range(20)}}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found |= {{logits.tobytes() for logits in pool.map(inference, *zip(*[batch] * 20))}}
    assert len(found) == 1, "not the same bits each time"
    if not os.fork():
        os._exit(inference(*batch).tobytes() not in found)
    assert os.wait()[1] == 0, "not the same in a child"
    digest.update(found.pop())
print(digest.hexdigest())
"""


def test_the_number_of_threads_changes_no_bit():
    found = set()
    for threads in (1, 2, 3):
        script = THREADS_SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests"), threads=threads)
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found.add(run.stdout)
    assert len(found) == 1
