"""What the folder of a run says about its results: metrics.json, and what is drawn of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert import schema
from bert.errors import UserError
from bert.files import read_json
from bert.run_config import read_config
from finetuning.data.tasks import Task, task_from_config
from finetuning.results.metrics import MOST_LABELS
from finetuning.results.predictions import read_predictions, read_rows

_SCORES = schema.entries(schema.number())
_SHARE = schema.number(0, 1)
_CLASS = schema.fields(
    # Of a class without examples scikit-learn gives 0.0.
    {"precision": _SHARE, "recall": _SHARE, "f1": _SHARE, "support": schema.number(0)}
)
_BEST = schema.fields(
    {"epoch": schema.whole(1), "update": schema.whole(1), "dev": _SCORES},
    {
        "per_class": schema.entries(_CLASS),
        "confusion_matrix": schema.items(schema.items(schema.whole())),
    },
)
_EPOCH = schema.fields(
    {
        "epoch": schema.whole(1),
        "train_loss": schema.optional(schema.number()),
        "seconds": schema.number(0),
        "samples_per_second": schema.number(0),
        "dev": _SCORES,
    }
)
_CURVE = schema.fields(
    {
        "update": schema.items(schema.whole(1)),
        "train_loss": schema.items(schema.number()),
        "lr": schema.items(schema.number(0)),
        "gradient_norm": schema.items(schema.optional(schema.number(0))),
    }
)
_SPLIT = schema.fields(
    {
        "examples": schema.whole(1),
        "tokens": schema.whole(1, 2**53),
        "truncated": schema.whole(),
        "lengths": schema.entries(schema.whole(), schema.matching(r"[0-9]{1,9}")),
    },
    {"padding": schema.entries(_SHARE)},
)
_ARGUMENTS = schema.fields(
    {
        "epochs": schema.whole(1),
        "batch_size": schema.whole(1),
        "accumulate": schema.whole(1),
        "training_steps": schema.optional(schema.whole(1)),
    },
    {"dtype": schema.one_of("float32", "bfloat16", "float16")},
)
# What metrics.json and the state in a checkpoint say of a run that has an evaluation, or none yet.
PROGRESS = {
    "environment": schema.entries(schema.anything),
    "epochs": schema.items(_EPOCH),
    "best": schema.optional(_BEST),
    "skipped_updates": schema.whole(),
    "curve": _CURVE,
}
# What metrics.json says besides.
_HEADER = {
    "task": schema.text,
    "seed": schema.whole(),
    "arguments": _ARGUMENTS,
    "num_parameters": schema.whole(1, 2**53),
    "data": schema.entries(_SPLIT),
}
_RESULTS = schema.fields({**_HEADER, **PROGRESS, "best": _BEST}, {"test": _SCORES})


@dataclass(frozen=True)
class FinishedRun:
    """The results of a run, as its files have them."""

    name: str
    results: dict  # metrics.json
    labels: tuple[str, ...]  # empty for regression
    # [dev examples]: indices into labels, or a regression's numbers; or 0 or 1 for each label
    label: np.ndarray
    logits: np.ndarray  # [dev examples, outputs] float64
    metric: str  # the one that selects the best epoch
    temperature: float | None  # of --calibrate
    mistakes: list[dict[str, str]]  # rows of dev_mistakes.tsv

    @property
    def multi_label(self) -> bool:
        """Whether an example may have any number of labels."""
        return self.label.ndim == 2

    @property
    def score(self) -> float:
        return self.results["best"]["dev"][self.metric]

    @property
    def metrics(self) -> list[str]:
        """The names of the dev metrics, and of the loss."""
        return list(self.results["best"]["dev"])


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of the seeds or folds in a run's folder, by number, or the folder."""
    parts = [*folder.glob("seed-*"), *folder.glob("fold_*")]
    parts = [path for path in parts if path.is_dir()]
    return sorted(parts, key=lambda path: (len(path.name), path.name)) or [folder]


def read_results(folder: Path, task: Task) -> dict:
    """Read a run's ``metrics.json``, in which every entry that is used has been checked.

    Raises
    ------
    UserError
        It cannot be read, or is not what a run of the task writes.
    """
    path = folder / "metrics.json"
    results = read_json(path)
    schema.check(_RESULTS, results, path)
    check_progress(results, task, path)
    if results["task"] != task.name:
        raise UserError(f"{path} is of the task {results['task']}, config.json of {task.name}")
    if not results["epochs"]:
        raise UserError(f"{path}: there are no epochs")
    return results


def check_progress(results: dict, task: Task, source: str | Path) -> None:
    """Raise UserError unless what :data:`PROGRESS` describes is of one run of the task."""
    best, epochs, curve = results["best"], results["epochs"], results["curve"]
    found = [*epochs, *([best] if best else [])]
    names = list(found[0]["dev"]) if found else []
    if any(list(row["dev"]) != names for row in found) or (
        found and not {task.metrics[0], "loss"} <= set(names)
    ):
        raise UserError(f"{source}: the dev metrics are not those of {task.name}")
    if best:
        classes, confusions = best.get("per_class", {}), best.get("confusion_matrix", [])
        sizes = [len(task.labels)] * len(task.labels)
        if (len(sizes) > MOST_LABELS and not confusions) or task.multi_label:
            sizes = []
        if len(classes) != len(task.labels) or list(map(len, confusions)) != sizes:
            raise UserError(f"{source}: the scores of the classes are not those of {task.name}")
    if len({len(column) for column in curve.values()}) != 1:
        raise UserError(f"{source}: the columns of the curve are not equally long")


def read_run(folder: Path) -> FinishedRun:
    """Read a run's results; UserError if the folder is not that of a finished run."""
    path = folder / "metrics.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder, or has no evaluation yet")
    config = read_config(folder)
    task = task_from_config(config)
    results = read_results(folder, task)
    if results["best"]["epoch"] not in [row["epoch"] for row in results["epochs"]]:
        raise UserError(f"{path}: the best epoch is not among the epochs")
    if "padding" not in results["data"].get("train", {}):
        raise UserError(f"{path} lacks data.train.padding")
    predictions = read_predictions(folder / "dev_predictions.tsv", task)
    return FinishedRun(
        folder.resolve().name,
        results,
        task.labels,
        predictions.label,
        predictions.logits.astype(np.float64),
        task.metrics[0],
        config.get("calibration", {}).get("temperature"),
        _mistakes(folder / "dev_mistakes.tsv"),
    )


def _mistakes(path: Path) -> list[dict[str, str]]:
    """Return the rows of dev_mistakes.tsv, or none if there is no such file."""
    if not path.exists():
        return []
    header, *rows = list(read_rows(path)) or [[]]
    # Any other text, perhaps of a file that a link leads to, must not get into a page.
    if header[:3] != ["index", "label", "prediction"] or {*map(len, rows)} - {len(header)}:
        raise UserError(f"{path} is damaged: its rows are not those that a run writes")
    return [dict(zip(header, row, strict=True)) for row in rows]
