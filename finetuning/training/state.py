"""State of a training run: its results so far, when what is due, and saving them safely."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np

from bert import schema
from bert.errors import UserError
from bert.files import json_text, write_text
from finetuning.options import CHECKPOINT_SECONDS
from finetuning.results.finished_run import PROGRESS, check_progress
from finetuning.results.metrics import rank
from finetuning.training import checkpoint
from finetuning.training.evaluation import Evaluation
from finetuning.training.folder import claim, finish
from finetuning.training.inputs import NotFiniteError
from finetuning.training.record import IDENTITY
from finetuning.training.run import Run
from finetuning.training.trainer import Progress, Trainer

# Points of the learning curve that metrics.json has, at most: what a picture can show.
_MOST_POINTS = 300
_PARAMETER, _OPTIMIZER, _BEST, _PREDICTIONS = "parameter:", "optimizer:", "best:", "predictions:"
_SECONDS = schema.number(0, 1e9)
# What the state in a checkpoint must be.
STATE = schema.fields(
    {
        "identity": IDENTITY,
        "environment": schema.entries(schema.anything),
        "finished": schema.flag,
        "trainer": schema.fields(
            {
                "updates": schema.whole(),
                "seconds": _SECONDS,
                "samples": schema.whole(0, 2**53),
                "skipped": schema.whole(),
                "loss_scale": schema.number(2.0**-126, 2.0**126),
                "good_updates": schema.whole(),
            }
        ),
        "results": schema.fields(PROGRESS),
        "evaluated": schema.whole(),
        "epochs_without_improvement": schema.whole(),
        "epoch_sums": schema.fields(
            {"loss_sum": schema.number(), "samples": schema.whole(0, 2**53), "seconds": _SECONDS}
        ),
        "point_sums": schema.fields(
            {"loss_sum": schema.number(), "samples": schema.whole(0, 2**53)}
        ),
    }
)


class RunState:
    """The results of a run, its best model, and their files in its folder.

    Every checkpoint holds all of it, so what a resumed run ends with depends on nothing but the
    checkpoint: it writes the best model and the metrics again, whatever has become of them.

    Parameters
    ----------
    run : Run
    trainer : Trainer

    Attributes
    ----------
    identity, environment : dict
        See :class:`~finetuning.training.run.Run`.
    results : dict
        The content of metrics.json.
    evaluated : int
        The update after which the last evaluation was.
    epochs_without_improvement : int
    predictions : dict of str to str
        The best model's files of predictions, by their names.
    """

    def __init__(self, run: Run, trainer: Trainer):
        self.identity, self.environment = run.identity(), run.environment()
        self.results = {
            **run.header(self.identity, self.environment),
            "epochs": [],
            "best": None,
            "skipped_updates": 0,
            "curve": {"update": [], "train_loss": [], "lr": [], "gradient_norm": []},
        }
        self.evaluated = 0
        self.epochs_without_improvement = 0
        self._folder = run.output
        self._options = run.options
        self._trainer = trainer
        self._data = run.data
        self._epoch = {"loss_sum": 0.0, "samples": 0, "seconds": 0.0}
        self._point = {"loss_sum": 0.0, "samples": 0}  # the next of the curve
        self._updates_per_point = math.ceil(trainer.total_updates / _MOST_POINTS)
        self._best: dict[str, np.ndarray] = {}  # the best model's trained parameters
        self.predictions: dict[str, str] = {}  # its dev_predictions*.tsv: name -> text
        self._best_is_new = False
        self._writer = checkpoint.BackgroundWriter()
        self._saved = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether the last evaluation was the run's last one."""
        stopped_early = self.epochs_without_improvement == self._options.early_stop
        return self.evaluated == self._trainer.total_updates or stopped_early

    @property
    def evaluation_due(self) -> bool:
        """Whether the parameters are to be evaluated before the next update."""
        done, every = self._trainer.updates, self._options.eval_steps
        at_end = done == self._trainer.total_updates or done % self._trainer.updates_per_epoch == 0
        return done > self.evaluated and (at_end or (every is not None and done % every == 0))

    @property
    def next_stop(self) -> int:
        """The update after which there is next something to do: evaluate, save or end."""
        done, options = self._trainer.updates, self._options
        steps = (self._trainer.updates_per_epoch, options.eval_steps, options.checkpoint_steps)
        stops = [(done // n + 1) * n for n in steps if n]
        return min(self._trainer.total_updates, *stops)

    @property
    def checkpoint_due(self) -> bool:
        """Whether this update is one after which a checkpoint is written."""
        every = self._options.checkpoint_steps or self._trainer.updates_per_epoch
        return self._trainer.updates % every == 0

    @property
    def checkpoint_late(self) -> bool:
        """Whether it is time for a checkpoint within the epoch."""
        seconds = time.monotonic() - self._saved
        return not self._options.checkpoint_steps and seconds > CHECKPOINT_SECONDS

    def add(self, progress: Progress) -> None:
        """Record an update."""
        if progress.problem is None:
            for sums in (self._epoch, self._point):
                sums["loss_sum"] += progress.loss * progress.examples
                sums["samples"] += progress.examples
        if progress.update % self._updates_per_point == 0 and self._point["samples"]:
            curve = self.results["curve"]
            curve["update"].append(progress.update)
            curve["train_loss"].append(self._point["loss_sum"] / self._point["samples"])
            curve["lr"].append(progress.lr)
            curve["gradient_norm"].append(
                progress.gradient_norm if progress.problem is None else None
            )
            self._point = {"loss_sum": 0.0, "samples": 0}
        self.results["skipped_updates"] = self._trainer.skipped

    @property
    def epoch(self) -> int:
        """The epoch of the last update, from 1."""
        return math.ceil(self._trainer.updates / self._trainer.updates_per_epoch)

    def record(self, evaluation: Evaluation) -> bool:
        """Record an evaluation; returns whether it is the best so far."""
        epoch, metric, dev_metrics = self.epoch, evaluation.main_metric, evaluation.metrics
        update = self._trainer.updates
        best = self.results["best"]
        improved = best is None or rank(dev_metrics, metric) > rank(best["dev"], metric)
        if improved:
            about = {"epoch": epoch, "update": update, "dev": dev_metrics, **evaluation.by_class()}
            # What needs memory comes before anything is changed.
            self._best, self.predictions = self._trainer.parameter_arrays(), evaluation.files()
            self.results["best"] = about
            self._best_is_new = True
        if update in (epoch * self._trainer.updates_per_epoch, self._trainer.total_updates):
            samples, seconds = self._epoch["samples"], self._trainer.seconds
            seconds -= self._epoch["seconds"]
            self.results["epochs"].append(
                {
                    "epoch": epoch,
                    "train_loss": self._epoch["loss_sum"] / samples if samples else None,
                    "seconds": seconds,
                    "samples_per_second": samples / seconds,
                    "dev": dev_metrics,
                }
            )
            self._epoch = {"loss_sum": 0.0, "samples": 0, "seconds": self._trainer.seconds}
            better = self.results["best"]["epoch"] == epoch
            self.epochs_without_improvement = 0 if better else self.epochs_without_improvement + 1
        self.evaluated = update
        return improved

    def save(self, with_checkpoint: bool, finished: bool = False) -> None:
        """Write, behind the training, the results that are new, and a checkpoint if asked for.

        Before the first update and when finished, a checkpoint needs no arrays: it is there to
        tell a run from another.

        Raises
        ------
        SaveError, NotFiniteError
            From the write before this one.
        """
        if self._folder is None:
            return
        # Whatever the loop will change is copied before the writing begins.
        updates, best, predictions = self._trainer.updates, self._best, self.predictions
        best_is_new, self._best_is_new = self._best_is_new, False
        model = self._trainer.all_parameter_arrays(best) if best_is_new else {}
        metrics = json_text(self.results)
        state, arrays = self._state(finished), {}
        if with_checkpoint:
            self._saved = time.monotonic()
            if updates and not finished:
                arrays = self._arrays()

        folder, keep = self._folder, self._options.keep_checkpoints
        names = ["model.params", "metrics.json", *predictions] if best else []
        names += [checkpoint.name_of(updates)] if with_checkpoint else []
        claim(folder, *names)

        def write() -> None:
            _check_finite(best, updates)
            _check_finite(arrays, updates)
            if best_is_new:
                checkpoint.write_arrays(folder / "model.params", model)
                for name, text in predictions.items():
                    write_text(folder / name, text)
            if best:
                write_text(folder / "metrics.json", metrics)
            if with_checkpoint:
                checkpoint.save(folder, updates, state, arrays, keep)
            if finished:
                finish(folder, self.identity)

        self._writer.submit(write)

    def _state(self, finished: bool) -> str:
        return json_text(
            {
                "identity": self.identity,
                "environment": self.environment,
                "finished": finished,
                "trainer": self._trainer.position(),
                "results": self.results,
                "evaluated": self.evaluated,
                "epochs_without_improvement": self.epochs_without_improvement,
                "epoch_sums": self._epoch,
                "point_sums": self._point,
            }
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        parts = {_OPTIMIZER: self._trainer.optimizer_arrays()}
        if self.results["best"] and self.results["best"]["update"] == self._trainer.updates:
            parts[_PARAMETER] = self._best
        else:
            parts |= {_PARAMETER: self._trainer.parameter_arrays(), _BEST: self._best}
        arrays = {prefix + n: a for prefix, part in parts.items() for n, a in part.items()}
        for name, text in self.predictions.items():
            arrays[_PREDICTIONS + name] = np.frombuffer(text.encode(), np.uint8)
        return arrays

    def wait(self) -> None:
        """Wait until all is on the disk; raises what :meth:`save` does."""
        self._writer.wait()

    def close(self) -> None:
        """Wait for the writing to end, before the folder's lock is released."""
        self._writer.close()

    def restore(self, state: dict, arrays: dict[str, np.ndarray]) -> None:
        """Go back to where a checkpoint was taken, and write its results again.

        Raises
        ------
        UserError
            The checkpoint is not one of this run. Its state has the shape :data:`STATE`.
        """
        parts = {
            prefix: {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            for prefix in (_PARAMETER, _OPTIMIZER, _BEST, _PREDICTIONS)
        }
        position, results = state["trainer"], state["results"]
        source = (self._folder or Path()) / checkpoint.name_of(position["updates"])
        check_progress(results, self._data.task, source)
        best = (parts[_BEST] or parts[_PARAMETER]) if results["best"] else {}
        try:
            texts = {name: bytes(a).decode() for name, a in parts[_PREDICTIONS].items()}
        except UnicodeDecodeError:
            texts = {"": ""}
        if not (self._is_own(state, parts, best) and texts.keys() <= self._names_of_predictions()):
            raise UserError(
                f"{source} does not fit this run: delete it to continue from an older one, or "
                "start over with --overwrite"
            )
        self.results |= {name: results[name] for name in PROGRESS}
        self.evaluated = state["evaluated"]
        self.epochs_without_improvement = state["epochs_without_improvement"]
        self._epoch = state["epoch_sums"]
        self._point = state["point_sums"]
        if arrays:
            self._trainer.restore(position, parts[_PARAMETER], parts[_OPTIMIZER])
        if best:
            self._best, self.predictions = best, texts
            self._best_is_new = True
            self.save(with_checkpoint=False)

    def _is_own(self, state: dict, parts: dict[str, dict], best: dict) -> bool:
        """Tell whether a checkpoint's position and arrays can be those of this run."""
        updates, results = state["trainer"]["updates"], state["results"]
        last = (results["best"] or {"update": 0})["update"]
        if not last <= state["evaluated"] <= updates <= self._trainer.total_updates:
            return False
        if state["epoch_sums"]["seconds"] > state["trainer"]["seconds"]:
            return False
        if not updates:  # the first checkpoint has no arrays
            return not any(parts.values())
        network, optimizer = self._trainer.parameter_arrays(), self._trainer.optimizer_arrays()
        pairs = [(parts[_PARAMETER], network), (parts[_OPTIMIZER], optimizer)]
        if results["best"]:
            pairs.append((best, network))
        fit = all(_layout(found) == _layout(own) for found, own in pairs)
        return fit and 0 <= parts[_OPTIMIZER]["count"][0] <= updates

    def _names_of_predictions(self) -> set[str]:
        names = {f"dev_predictions{suffix}.tsv" for suffix in self._data.dev}
        return {*names, "dev_mistakes.tsv"}


def _layout(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _check_finite(arrays: dict[str, np.ndarray], updates: int) -> None:
    """Raise NotFiniteError before such a value is written."""
    for name, array in arrays.items():
        # The extremes are nan where a value is, and they need no array of booleans.
        if array.size and not (math.isfinite(array.min()) and math.isfinite(array.max())):
            raise NotFiniteError(
                f"after update {updates}, {name.removeprefix(_PARAMETER)} holds values that are "
                "not finite: nothing of it was saved; a lower --lr may help"
            )
