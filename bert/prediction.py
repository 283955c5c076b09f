"""From a classifier's logits to its answers, as its config.json says. Loads no MXNet."""

from __future__ import annotations

from typing import Any

import numpy as np

# {"label": …, "probabilities": {label: …}}, or of a regression {"score": …}.
Answer = dict[str, Any]


def answers(logits: np.ndarray, config: dict) -> list[Answer]:
    """Return what a fine-tuned model predicts.

    Parameters
    ----------
    logits : float32 array ``[examples, outputs]``
    config : dict
        The content of its ``config.json``. A calibrated temperature divides the logits, and of two
        labels a calibrated threshold decides.

    Returns
    -------
    list of dict
        ``label`` and ``probabilities``, {label: probability} in the order of the logits; of a
        regression ``score``. Numbers have six digits.
    """
    exact = logits.astype(np.float64)
    if config["problem_type"] == "regression":
        return [{"score": _rounded(row[0])} for row in exact]
    calibration = config.get("calibration", {})
    threshold = calibration.get("threshold")
    names = list(config["id2label"].values())
    return [
        {
            "label": names[_label_index(row, threshold)],
            "probabilities": dict(zip(names, map(_rounded, row), strict=True)),
        }
        for row in softmax(exact / calibration.get("temperature", 1))
    ]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities ``[examples, labels]`` as scipy.special does, whose import takes 0.2 s.

    predict.py answers its first text in half a second.
    """
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _label_index(probability: np.ndarray, threshold: float | None) -> int:
    """Return the most probable label, or of two labels the one by a calibrated threshold."""
    if threshold is not None and len(probability) == 2:
        return int(probability[1] >= threshold)
    return int(probability.argmax())
