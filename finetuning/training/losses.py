"""The training loss of a task: one number per example."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import L2Loss, Loss, SoftmaxCrossEntropyLoss

from finetuning.data.splits import Dataset


class WeightedCrossEntropy(Loss):
    """Cross-entropy of an example times its label's weight; the mean is over examples."""

    def __init__(self, weights: np.ndarray):
        super().__init__(weight=None, batch_axis=0)
        self._weights = mx.nd.array(weights, dtype="float32")  # [classes]
        self._cross_entropy = SoftmaxCrossEntropyLoss()

    def forward(self, logits: mx.nd.NDArray, label: mx.nd.NDArray) -> mx.nd.NDArray:
        weights = self._weights.as_in_context(logits.context).take(label)
        return self._cross_entropy(logits, label, weights.expand_dims(1))


def loss_for(data: Dataset) -> Loss:
    """Return the loss of a task: squared error, or cross-entropy, weighted where asked for."""
    if data.task.regression:
        return L2Loss(weight=2)  # Gluon's halves the squared error
    if data.class_weights is not None:
        return WeightedCrossEntropy(data.class_weights)
    return SoftmaxCrossEntropyLoss()
