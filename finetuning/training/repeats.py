"""Repeated training from the same start: folds of a cross-validation, seeds, a grid of flags."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np

from bert.files import write_json
from bert.parameters import arrays_of, parameters_of
from finetuning import console, signals
from finetuning.console import log
from finetuning.data import summary
from finetuning.data.splits import Dataset, folds, read_splits, tokenize_splits
from finetuning.data.tasks import task_from_config
from finetuning.options import Options
from finetuning.results.metrics import rank
from finetuning.training.folder import begin, claim, locked
from finetuning.training.run import Run
from finetuning.training.start import initialize_head

# Trains a run and returns the content of its metrics.json.
Train = Callable[[Run], dict]


def cross_validate(run: Run, train: Train) -> None:
    """Train once for every fold, from the same start; metrics.json gets mean and deviation."""
    options, data, count = run.options, run.data, run.options.folds
    assert count is not None
    reset = reset_of(run)
    scores = []
    assert data.train is not None
    parts = folds(data.train.label, count, options.seed, data.task.regression)
    for number, (rest, part) in enumerate(parts, start=1):
        log.info(
            f"\nfold {number} of {count}: {len(rest)} for training, {len(part)} for evaluation"
        )
        reset(options.seed)
        folder = run.folder / f"fold_{number}"
        with part_of(run, folder):
            results = train(replace(run, data=data.fold(rest, part), folder=folder))
        scores.append(results["best"]["dev"])
    results = {
        "task": data.task.name,
        "seed": options.seed,
        "arguments": options.deciding(),
        "folds": scores,
        **summary_of(scores),
    }
    claim(run.folder, "metrics.json")
    write_json(run.folder / "metrics.json", results)
    log_table("fold", range(1, count + 1), scores)
    log.info(f"scores are from each fold's best epoch; files are in {run.folder}")


def train_seeds(run: Run, train: Train) -> list[dict[str, float]]:
    """Train once for every seed of --seeds, into folder/seed-N, as a run of that seed alone.

    The data of ``run`` are those of the first seed; they are read again only where a seed chooses
    its examples.

    Returns
    -------
    list of dict
        Each seed's best dev scores.
    """
    options, data, seeds = run.options, run.data, run.options.seeds
    reset = reset_of(run)
    scores = []
    for number, seed in enumerate(seeds):
        signals.check()
        seed_options = replace(options, seed=seed)
        folder = run.folder / f"seed-{seed}"
        with part_of(run, folder):
            console.start_logging(folder / "train.log")  # each run's lines are in its own log
            log.info(f"\nseed {seed}, {number + 1} of {len(seeds)}")
            if number and (options.dev_fraction or options.max_train_samples):
                data = read_again(replace(run, options=seed_options))
            reset(seed)
            results = train(replace(run, options=seed_options, data=data, folder=folder))
        scores.append(results["best"]["dev"])
    console.start_logging(run.folder / "train.log")
    metric = data.task.metrics[0]
    best = max(range(len(scores)), key=lambda i: rank(scores[i], metric))
    arguments = {name: x for name, x in options.deciding().items() if name != "seed"}
    results = {
        "task": data.task.name,
        "arguments": arguments,
        "seeds": {str(seed): score for seed, score in zip(seeds, scores, strict=True)},
        **summary_of(scores),
        "minimum": {name: min(score[name] for score in scores) for name in scores[0]},
        "maximum": {name: max(score[name] for score in scores) for name in scores[0]},
        "best_seed": seeds[best],
    }
    claim(run.folder, "metrics.json")
    write_json(run.folder / "metrics.json", results)
    log_table("seed", seeds, scores, extremes=True)
    log.info(
        f"scores are from each seed's best epoch; the one to ship is "
        f"{run.folder / f'seed-{seeds[best]}'}, by dev {metric} {scores[best][metric]:.4f} "
        "(selected on the dev split, so slightly optimistic)"
    )
    return scores


def train_grid(run: Run, train: Train) -> None:
    """Train once, or once per seed, with every combination of the flags with several values.

    Devlin et al. choose batch size, learning rate and epochs so (2018, appendix A.3). A folder,
    such as ``lr-5e-05_epochs-3``, holds what its combination alone would write.
    """
    options, metric = run.options, run.data.task.metrics[0]
    names = [name for name, _ in options.grid]
    reset = reset_of(run)
    cells: dict[str, list[dict[str, float]]] = {}
    rows = []
    combinations = list(itertools.product(*(values for _, values in options.grid)))
    for number, values in enumerate(combinations, start=1):
        signals.check()
        name = "_".join(f"{flag}-{value!r}" for flag, value in zip(names, values, strict=True))
        given = [f"--{flag}={value!r}" for flag, value in zip(names, values, strict=True)]
        cell_options = replace(
            options,
            grid=(),
            argv=(*options.argv, *given),
            **dict(zip(names, values, strict=True)),
        )
        cell = replace(run, options=cell_options, folder=run.folder / name)
        reset(options.seed)
        with part_of(run, cell.folder, cell_options):
            console.start_logging(cell.folder / "train.log")
            log.info(f"\n{' '.join(given)}: {number} of {len(combinations)}")
            one = not options.seeds
            cells[name] = [train(cell)["best"]["dev"]] if one else train_seeds(cell, train)
        rows.append([*map(str, values), *summary_of(cells[name])["mean"].values()])
    console.start_logging(run.folder / "train.log")
    found = {name: {"scores": scores, **summary_of(scores)} for name, scores in cells.items()}
    order = sorted(found, key=lambda name: rank(found[name]["mean"], metric), reverse=True)
    arguments = {name: x for name, x in options.deciding().items() if name not in names}
    results = {"task": run.data.task.name, "arguments": arguments, "grid": found, "best": order[0]}
    claim(run.folder, "metrics.json")
    write_json(run.folder / "metrics.json", results)
    columns = [f"dev {name}" for name in next(iter(cells.values()))[0]]
    log.info("\n" + console.table([*names, *columns], rows))
    best, second = (found[name] for name in order[:2])
    deviation = best["standard_deviation"][metric]
    spread = "" if deviation is None else f" ± {deviation:.4f}"
    log.info(
        f"best by the mean of dev {metric}: {order[0]}, {best['mean'][metric]:.4f}{spread} over "
        f"{len(cells[order[0]])} seeds; files are in {run.folder}"
    )
    ahead = best["mean"][metric] - second["mean"][metric]
    if deviation is None:
        log.warning("warning: one seed each does not tell luck from merit: add --seeds 1,2,3")
    elif ahead < deviation:
        log.warning(
            f"warning: it is ahead of {order[1]} by {ahead:.4f}, less than its own spread over "
            "seeds: the two may be equally good"
        )


@contextmanager
def part_of(run: Run, folder: Path, options: Options | None = None) -> Iterator[None]:
    """Record and lock the folder of one seed or fold, or of a grid's cell, which has options."""
    kind = "seeds" if options and options.seeds else "single"
    claim(run.folder, folder.name)
    with locked(folder):
        begin(folder, kind, replace(options or run.options, overwrite=False))
        yield


