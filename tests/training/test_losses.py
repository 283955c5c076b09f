"""The weights of the labels in the loss."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from helpers import FLAGS, write_sentences

from finetuning.training.losses import WeightedCrossEntropy


def test_class_weights_weigh_the_loss_of_their_labels():
    logits = mx.nd.array([[0.0, 0.0], [0.0, 0.0]])
    loss = WeightedCrossEntropy(np.array([1.0, 3.0]))(logits, mx.nd.array([0, 1], dtype="int32"))
    assert loss.asnumpy().tolist() == pytest.approx([np.log(2), 3 * np.log(2)], rel=1e-5)


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
