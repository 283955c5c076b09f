"""Evaluate a network on the dev splits, and predict the test splits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bert.files import write_text
from bert.inference import Inference
from bert.modeling import BERTClassifier
from bert.prediction import averaged
from dataset import TokenizedExamples, evaluation_batches, logits_by, rows_of
from finetuning.console import log
from finetuning.data.tasks import SUBMISSION_FILES
from finetuning.results import metrics
from finetuning.results.predictions import mistakes_text, predictions_text, submission_text
from finetuning.training.folder import claim
from finetuning.training.inputs import NotFiniteError, logits_of, memory_for
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

    With the fused operators, a network like BERT's is packed for inference; where what a frozen
    part gives for the examples is kept, only the network behind it computes. The devices take
    batches in turn. ``before_batch`` may end it with an exception. Of an example of several windows
    it is the mean of their logits.

    Raises
    ------
    NotFiniteError
        A logit is not a finite number.
    OutOfMemoryError
        Names the flag to lower.
    """
    rows: dict[int, np.ndarray] = {}
    batches = evaluation_batches(examples.lengths, batch_size)
    with memory_for(examples, batches[:1], "--dev_batch_size"):
        packable = net.bert.fused and net.bert.config.is_plain and not examples.kept
        packed = Inference.of(net) if packable else None
    for first in range(0, len(batches), workers.count):
        before_batch()
        numbers = [first + workers.number(device) for device in range(len(workers.ctx))]
        mine = [batches[number] for number in numbers if number < len(batches)]
        with memory_for(examples, batches[first : first + 1], "--dev_batch_size"):
            if packed:
                computed = [logits_by(packed, examples, indices) for indices in mine]
            else:
                computing = [
                    logits_of(net, examples, indices, ctx)
                    for indices, ctx in zip(mine, workers.ctx, strict=False)
                ]
                # Waiting for each round keeps only one batch per device in memory.
                computed = [logits.asnumpy() for logits in computing]
            for indices, logits in zip(mine, computed, strict=True):
                rows |= zip(indices.tolist(), logits, strict=True)
    merged = workers.merge(rows, (len(examples.lengths), net.num_classes))
    if not np.isfinite(merged).all():
        raise NotFiniteError("the network's outputs are not finite; none of them were saved")
    return averaged(merged, examples.windows)


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
            for name, value in metrics.compute(logits, part.label, task.metrics).items():
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
            f"dev_predictions{suffix}.tsv": predictions_text(
                logits, part.label, data.task, rows_of(part)
            )
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
        if name in SUBMISSION_FILES:
            path = run.output / "predictions" / f"{name}.tsv"
            claim(run.output, f"predictions/{name}.tsv")
            path.parent.mkdir(exist_ok=True)
            write_text(path, submission_text(logits, task))
        else:
            path = run.output / "test_predictions.tsv"
            claim(run.output, path.name)
            label = examples.label if name in run.data.labelled_tests else None
            write_text(path, predictions_text(logits, label, task, rows_of(examples)))
            if label is not None:
                results["test"] = metrics.compute(logits, label, task.metrics)
                scores = ", ".join(f"{name} {value:.4f}" for name, value in results["test"].items())
                log.info(f"test      {scores}")
        log.info(f"written to {path}")
