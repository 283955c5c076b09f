"""Measuring a network on a task, and writing what it predicts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import Loss, SoftmaxCrossEntropyLoss
from scipy.special import softmax

import metrics
from bert.classifier import BERTClassifier
from bert.errors import UserError
from dataset import TokenizedExamples
from reading import Examples
from report import log
from tasks import Task
from training import predict


class WeightedCrossEntropy(Loss):
    """Cross-entropy of an example times its label's weight; the mean is over examples."""

    def __init__(self, weights: np.ndarray):
        super().__init__(weight=None, batch_axis=0)
        self._weights = mx.nd.array(weights, dtype="float32")  # [classes]
        self._cross_entropy = SoftmaxCrossEntropyLoss()

    def forward(self, logits: mx.nd.NDArray, label: mx.nd.NDArray) -> mx.nd.NDArray:
        weights = self._weights.as_in_context(logits.context).take(label)
        return self._cross_entropy(logits, label, weights.expand_dims(1))


def parse_class_weights(text: str, task: Task, label: np.ndarray) -> np.ndarray:
    """Return a weight for each label.

    Parameters
    ----------
    text : str
        ``balanced``: examples / (classes × examples of the label), so that every label counts
        the same and the mean weight of an example is 1; or ``label=weight,…``, where a label not
        named weighs 1.
    task : Task
    label : int array ``[examples]``
        Of the training examples.

    Raises
    ------
    UserError
        A label that the task does not have, or a weight that is not a positive number.
    """
    if text == "balanced":
        counts = np.bincount(label, minlength=len(task.labels))
        # A label without examples is never weighed.
        return (len(label) / (len(task.labels) * np.maximum(counts, 1))).astype(np.float32)
    weights = np.ones(len(task.labels), np.float32)
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        if name not in task.labels:
            raise UserError(
                f"--class_weights {text}: {name or part!r} is none of the labels "
                f"({', '.join(task.labels)}); write balanced or label=weight,…"
            )
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise UserError(f"--class_weights {text}: {number!r} is not a positive number")
        weights[task.labels.index(name)] = weight
    return weights


def evaluate(
    net: BERTClassifier,
    dev: dict[str, TokenizedExamples],
    task: Task,
    batch_size: int,
    ctx: mx.Context,
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
        suffix: predict(net, part, batch_size, ctx, before_batch) for suffix, part in dev.items()
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


def logits_of(predictions: str) -> np.ndarray:
    """Return the logits ``[examples, classes]`` in a text by :func:`predictions_text`, labelled."""
    _, *rows = csv.reader(io.StringIO(predictions), delimiter="\t")
    return np.array([row[3:] for row in rows], np.float32)


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
