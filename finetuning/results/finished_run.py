"""What the folder of a finished run says about it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert.errors import UserError
from bert.files import read_json
from finetuning.data.tasks import Task, task_from_config
from finetuning.results.predictions import labels_of, logits_of

_NEEDED = ("task", "seed", "arguments", "epochs", "best", "curve", "data")


@dataclass(frozen=True)
class FinishedRun:
    """The results of a run, as its files have them."""

    name: str
    results: dict  # metrics.json
    labels: tuple[str, ...]  # empty for regression
    label: np.ndarray  # [dev examples]: indices into labels, or a regression's numbers
    logits: np.ndarray  # [dev examples, outputs] float64
    metric: str  # the one that selects the best epoch
    temperature: float | None  # of --calibrate
    mistakes: list[dict[str, str]]  # rows of dev_mistakes.tsv

    @property
    def score(self) -> float:
        return self.results["best"]["dev"][self.metric]


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of the seeds or folds in a run's folder, by number, or the folder."""
    parts = [*folder.glob("seed-*"), *folder.glob("fold_*")]
    parts = [path for path in parts if path.is_dir()]
    return sorted(parts, key=lambda path: (len(path.name), path.name)) or [folder]


def read_run(folder: Path) -> FinishedRun:
    """Read a run's results; UserError if the folder is not that of a finished run."""
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder} is not a run folder, or has no evaluation yet")
    results, config = read_json(folder / "metrics.json"), read_json(folder / "config.json")
    task = task_from_config(config)
    try:
        _check(results, task)
        text = (folder / "dev_predictions.tsv").read_text(encoding="utf-8")
        mistakes = folder / "dev_mistakes.tsv"
        rows = mistakes.read_text(encoding="utf-8") if mistakes.exists() else ""
        return FinishedRun(
            folder.resolve().name,
            {key: results[key] for key in _NEEDED},
            task.labels,
            _label_array(labels_of(text), task),
            logits_of(text).astype(np.float64),
            task.metrics[0],
            config.get("calibration", {}).get("temperature"),
            list(csv.DictReader(io.StringIO(rows), delimiter="\t")),
        )
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: its files do not fit each other ({error!r})") from None


def _label_array(names: list[str], task: Task) -> np.ndarray:
    if task.regression:
        return np.array(names, np.float64)
    return np.array([task.labels.index(name) for name in names])


def _check(results: dict, task: Task) -> None:
    """Raise an error, of some kind, where metrics.json lacks what is drawn."""
    best, curve, train = results["best"], results["curve"], results["data"]["train"]
    for row in (best, *results["epochs"]):
        _numbers([row["epoch"], *row["dev"].values(), row["dev"][task.metrics[0]]])
    _numbers([row["dev"]["loss"] for row in results["epochs"]])
    if not results["epochs"] or best["epoch"] not in [row["epoch"] for row in results["epochs"]]:
        raise ValueError("the best epoch is not among the epochs")
    _numbers(curve["update"])
    if len(curve["train_loss"]) != len(curve["update"]):
        raise ValueError("the curve's losses and updates are not equally many")
    arguments = results["arguments"]
    _numbers([train["examples"], arguments["batch_size"], arguments["accumulate"]], lowest=1)
    _numbers([arguments["training_steps"] or 1], lowest=1)
    _numbers([*map(int, train["lengths"]), *train["lengths"].values()], lowest=0)
    _numbers(train["padding"].values(), lowest=0)
    if task.labels:
        _numbers(cell for row in best["confusion_matrix"] for cell in row)
        if np.shape(best["confusion_matrix"]) != (len(task.labels), len(task.labels)):
            raise ValueError("the confusion matrix is not one of the labels")
    if not isinstance(results["task"], str):
        raise ValueError("the task is not a name")


def _numbers(values: Iterable[object], lowest: float = -np.inf) -> None:
    for value in values:
        number = value if isinstance(value, (int, float)) else np.nan
        if isinstance(value, bool) or not lowest <= number < np.inf:
            raise ValueError(f"metrics.json has {value!r} for a number")
