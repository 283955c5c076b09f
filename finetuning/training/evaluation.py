"""Measuring a network on a task, and writing what it predicts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import Loss, SoftmaxCrossEntropyLoss
from scipy.special import softmax

from bert.classifier import BERTClassifier
from bert.files import write_text
from dataset import TokenizedExamples
from finetuning.console import log
from finetuning.data.reading import Examples
from finetuning.data.splits import Data
from finetuning.data.tasks import Task
from finetuning.results import metrics
from finetuning.training.trainer import predict
from finetuning.training.workers import Workers


class WeightedCrossEntropy(Loss):
    """Cross-entropy of an example times its label's weight; the mean is over examples."""

    def __init__(self, weights: np.ndarray):
        super().__init__(weight=None, batch_axis=0)
        self._weights = mx.nd.array(weights, dtype="float32")  # [classes]
        self._cross_entropy = SoftmaxCrossEntropyLoss()

    def forward(self, logits: mx.nd.NDArray, label: mx.nd.NDArray) -> mx.nd.NDArray:
        weights = self._weights.as_in_context(logits.context).take(label)
        return self._cross_entropy(logits, label, weights.expand_dims(1))


def evaluate(
    net: BERTClassifier,
    dev: dict[str, TokenizedExamples],
    task: Task,
    batch_size: int,
    workers: Workers,
    before_batch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Measure a network on the task's dev splits; ``before_batch`` is as in :func:`predict`.

    Returns
    -------
    metrics : dict of str to float
        The task's metrics, each with the split's suffix (MNLI: ``accuracy``, ``accuracy_mm``),
        then the loss on the first split.
    logits : dict of str to float32 arrays ``[examples, outputs]``
        By suffix.
    """
    logits = {
        suffix: predict(net, part, batch_size, workers, before_batch)
        for suffix, part in dev.items()
    }
    scores = {
        name + suffix: value
        for suffix, part in dev.items()
        for name, value in metrics.evaluate(logits[suffix], part.label, task.metrics).items()
    }
    loss = metrics.mean_loss(logits[""], dev[""].label, task.regression)
    return {**scores, "loss": loss}, logits


def predictions_text(logits: np.ndarray, label: np.ndarray | None, task: Task) -> str:
    """Return a TSV of a row an example: index from 0, label where known, prediction, logits."""
    header = ["index", *(["label"] if label is not None else []), "prediction"]
    if not task.regression:
        header += [f"logit_{name}" for name in task.labels]
    text = io.StringIO()
    rows = csv.writer(text, delimiter="\t", lineterminator="\n")
    rows.writerow(header)
    for index, row in enumerate(logits):
        true = [] if label is None else [label[index]]
        if task.regression:
            values = [f"{value:.9g}" for value in (*true, row[0])]
        else:
            values = [task.labels[i] for i in (*true, row.argmax())]
            values += [f"{logit:.9g}" for logit in row]
        rows.writerow([index, *values])
    return text.getvalue()


def labels_of(predictions: str) -> list[str]:
    """Return the true labels in a text by :func:`predictions_text`, labelled."""
    _, *rows = csv.reader(io.StringIO(predictions), delimiter="\t")
    return [row[1] for row in rows]


def logits_of(predictions: str) -> np.ndarray:
    """Return the logits ``[examples, outputs]`` in a text by :func:`predictions_text`, labelled.

    Those of a regression are its predictions.
    """
    _, *rows = csv.reader(io.StringIO(predictions), delimiter="\t")
    return np.array([row[3:] or row[2:] for row in rows], np.float32)


def mistakes_text(examples: Examples, logits: np.ndarray, task: Task, most: int = 20) -> str:
    """Return a TSV of the mistakes a model was surest of (of a regression: its largest errors).

    Columns: index, label, prediction, probability (regression: error), text_a, text_b.
    """
    if task.regression:
        predicted, label = logits[:, 0].astype(np.float64), examples.label.astype(np.float64)
        size = np.abs(predicted - label)
        wrong = size > 0
    else:
        probability = softmax(logits.astype(np.float64), axis=1)
        predicted, label, size = probability.argmax(axis=1), examples.label, probability.max(axis=1)
        wrong = predicted != label
    text = io.StringIO()
    rows = csv.writer(text, delimiter="\t", lineterminator="\n")
    measure = "error" if task.regression else "probability"
    rows.writerow(["index", "label", "prediction", measure, "text_a", "text_b"])
    surest = np.argsort(-size, kind="stable")
    for index in surest[wrong[surest]][:most]:
        pair = (label[index], predicted[index])
        shown = [f"{x:.6g}" for x in pair] if task.regression else [task.labels[i] for i in pair]
        texts = [text[index] if text else "" for text in (examples.text_a, examples.text_b)]
        rows.writerow([index, *shown, f"{size[index]:.6g}", *texts])
    return text.getvalue()


def predict_test(
    net: BERTClassifier,
    data: Data,
    as_submission: bool,
    batch_size: int,
    results: dict,
    output_dir: Path,
    workers: Workers,
) -> None:
    """Write the predictions of the test splits; a user's own labelled one is measured too."""
    for name, examples in data.test.items():
        logits = predict(net, examples, batch_size, workers)
        if not workers.first:
            continue
        if as_submission:
            path = output_dir / "predictions" / f"{name}.tsv"
            path.parent.mkdir(exist_ok=True)
            write_text(path, submission_text(logits, data.task))
        else:
            path = output_dir / "test_predictions.tsv"
            label = examples.label if name in data.labelled_tests else None
            write_text(path, predictions_text(logits, label, data.task))
            if label is not None:
                results["test"] = metrics.evaluate(logits, label, data.task.metrics)
                scores = ", ".join(f"{name} {value:.4f}" for name, value in results["test"].items())
                log.info(f"test      {scores}")
        log.info(f"written to {path}")


def log_predictions(examples: Examples, logits: np.ndarray, task: Task) -> None:
    """Print the dev examples of which a classifier was surest, rightly and wrongly."""
    probability = softmax(logits, axis=1)
    predicted = probability.argmax(axis=1)
    surest = np.argsort(-probability.max(axis=1), kind="stable")
    right = predicted[surest] == examples.label[surest]
    log.info("\nsome dev predictions, the surest right and wrong ones")
    for index in [*surest[right][:2], *surest[~right][:2]]:
        log.info(
            f"  {task.label_column} {task.labels[examples.label[index]]}, predicted "
            f"{task.labels[predicted[index]]} ({probability[index].max():.1%}): "
            + " | ".join(text[index] for text in (examples.text_a, examples.text_b) if text)
        )


def submission_text(logits: np.ndarray, task: Task) -> str:
    """Return predictions as gluebenchmark.com takes them: ``index`` and ``prediction``."""
    if task.regression:
        predictions = [f"{score:.4f}" for score in logits[:, 0].clip(*task.score_range)]
    else:
        predictions = [task.labels[i] for i in logits.argmax(axis=1)]
    lines = ["index\tprediction", *(f"{i}\t{value}" for i, value in enumerate(predictions))]
    return "\n".join(lines) + "\n"
