"""The losses: their numbers, and the weights of the labels."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from helpers import FLAGS, write_sentences
from mxnet import autograd
from scipy.special import expit, log_softmax, softmax

from finetuning.training.losses import BinaryCrossEntropy, CrossEntropy


def test_class_weights_weigh_the_loss_of_their_labels():
    logits = mx.nd.array([[0.0, 0.0], [0.0, 0.0]])
    loss = CrossEntropy(np.array([1.0, 3.0]))(logits, mx.nd.array([0, 1], dtype="int32"))
    assert loss.asnumpy().tolist() == pytest.approx([np.log(2), 3 * np.log(2)], rel=1e-5)


def test_the_cross_entropy_and_its_gradient_are_as_exact_as_float32():
    random = np.random.default_rng(0)
    logits = random.normal(0, 8, (512, 3)).astype(np.float32)
    label = random.integers(0, 3, 512)
    array = mx.nd.array(logits)
    array.attach_grad()
    with autograd.record():
        losses = CrossEntropy()(array, mx.nd.array(label))
    losses.backward()
    logits = logits.astype(np.float64)
    np.testing.assert_allclose(
        losses.asnumpy(), -log_softmax(logits, axis=1)[range(512), label], rtol=3e-7, atol=1e-6
    )
    expected = softmax(logits, axis=1) - np.eye(3)[label]
    np.testing.assert_allclose(array.grad.asnumpy(), expected, atol=2e-7)


def test_the_cross_entropy_of_logits_far_apart_is_finite():
    losses = CrossEntropy()(mx.nd.array([[3e4, -3e4]]), mx.nd.array([1]))
    assert losses.asnumpy() == [6e4]


def test_class_weights_move_what_is_learned(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 60, 0)
    files = ("--train_file", train, "--dev_fraction", "0.3", "--epochs", "2")
    recalls = []
    for weights in ("cat=100", "dog=100"):
        code, out = finetune_here(
            *FLAGS, *files, "--class_weights", weights, "--lr", "1e-3", "--overwrite"
        )
        assert code == 0
        best = json.loads((out / "metrics.json").read_text())["best"]["per_class"]
        recalls.append((best["cat"]["recall"], best["dog"]["recall"]))
    assert recalls[0][0] == 1 and recalls[1][1] == 1


def test_the_binary_cross_entropy_and_its_gradient_are_as_exact_as_float32():
    random = np.random.default_rng(0)
    logits = random.normal(0, 8, (512, 5)).astype(np.float32)
    logits[:5] = [[0.0, -0.0, 90.0, -90.0, 3e4]] * 5
    label = random.integers(0, 2, logits.shape).astype(np.uint8)
    array = mx.nd.array(logits)
    array.attach_grad()
    with autograd.record():
        losses = BinaryCrossEntropy()(array, mx.nd.array(label))
    losses.backward()
    logits = logits.astype(np.float64)
    expected = (np.logaddexp(0, logits) - logits * label).mean(axis=1)
    np.testing.assert_allclose(losses.asnumpy(), expected, rtol=3e-7, atol=1e-7)
    np.testing.assert_allclose(array.grad.asnumpy(), (expit(logits) - label) / 5, atol=1e-7)
