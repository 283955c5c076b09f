"""From a classifier's logits to its answers, as its config.json says. Loads no MXNet."""

from __future__ import annotations

from typing import Any

import numpy as np

# {"label": …, "probabilities": {label: …}}, or {"labels": […], …}; of a regression {"score": …}.
Answer = dict[str, Any]


def averaged(logits: np.ndarray, windows: np.ndarray | None) -> np.ndarray:
    """Return the logits ``[examples, outputs]`` float32 of examples of several windows: the means.

    Logits and not probabilities, so that the windows that are sure count most.

    Parameters
    ----------
    logits : float32 array ``[windows, outputs]``
    windows : int64 array ``[examples + 1]``, optional
        Example i has the windows ``windows[i]`` to ``windows[i + 1]``; None: each has one.
    """
    if windows is None:
        return logits
    sums = np.add.reduceat(logits, windows[:-1], axis=0, dtype=np.float64)
    return (sums / np.diff(windows)[:, None]).astype(np.float32)


def answers(logits: np.ndarray, config: dict) -> list[Answer]:
    """Return what a fine-tuned model predicts.

    Parameters
    ----------
    logits : float32 array ``[examples, outputs]``
    config : dict
        The content of its ``config.json``. A calibrated temperature divides the logits, and of two
        labels a calibrated threshold decides; of any number of labels each has a threshold (0.5).

    Returns
    -------
    list of dict
        ``label`` (of a multi-label model ``labels``, a list) and ``probabilities``,
        {label: probability} in the order of the logits; of a regression ``score``. Numbers have
        six digits.
    """
    exact = logits.astype(np.float64)
    if config["problem_type"] == "regression":
        return [{"score": _rounded(row[0])} for row in exact]
    calibration = config.get("calibration", {})
    threshold = calibration.get("threshold")
    names = list(config["id2label"].values())
    scaled = exact / calibration.get("temperature", 1)
    if config["problem_type"] == "multi_label_classification":
        thresholds = calibration.get("thresholds", {})
        return [
            {
                "labels": [
                    x for x, p in zip(names, row, strict=True) if p >= thresholds.get(x, 0.5)
                ],
                "probabilities": dict(zip(names, map(_rounded, row), strict=True)),
            }
            for row in sigmoid(scaled)
        ]
    return [
        {
            "label": names[_label_index(row, threshold)],
            "probabilities": dict(zip(names, map(_rounded, row), strict=True)),
        }
        for row in softmax(scaled)
    ]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities ``[examples, labels]`` as scipy.special does, whose import takes 0.2 s.

    predict.py answers its first text in half a second.
    """
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probability of each label, which may be one of several of an example."""
    return np.exp(-np.logaddexp(0, -logits))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _label_index(probability: np.ndarray, threshold: float | None) -> int:
    """Return the most probable label, or of two labels the one by a calibrated threshold."""
    if threshold is not None and len(probability) == 2:
        return int(probability[1] >= threshold)
    return int(probability.argmax())
