"""Evaluating a network on a task's dev splits, and predicting its test splits."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import numpy as np
from scipy.special import softmax

from bert.classifier import BERTClassifier
from bert.files import write_text
from dataset import TokenizedExamples, evaluation_batches
from finetuning.console import log
from finetuning.data.reading import Examples
from finetuning.data.tasks import Task
from finetuning.results import metrics
from finetuning.training.inputs import NotFiniteError, memory_for, network_inputs
from finetuning.training.run import Run
from finetuning.training.workers import Workers


def predict(
    net: BERTClassifier,
    examples: TokenizedExamples,
    batch_size: int,
    workers: Workers,
    before_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return the logits ``[examples, classes]`` float32, in the examples' order, on every rank.

    The devices take batches in turn. ``before_batch`` may end it with an exception.

    Raises
    ------
    NotFiniteError
        A logit is not a finite number.
    OutOfMemoryError
        Names the flag to lower.
    """
    rows: dict[int, np.ndarray] = {}
    batches = evaluation_batches(examples.lengths, batch_size)
    for first in range(0, len(batches), workers.count):
        before_batch()
        numbers = [first + workers.number(device) for device in range(len(workers.ctx))]
        mine = [batches[number] for number in numbers if number < len(batches)]
        with memory_for(examples, batches[first : first + 1], "--dev_batch_size"):
            computing = [
                net(*network_inputs(net, examples, indices, ctx))
                for indices, ctx in zip(mine, workers.ctx, strict=False)
            ]
            # Waiting for each round keeps only one batch per device in memory.
            for indices, logits in zip(mine, computing, strict=True):
                rows |= zip(indices.tolist(), logits.asnumpy(), strict=True)
    merged = workers.merge(rows, (len(examples), net.num_classes))
    if not np.isfinite(merged).all():
        raise NotFiniteError("the network's outputs are not finite; none of them were saved")
    return merged


class Evaluation:
    """What a run's network gives on the dev splits.

    Attributes
    ----------
    logits : dict of str to float32 arrays ``[examples, outputs]``
        By the suffix of the split's metrics (MNLI: ``""`` and ``"_mm"``).
    metrics : dict of str to float
        The task's metrics, each with the split's suffix, then the loss on the first split.
    main_metric : str
        The one of ``metrics`` that selects the best epoch.
    """

    def __init__(self, run: Run, before_batch: Callable[[], None] = lambda: None):
        net, batch_size = run.classifier.net, run.options.dev_batch_size
        self._data, task = run.data, run.data.task
        self.main_metric = task.metrics[0]
        self.logits: dict[str, np.ndarray] = {}
        self.metrics: dict[str, float] = {}
        for suffix, part in run.data.dev.items():
            logits = predict(net, part, batch_size, run.workers, before_batch)
            self.logits[suffix] = logits
            for name, value in metrics.evaluate(logits, part.label, task.metrics).items():
                self.metrics[name + suffix] = value
        label = run.data.dev[""].label
        self.metrics["loss"] = metrics.mean_loss(self.logits[""], label, task.regression)

    def by_class(self) -> dict:
        """Return scores and confusions per label on the first split; of a regression nothing."""
        task = self._data.task
        if task.regression:
            return {}
        return metrics.by_class(self.logits[""], self._data.dev[""].label, task.labels)

    def files(self) -> dict[str, str]:
        """Return the contents of the files of predictions, by their names."""
        data = self._data
        files = {
            f"dev_predictions{suffix}.tsv": predictions_text(logits, part.label, data.task)
            for (suffix, part), logits in zip(data.dev.items(), self.logits.values(), strict=True)
        }
        if data.dev_texts:
            files["dev_mistakes.tsv"] = mistakes_text(data.dev_texts, self.logits[""], data.task)
        return files


def predict_test(run: Run, results: dict) -> None:
    """Write the predictions of the test splits; a labelled one is also measured, into results."""
    task, batch_size = run.data.task, run.options.dev_batch_size
    for name, examples in run.data.test.items():
        logits = predict(run.classifier.net, examples, batch_size, run.workers)
        if run.output is None:
            continue
        if run.options.predict_test:
            path = run.output / "predictions" / f"{name}.tsv"
            path.parent.mkdir(exist_ok=True)
            write_text(path, submission_text(logits, task))
        else:
            path = run.output / "test_predictions.tsv"
            label = examples.label if name in run.data.labelled_tests else None
            write_text(path, predictions_text(logits, label, task))
            if label is not None:
                results["test"] = metrics.evaluate(logits, label, task.metrics)
                scores = ", ".join(f"{name} {value:.4f}" for name, value in results["test"].items())
                log.info(f"test      {scores}")
        log.info(f"written to {path}")


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
