"""The metrics of the tasks, computed by scikit-learn and SciPy.

Both are imported where they are used: importing takes half a second, and training starts sooner.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr, expit, log_softmax

# Of more labels a confusion matrix is not kept, which grows with their square, and tables have the
# labels with the lowest F1 only.
MOST_LABELS = 200
_LABELS_SHOWN = 20


def compute(logits: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Compute metrics from a network's outputs.

    Parameters
    ----------
    logits : float32 array ``[examples, classes]``; ``[examples, 1]`` for regression
    label : int array ``[examples]``; float for regression; 0 or 1 ``[examples, labels]``
    names : the metrics wanted
        ``accuracy``; ``f1`` (binary, of the label with index 1, GLUE's positive class; 0 if
        neither labels nor predictions have a positive); ``macro_f1`` (mean F1 over all classes);
        ``micro_f1`` (F1 of all decisions on all labels of examples that may have several);
        ``matthews`` (0 if labels or predictions are all of one class); ``pearson`` and
        ``spearman`` (0 if labels or predictions are constant).

    Returns
    -------
    dict of str to float
        In the order of ``names``.
    """
    if label.ndim == 2:
        found = f1_of_sets(decisions(logits, label), label)
        return {name: found[name] for name in names}
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predicted = logits.argmax(axis=1)
    scores = logits[:, 0].astype(np.float64)
    classes = range(logits.shape[1])
    functions = {
        "accuracy": lambda: accuracy_score(label, predicted),
        "f1": lambda: f1_score(label, predicted, pos_label=1, zero_division=0.0),
        "macro_f1": lambda: f1_score(
            label, predicted, labels=classes, average="macro", zero_division=0.0
        ),
        "matthews": lambda: matthews_corrcoef(label, predicted),
        "pearson": lambda: _correlation(pearsonr, scores, label),
        "spearman": lambda: _correlation(spearmanr, scores, label),
    }
    return {name: float(functions[name]()) for name in names}


def chance_loss(label: np.ndarray, regression: bool) -> float:
    """Return the least mean loss of a model that gives all examples the same answer.

    It is the entropy of the labels (nats), or of a regression their variance; of 0 or 1 for each
    label ``[examples, labels]`` the mean of the labels' entropies.
    """
    if label.ndim == 2:
        share = label.mean(axis=0, dtype=np.float64)
        return float((entr(share) + entr(1 - share)).mean())
    if regression:
        return float(np.var(label.astype(np.float64)))
    share = np.unique(label, return_counts=True)[1] / len(label)
    return float(entr(share).sum())


def no_better_than_chance(logits: np.ndarray, label: np.ndarray, regression: bool) -> bool:
    """Return whether predictions show no relation to the labels.

    Their correlation (Matthews', of a regression Pearson's) is then less than 2.5 standard errors
    of that of unrelated ones, 1 / sqrt(examples); of fewer than 25 examples it is less than 0.5.
    Of 0 or 1 for each label it is the correlation with the probabilities, within the labels.
    """
    if label.ndim == 2:
        pair = expit(logits.astype(np.float64)), label.astype(np.float64)
        one, other = (values - values.mean(axis=0) for values in pair)
        size = np.sqrt((one**2).sum() * (other**2).sum())
        correlation = (one * other).sum() / size if size else 0.0
    else:
        (correlation,) = compute(logits, label, ("pearson" if regression else "matthews",)).values()
    return correlation < min(0.5, 2.5 / np.sqrt(len(label)))


def rank(scores: dict[str, float], metric: str) -> tuple[float, float]:
    """Return what models are compared by: the metric, and of equal ones the lower loss."""
    return scores[metric], -scores["loss"]


def _correlation(function, scores: np.ndarray, label: np.ndarray) -> float:
    # For constant scores or labels it is 0/0: a model that predicts nothing scores 0.
    if len(label) < 2 or np.ptp(scores) == 0 or np.ptp(label) == 0:
        return 0.0
    return function(scores, label.astype(np.float64)).statistic


