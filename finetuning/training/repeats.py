"""One model after another from the same start: the folds of a cross-validation, several seeds."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np

from bert.classifier import BERTClassifier
from bert.files import write_json
from bert.parameters import arrays_of, parameters_of
from bert.tokenizer import BERTTokenizer
from finetuning import console, signals
from finetuning.console import log
from finetuning.data import summary
from finetuning.data.splits import Data, folds, read_splits, tokenize_splits
from finetuning.data.tasks import Task
from finetuning.flags import RESULT_ARGUMENTS
from finetuning.training import checkpoint
from finetuning.training.loop import fit, new_head
from finetuning.training.workers import Workers


def cross_validate(
    args: argparse.Namespace,
    net: BERTClassifier,
    tokenizer: BERTTokenizer,
    config: dict,
    data: Data,
    output_dir: Path,
    workers: Workers,
) -> None:
    """Train once for every fold, from the pretrained model on; metrics.json gets mean and sd."""
    start_again = _start_of(net, args, workers)
    scores = []
    parts = folds(data.train.label, args.folds, args.seed, data.task.regression)
    for number, (rest, part) in enumerate(parts, start=1):
        log.info(f"\nfold {number} of {args.folds}: {len(rest)} to train on, {len(part)} to dev")
        start_again(args.seed)
        fold_dir = output_dir / f"fold_{number}"
        fold = Data(
            data.task,
            data.train.take(rest),
            {"": data.train.take(part)},
            class_weights=data.class_weights,
        )
        with checkpoint.locked(fold_dir):
            results = fit(args, net, tokenizer, config, fold, fold_dir, workers)
        scores.append(results["best"]["dev"])
    results = {
        "task": data.task.name,
        "seed": args.seed,
        "arguments": {name: getattr(args, name) for name in RESULT_ARGUMENTS},
        "folds": scores,
        **_summary(scores),
    }
    write_json(output_dir / "metrics.json", results)
    _log_table("fold", range(1, args.folds + 1), scores)
    log.info(f"each fold's best epoch; files in {output_dir}")


def train_seeds(
    args: argparse.Namespace,
    net: BERTClassifier,
    tokenizer: BERTTokenizer,
    config: dict,
    data: Data,
    trained: Task | None,
    output_dir: Path,
    workers: Workers,
) -> None:
    """Train once for every seed of --seeds, into output_dir/seed-N, as a run of that seed alone.

    ``data`` is that of the first seed; it is read again only where a seed chooses its examples.
    """
    start_again = _start_of(net, args, workers)
    scores = []
    for number, seed in enumerate(args.seeds):
        signals.check()
        run_args = copy.copy(args)
        run_args.seed = seed
        seed_dir = output_dir / f"seed-{seed}"
        with checkpoint.locked(seed_dir):
            console.start_logging(seed_dir / "train.log")  # each run's lines stand in its own log
            log.info(f"\nseed {seed}, {number + 1} of {len(args.seeds)}")
            if number and (args.dev_fraction or args.max_train_samples):
                splits = read_splits(run_args, trained)
                data = tokenize_splits(splits, tokenizer, args.max_len, args.class_weights)
                summary.log_data(data)
            start_again(seed)
            results = fit(run_args, net, tokenizer, config, data, seed_dir, workers)
        scores.append(results["best"]["dev"])
    console.start_logging(output_dir / "train.log")
    metric = data.task.metrics[0]
    best = max(range(len(scores)), key=lambda i: scores[i][metric])  # a tie: the first
    results = {
        "task": data.task.name,
        "arguments": {name: getattr(args, name) for name in RESULT_ARGUMENTS if name != "seed"},
        "seeds": {str(seed): score for seed, score in zip(args.seeds, scores, strict=True)},
        **_summary(scores),
        "minimum": {name: min(score[name] for score in scores) for name in scores[0]},
        "maximum": {name: max(score[name] for score in scores) for name in scores[0]},
        "best_seed": args.seeds[best],
    }
    write_json(output_dir / "metrics.json", results)
    _log_table("seed", args.seeds, scores, ("minimum", "maximum"))
    log.info(
        f"each seed's best epoch; the one to ship is {output_dir / f'seed-{args.seeds[best]}'}, by "
        f"dev {metric} {scores[best][metric]:.4f} (chosen on the dev split, so a little too good)"
    )


def _start_of(
    net: BERTClassifier, args: argparse.Namespace, workers: Workers
) -> Callable[[int], None]:
    """Return a function that puts a network back to what it is now, its head to that of a seed."""
    start = arrays_of(net)

    def start_again(seed: int) -> None:
        for name, parameter in parameters_of(net).items():
            parameter.set_data(mx.nd.array(start[name]))
        if not args.model_parameters:
            new_head(net, seed, workers.ctx)

    return start_again


def _summary(scores: list[dict[str, float]]) -> dict:
    columns = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    return {
        "mean": {name: float(values.mean()) for name, values in columns.items()},
        "standard_deviation": {
            name: float(values.std(ddof=1)) if len(values) > 1 else None
            for name, values in columns.items()
        },
    }


def _log_table(what, numbers, scores, more=()) -> None:
    summary = _summary(scores)
    rows = [[number, *score.values()] for number, score in zip(numbers, scores, strict=True)]
    rows.append(["mean", *summary["mean"].values()])
    if len(scores) > 1:
        rows.append(["sd", *summary["standard_deviation"].values()])
    for name, choose in (("minimum", min), ("maximum", max)):
        if name in more:
            rows.append([name, *(choose(s[column] for s in scores) for column in scores[0])])
    log.info("\n" + console.table([what, *(f"dev {name}" for name in scores[0])], rows))
