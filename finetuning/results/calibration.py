"""Calibrated probabilities: temperature scaling, and the threshold for two classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from sklearn.metrics import f1_score, precision_recall_curve

from finetuning.results.metrics import as_two_classes, f1_of_sets, mean_loss

# Bins of the confidence in the expected calibration error, as in Guo et al. 2017.
_BINS = 15
# Bounds of the temperature: for a dev split without mistakes the best one would be 0.
_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Fit a temperature, and for two classes a threshold, to a labelled split.

    Parameters
    ----------
    logits : float array ``[examples, classes]``
    label : int array ``[examples]``

    Returns
    -------
    dict of str to float
        ``temperature``: the divisor of the logits (Guo et al. 2017,
        https://arxiv.org/abs/1706.04599) that minimises the cross-entropy; it changes no argmax.
        ``ece_before``, ``ece_after``: :func:`expected_calibration_error` without and with it.
        ``loss_before``, ``loss_after``: the mean cross-entropy (nats) without and with it.
        For two classes ``threshold``: the smallest calibrated probability at which label 1 is
        predicted, chosen for the highest F1; ``f1_before`` (at 0.5), ``f1_after``.
    """
    temperature, found = _temperature(logits, label)
    if logits.shape[1] == 2:
        positive = softmax(logits.astype(np.float64) / temperature, axis=1)[:, 1]
        threshold = best_threshold(positive, label)
        found["threshold"] = threshold
        found["f1_before"] = float(f1_score(label, positive > 0.5, zero_division=0.0))
        found["f1_after"] = float(f1_score(label, positive >= threshold, zero_division=0.0))
    return found


def fit_sets(logits: np.ndarray, label: np.ndarray, names: Sequence[str]) -> dict:
    """Fit a temperature, and a threshold per label, to a split whose examples may have several.

    Parameters
    ----------
    logits : float array ``[examples, labels]``
    label : array ``[examples, labels]`` of 0 or 1
    names : the labels

    Returns
    -------
    dict
        ``temperature`` to ``loss_after`` as in :func:`fit_temperature`, of all decisions about one
        label of one example. ``thresholds``: {label: the smallest calibrated probability at which
        it is predicted}, each chosen for the highest F1 (0.5 where no example has the label);
        ``micro_f1_before``, ``macro_f1_before`` (at 0.5), ``micro_f1_after``, ``macro_f1_after``.
    """
    temperature, found = _temperature(*as_two_classes(logits, label))
    probability = expit(logits.astype(np.float64) / temperature)
    thresholds = [
        best_threshold(values, true) if true.any() else 0.5
        for values, true in zip(probability.T, label.T, strict=True)
    ]
    before, after = f1_of_sets(logits >= 0, label), f1_of_sets(probability >= thresholds, label)
    return {
        **found,
        "thresholds": dict(zip(names, thresholds, strict=True)),
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
    }


def _temperature(logits: np.ndarray, label: np.ndarray) -> tuple[float, dict[str, float]]:
    best = minimize_scalar(
        lambda log_temperature: mean_loss(logits / np.exp(log_temperature), label),
        bounds=(np.log(_LOWEST), np.log(_HIGHEST)),
        method="bounded",
    )
    temperature = float(np.exp(best.x))
    before, after = (softmax(logits.astype(np.float64) / t, axis=1) for t in (1.0, temperature))
    return temperature, {
        "temperature": temperature,
        "ece_before": expected_calibration_error(before, label),
        "ece_after": expected_calibration_error(after, label),
        "loss_before": mean_loss(logits, label),
        "loss_after": mean_loss(logits / temperature, label),
    }


def why_no_optimum(logits: np.ndarray, label: np.ndarray, temperature: float) -> str | None:
    """Say why a fitted temperature is not an optimum but where the search ended, if it is not."""
    if temperature > _HIGHEST / 1.01:
        return "the predictions are no better than chance, so a higher one would always fit better"
    if temperature < 1.01 * _LOWEST or (logits.argmax(axis=1) == label).all():
        return "the split has too few mistakes, so a lower one would always fit better"
    return None


def expected_calibration_error(probability: np.ndarray, label: np.ndarray) -> float:
    """Return the mean gap between confidence and accuracy over bins (Guo et al. 2017, eq. 3).

    Parameters
    ----------
    probability : float array ``[examples, classes]``
    label : int array ``[examples]``
    """
    return float(
        sum(
            abs(right - confidence) * share
            for _, confidence, right, share in reliability(probability, label)
        )
    )


def reliability(
    probability: np.ndarray, label: np.ndarray
) -> list[tuple[float, float, float, float]]:
    """Return (upper end, mean confidence, accuracy, share of examples) of each non-empty bin."""
    return in_bins(probability.max(axis=1), probability.argmax(axis=1) == label)


def in_bins(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Return (upper end, mean confidence, share that is right, share of all) of each bin."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        (
            (number + 1) / _BINS,
            float(confidence[bins == number].mean()),
            float(right[bins == number].mean()),
            float((bins == number).mean()),
        )
        for number in np.unique(bins)
    ]


def best_threshold(positive: np.ndarray, label: np.ndarray) -> float:
    """Return the threshold for predicting the positive label that has the highest F1.

    It is halfway between the lowest probability above it and the highest below it; of several
    equally good thresholds the one nearest to 0.5.
    """
    precision, recall, lowest = precision_recall_curve(label, positive)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))[: len(lowest)]
    below = np.concatenate([[0.0], lowest[:-1]])
    thresholds = (below + lowest) / 2
    equally_good = thresholds[f1 >= f1.max() - 1e-12]
    return float(equally_good[np.abs(equally_good - 0.5).argmin()])