def read_again(run: Run) -> Dataset:
    """Read the data that a seed chooses, and print what they are."""
    options, config = run.options, run.classifier.config
    trained = task_from_config(config) if options.model_parameters else None
    splits = read_splits(options, trained)
    tokenizer = run.classifier.tokenizer
    data = tokenize_splits(splits, tokenizer, options)
    summary.log_data(data, tokenizer.unknown_id)
    return data


def reset_of(run: Run) -> Callable[[int], None]:
    """Return a function that resets the network to its present state, with the head of a seed."""
    net = run.classifier.net
    start = arrays_of(net)

    def reset(seed: int) -> None:
        for name, parameter in parameters_of(net).items():
            parameter.set_data(mx.nd.array(start[name]))
        if not run.options.model_parameters:
            initialize_head(net, seed, run.workers.ctx)

    return reset


def summary_of(scores: list[dict[str, float]]) -> dict:
    """Return mean and standard deviation of each metric."""
    columns = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    return {
        "mean": {name: float(values.mean()) for name, values in columns.items()},
        "standard_deviation": {
            name: float(values.std(ddof=1)) if len(values) > 1 else None
            for name, values in columns.items()
        },
    }


def log_table(
    what: str, numbers: Iterable[int], scores: list[dict[str, float]], extremes: bool = False
) -> None:
    """Print a row per fold or seed, then mean and deviation, then minimum and maximum."""
    found = summary_of(scores)
    rows: list[list] = [[n, *score.values()] for n, score in zip(numbers, scores, strict=True)]
    rows.append(["mean", *found["mean"].values()])
    if len(scores) > 1:
        rows.append(["sd", *found["standard_deviation"].values()])
    for name, choose in (("minimum", min), ("maximum", max)):
        if extremes:
            rows.append(
                [name, *(choose(score[column] for score in scores) for column in scores[0])]
            )
    log.info("\n" + console.table([what, *(f"dev {name}" for name in scores[0])], rows))
