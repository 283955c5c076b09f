"""The training loss of a task: one number per example."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import L2Loss, Loss

from finetuning.data.splits import Dataset


class CrossEntropy(Loss):
    """Cross-entropy of an example, times its label's weight where weights are given.

    It is put together from elementary operators: through oneDNN, MXNet's ``log_softmax`` and its
    gradient are off by 4e-6, 30 times as much as float32.

    Parameters
    ----------
    weights : float32 array ``[classes]``, optional
    """

    def __init__(self, weights: np.ndarray | None = None):
        super().__init__(weight=None, batch_axis=0)
        self._weights = None if weights is None else mx.nd.array(weights, dtype="float32")

    def forward(self, logits: mx.nd.NDArray, label: mx.nd.NDArray) -> mx.nd.NDArray:
        """Return the losses ``[examples]`` of logits ``[examples, classes]``."""
        shifted = logits - mx.nd.BlockGrad(logits.max(axis=-1, keepdims=True))
        losses = shifted.exp().sum(axis=-1).log() - shifted.pick(label, axis=-1)
        if self._weights is not None:
            losses = losses * self._weights.as_in_context(logits.context).take(label)
        return losses


class BinaryCrossEntropy(Loss):
    """Cross-entropy of each label's sigmoid, the mean over the labels of an example.

    It is put together from elementary operators, as :class:`CrossEntropy`.
    """

    def __init__(self):
        super().__init__(weight=None, batch_axis=0)

    def forward(self, logits: mx.nd.NDArray, label: mx.nd.NDArray) -> mx.nd.NDArray:
        """Return the losses ``[examples]`` of logits ``[examples, labels]``; label: 0 or 1."""
        size = logits.abs()
        # log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)); the gradient of this max is 1/2 at 0.
        positive = 0.5 * (logits + size) + (-size).exp().log1p()
        return (positive - logits * label).mean(axis=-1)


def loss_for(data: Dataset) -> Loss:
    """Return the loss of a task: squared error, or cross-entropy, weighted where asked for."""
    if data.task.multi_label:
        return BinaryCrossEntropy()
    if data.task.regression:
        return L2Loss(weight=2)  # Gluon's halves the squared error
    return CrossEntropy(data.class_weights)
