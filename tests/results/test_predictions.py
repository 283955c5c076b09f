"""Predictions as text: what is written can be read back, and the most confident come first."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from dataset import Examples
from finetuning.data.tasks import TASKS, own_task
from finetuning.results.predictions import (
    confident_text,
    mistakes_text,
    predictions_text,
    read_predictions,
    read_rows,
    submission_text,
)

LABELS = ('a "b"', "c,d")
TASK = own_task("text", None, "topic", False, LABELS)
REGRESSION = own_task("text", None, "score", True)
# Confidence grows from row to row; rows 1 and 3 are wrong.
LOGITS = np.array([[0.1, 0], [0, 0.5], [0, 1.25], [2, 0], [0, 1e-9]], np.float32)
EXAMPLES = Examples([f"text {i}" for i in range(5)], None, np.array([0, 0, 1, 1, 1], np.int32))
NUMBERS = Examples(EXAMPLES.text_a, None, np.array([1, 2, 3, 4, 5], np.float32))


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def test_labels_and_logits_are_read_back_exactly(tmp_path):
    text = predictions_text(LOGITS, EXAMPLES.label, TASK)
    (tmp_path / "x.tsv").write_text(text)
    label, logits = read_predictions(tmp_path / "x.tsv", TASK, len(LOGITS))
    np.testing.assert_array_equal(label, EXAMPLES.label)
    np.testing.assert_array_equal(logits, LOGITS)
    assert logits.dtype == np.float32
    assert [row["prediction"] for row in rows_of(text)] == [LABELS[i] for i in (0, 1, 1, 0, 1)]
    assert list(rows_of(text)[0])[-2:] == [f"logit_{name}" for name in LABELS]


def test_a_regressions_predictions_are_read_back_exactly(tmp_path):
    scores = np.array([[1.5], [2.25], [1 / 3], [-4], [0]], np.float32)
    text = predictions_text(scores, NUMBERS.label, REGRESSION)
    (tmp_path / "x.tsv").write_text(text)
    label, logits = read_predictions(tmp_path / "x.tsv", REGRESSION)
    np.testing.assert_array_equal(logits, scores)
    np.testing.assert_array_equal(label, NUMBERS.label)


def test_a_text_may_be_long(tmp_path):
    text = "dog " * 100_000
    examples = Examples([text], None, np.array([1], np.int32))
    (tmp_path / "x.tsv").write_text(mistakes_text(examples, LOGITS[:1], TASK))
    limit = csv.field_size_limit()
    assert list(read_rows(tmp_path / "x.tsv"))[1][4] == text
    assert csv.field_size_limit() == limit


def test_without_labels_there_is_no_column_of_them():
    rows = rows_of(predictions_text(LOGITS, None, TASK))
    assert list(rows[0])[:2] == ["index", "prediction"]


def test_the_mistakes_are_the_most_confident_ones():
    rows = rows_of(mistakes_text(EXAMPLES, LOGITS, TASK))
    assert [row["index"] for row in rows] == ["3", "1"]
    assert rows[0]["probability"] == f"{1 / (1 + np.exp(-2)):.6g}"
    assert (rows[0]["label"], rows[0]["prediction"]) == (LABELS[1], LABELS[0])
    assert rows[0]["text_a"] == "text 3" and rows[0]["text_b"] == ""
    assert len(rows_of(mistakes_text(EXAMPLES, LOGITS, TASK, most=1))) == 1


def test_a_regressions_mistakes_are_its_largest_errors():
    scores = np.array([[1], [2.5], [2], [4], [5.25]], np.float32)
    rows = rows_of(mistakes_text(NUMBERS, scores, REGRESSION))
    assert [(row["index"], row["error"]) for row in rows] == [
        ("2", "1"),
        ("1", "0.5"),
        ("4", "0.25"),
    ]


def test_the_most_confident_predictions_are_printed_correct_ones_first():
    title, *lines = confident_text(EXAMPLES, LOGITS, TASK).splitlines()
    assert title == "most confident dev predictions, correct and incorrect"
    assert [line.rsplit(": ", 1)[1] for line in lines] == ["text 2", "text 0", "text 3", "text 1"]
    assert lines[2] == f"  topic {LABELS[1]}, predicted {LABELS[0]} (88.1%): text 3"
    pairs = Examples(["a"], ["b"], np.array([0]))
    assert confident_text(pairs, LOGITS[:1], TASK).endswith(": a | b")


@pytest.mark.parametrize(
    "task, logits, lines",
    [
        ("RTE", [[2, 1], [0, 1]], ["0\tentailment", "1\tnot_entailment"]),
        ("STS-B", [[-0.5], [2.34567], [7]], ["0\t0.0000", "1\t2.3457", "2\t5.0000"]),
    ],
)
def test_a_submission_has_glues_labels_and_range(task, logits, lines):
    text = submission_text(np.array(logits, np.float32), TASKS[task])
    assert text.splitlines() == ["index\tprediction", *lines]
