"""The metrics of the tasks; scikit-learn does the arithmetic."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score


def evaluate(logits: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Compute metrics from the scores a network gave.

    Parameters
    ----------
    logits : float32 array ``[examples, classes]``
    label : int array ``[examples]``
    names : the metrics wanted
        ``accuracy``; ``f1`` (binary, of the label with index 1, GLUE's positive class; 0 where
        neither labels nor predictions have a positive).

    Returns
    -------
    dict of str to float
        In the order of ``names``.
    """
    predicted = logits.argmax(axis=1)
    compute = {
        "accuracy": lambda: accuracy_score(label, predicted),
        "f1": lambda: f1_score(label, predicted, pos_label=1, zero_division=0.0),
    }
    return {name: float(compute[name]()) for name in names}


def mean_loss(logits: np.ndarray, label: np.ndarray) -> float:
    """Return the mean cross-entropy (nats) of ``[examples, classes]`` logits, in float64."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return float(-log_probabilities[np.arange(len(label)), label].mean())
