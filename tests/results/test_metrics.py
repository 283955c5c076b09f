"""Metrics equal values worked out by hand, the degenerate cases included."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from finetuning.results import metrics


def logits_of(predicted, classes=2):
    return np.eye(classes, dtype=np.float32)[np.array(predicted)]


# 8 examples: 3 true positives, 1 false positive, 2 false negatives, 2 true negatives.
LABEL = np.array([1, 1, 1, 0, 1, 1, 0, 0], np.int32)
PREDICTED = [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "name, value",
    [
        ("accuracy", 5 / 8),
        ("f1", 2 * 3 / (2 * 3 + 1 + 2)),
        ("macro_f1", (2 * 3 / (2 * 3 + 1 + 2) + 2 * 2 / (2 * 2 + 2 + 1)) / 2),
        ("matthews", (3 * 2 - 1 * 2) / math.sqrt((3 + 1) * (3 + 2) * (2 + 1) * (2 + 2))),
    ],
)
def test_classification_metrics_by_hand(name, value):
    assert metrics.compute(logits_of(PREDICTED), LABEL, (name,))[name] == pytest.approx(value)


def test_correlations_by_hand():
    scores = np.array([[1.0], [2.0], [3.0], [5.0]], np.float32)
    label = np.array([2.0, 1.0, 4.0, 5.0], np.float32)
    # Deviations from the means 2.75 and 3: products sum to 8, squares to 8.75 and 10.
    # Ranks 1 2 3 4 and 2 1 3 4: 1 - 6 (1 + 1) / (4 (16 - 1)).
    found = metrics.compute(scores, label, ("pearson", "spearman"))
    assert found["pearson"] == pytest.approx(8 / math.sqrt(8.75 * 10))
    assert found["spearman"] == pytest.approx(0.8)


@pytest.mark.parametrize("constant", [0, 1])
def test_predicting_one_class_is_no_error_and_earns_no_matthews(constant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.compute(
            logits_of([constant] * 8), LABEL, ("matthews", "f1", "accuracy", "macro_f1")
        )
    assert found["matthews"] == 0
    assert found["f1"] == (pytest.approx(2 * 5 / (2 * 5 + 3)) if constant else 0)
    assert found["accuracy"] == (5 if constant else 3) / 8
    assert found["macro_f1"] == pytest.approx(10 / 13 / 2 if constant else 6 / 11 / 2)


def test_labels_and_predictions_without_a_positive_have_an_f1_of_0():
    assert metrics.compute(logits_of([0, 0]), np.array([0, 0]), ("f1",)) == {"f1": 0}


@pytest.mark.parametrize(
    "scores, label",
    [
        ([[2.0]] * 4, [1.0, 2.0, 3.0, 4.0]),
        ([[1.0], [2.0], [3.0], [4.0]], [2.0] * 4),
        ([[1.0]], [1.0]),
    ],
)
def test_a_constant_correlates_with_nothing(scores, label):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.compute(
            np.array(scores, np.float32), np.array(label, np.float32), ("pearson", "spearman")
        )
    assert found == {"pearson": 0, "spearman": 0}


def test_the_loss_is_cross_entropy_or_squared_error():
    logits = np.array([[0.0, math.log(3)], [0.0, 0.0]], np.float32)
    loss = metrics.mean_loss(logits, np.array([1, 0]))
    assert loss == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    scores, label = np.array([[1.0], [4.0]], np.float32), np.array([2.0, 1.0], np.float32)
    assert metrics.mean_loss(scores, label, regression=True) == pytest.approx((1 + 9) / 2)


def test_every_class_has_its_scores_and_a_row_of_the_confusion_matrix():
    label, predicted = np.array([0, 0, 1, 1, 1]), [0, 1, 1, 1, 0]
    found = metrics.by_class(logits_of(predicted, 3), label, ("a", "b", "c"))
    assert found["confusion_matrix"] == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert found["per_class"]["b"] == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "support": 3,
    }
    assert found["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