def pearson_interval(
    scores: np.ndarray, label: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Return a confidence interval of Pearson's correlation; NaN where there is none.

    It needs four examples, and neither scores nor labels may be constant.
    """
    from scipy.stats import pearsonr

    if len(label) < 4 or np.ptp(scores) == 0 or np.ptp(label) == 0:
        return np.nan, np.nan
    found = pearsonr(scores.astype(np.float64), label.astype(np.float64))
    low, high = found.confidence_interval(confidence)
    return float(low), float(high)


def mean_loss(logits: np.ndarray, label: np.ndarray, regression: bool = False) -> float:
    """Return the mean cross-entropy (nats), or squared error, of logits; in float64."""
    if label.ndim == 2:
        logits, label = as_two_classes(logits, label)
    if regression:
        return float(np.square(logits[:, 0].astype(np.float64) - label).mean())
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return float(-log_probabilities[np.arange(len(label)), label].mean())


def by_class(logits: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> dict:
    """Return precision, recall and F1 of each class, and the confusion matrix.

    Returns
    -------
    dict
        ``per_class``: {label: precision, recall, f1 (each 0 if it is 0/0) and support};
        ``confusion_matrix``: ``[classes, classes]``, one row per true label, in order; only of
        up to :data:`MOST_LABELS` classes, and not of examples that may have several labels.
    """
    if label.ndim == 2:
        return {"per_class": _by_label(decisions(logits, label), label, names)}
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = logits.argmax(axis=1)
    classes = range(len(names))
    scores = precision_recall_fscore_support(label, predicted, labels=classes, zero_division=0.0)
    kinds = ("precision", "recall", "f1", "support")
    per_class = {
        name: {kind: values[i].item() for kind, values in zip(kinds, scores, strict=True)}
        for i, name in enumerate(names)
    }
    if len(names) > MOST_LABELS:
        return {"per_class": per_class}
    confusions = confusion_matrix(label, predicted, labels=classes)
    return {"per_class": per_class, "confusion_matrix": confusions.tolist()}


def as_two_classes(logits: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each decision about one label of one example as an example with two classes.

    Parameters
    ----------
    logits : float array ``[examples, labels]``
    label : array ``[examples, labels]`` of 0 or 1

    Returns
    -------
    logits : float64 array ``[examples * labels, 2]``, whose softmax is the sigmoid
    label : int64 array ``[examples * labels]``
    """
    flat = logits.astype(np.float64).ravel()
    return np.stack([np.zeros_like(flat), flat], axis=1), label.ravel().astype(np.int64)


def decisions(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return what a network predicts: ``[examples]`` classes, as ``label`` has them.

    Where ``label`` is ``[examples, labels]``, so is this: whether the probability is at least 0.5.
    """
    return (logits >= 0) if label.ndim == 2 else logits.argmax(axis=1)


def f1_of_sets(predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Return ``micro_f1`` and ``macro_f1`` of sets of labels, each 0 if it is 0/0.

    Both arrays are ``[examples, labels]``, of 0 or 1.
    """
    right, found, true = _counts(predicted, label)
    both = found + true
    micro = 2 * right.sum() / max(both.sum(), 1)
    return {"micro_f1": float(micro), "macro_f1": float((2 * right / np.maximum(both, 1)).mean())}


def _counts(predicted: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
    """Return for each label the numbers of true positives, of predictions and of true labels."""
    predicted, label = predicted.astype(bool), label.astype(bool)
    return [values.sum(axis=0, dtype=np.int64) for values in (predicted & label, predicted, label)]


def _by_label(predicted: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> dict:
    counts = zip(names, *(values.tolist() for values in _counts(predicted, label)), strict=True)
    return {
        name: {
            "precision": right / max(found, 1),
            "recall": right / max(true, 1),
            "f1": 2 * right / max(found + true, 1),
            "support": true,
        }
        for name, right, found, true in counts
    }


def to_show(per_class: dict[str, dict]) -> dict[str, dict]:
    """Return the classes that tables have: all, or of very many those with the lowest F1."""
    if len(per_class) <= MOST_LABELS:
        return per_class
    measured = ((name, scores) for name, scores in per_class.items() if scores["support"])
    return dict(sorted(measured, key=lambda item: item[1]["f1"])[:_LABELS_SHOWN])
