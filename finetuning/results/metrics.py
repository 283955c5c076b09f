"""The metrics of the tasks; scikit-learn and SciPy do the arithmetic.

They are imported where they are used: that takes half a second, for which training does not wait.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax


def evaluate(logits: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Compute metrics from the scores a network gave.

    Parameters
    ----------
    logits : float32 array ``[examples, classes]``; ``[examples, 1]`` for regression
    label : int array ``[examples]``; float for regression
    names : the metrics wanted
        ``accuracy``; ``f1`` (binary, of the label with index 1, GLUE's positive class; 0 where
        neither labels nor predictions have a positive); ``macro_f1`` (mean of the F1 of every
        class); ``matthews`` (0 where labels or predictions are all of one class); ``pearson`` and
        ``spearman`` (0 where labels or predictions are constant).

    Returns
    -------
    dict of str to float
        In the order of ``names``.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predicted = logits.argmax(axis=1)
    scores = logits[:, 0].astype(np.float64)
    classes = range(logits.shape[1])
    compute = {
        "accuracy": lambda: accuracy_score(label, predicted),
        "f1": lambda: f1_score(label, predicted, pos_label=1, zero_division=0.0),
        "macro_f1": lambda: f1_score(
            label, predicted, labels=classes, average="macro", zero_division=0.0
        ),
        "matthews": lambda: matthews_corrcoef(label, predicted),
        "pearson": lambda: _correlation(pearsonr, scores, label),
        "spearman": lambda: _correlation(spearmanr, scores, label),
    }
    return {name: float(compute[name]()) for name in names}


def _correlation(function, scores: np.ndarray, label: np.ndarray) -> float:
    # Of a constant it is 0/0; one that predicts nothing has earned a 0.
    if len(label) < 2 or np.ptp(scores) == 0 or np.ptp(label) == 0:
        return 0.0
    return function(scores, label.astype(np.float64)).statistic


def mean_loss(logits: np.ndarray, label: np.ndarray, regression: bool = False) -> float:
    """Return the mean cross-entropy (nats), or squared error, of logits; in float64."""
    if regression:
        return float(np.square(logits[:, 0].astype(np.float64) - label).mean())
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return float(-log_probabilities[np.arange(len(label)), label].mean())


def by_class(logits: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> dict:
    """Return what each class gets right and is taken for.

    Returns
    -------
    dict
        ``per_class``: {label: precision, recall, f1 (each 0 where it is 0/0) and support};
        ``confusion_matrix``: ``[classes, classes]``, a row for each true label, in their order.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = logits.argmax(axis=1)
    classes = range(len(names))
    scores = precision_recall_fscore_support(label, predicted, labels=classes, zero_division=0.0)
    kinds = ("precision", "recall", "f1", "support")
    return {
        "per_class": {
            name: {kind: values[i].item() for kind, values in zip(kinds, scores, strict=True)}
            for i, name in enumerate(names)
        },
        "confusion_matrix": confusion_matrix(label, predicted, labels=classes).tolist(),
    }
