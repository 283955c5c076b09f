"""A run's estimate of time and memory; ``--check``, which tries the longest batch."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import replace

import numpy as np

from bert.frozen import Kept
from dataset import TokenizedExamples
from finetuning.console import log, log_header
from finetuning.training.kept import (
    compute,
    keeps_outputs,
    kept_bytes,
    network_behind,
    parts_to_keep,
)
from finetuning.training.losses import loss_for
from finetuning.training.run import Run
from finetuning.training.trainer import Progress, Trainer, count_updates

# How many updates behind a frozen part are timed: one takes a few milliseconds.
_QUICK_UPDATES = 20
# What a run's estimate is made of: so many updates behind its first, which takes longer, and at
# least so many seconds of them.
_UPDATES, _SECONDS = 3, 2.0
# A forward pass beside an update, which is three times the arithmetic.
_FORWARD = 1 / 3


class Estimate:
    """Prints once, after the first updates of a run, how long the rest will take.

    Call it with the progress of each update.
    """

    def __init__(self, run: Run, trainer: Trainer):
        self._run = run
        self._trainer = trainer
        self._start: float | None = None  # the seconds at the end of the first update
        self._updates, self._tokens = 0, 0  # since then
        self._said = False

    def __call__(self, update: Progress) -> None:
        trainer = self._trainer
        if self._said:
            return
        if self._start is None:
            self._start = trainer.seconds
            return
        self._updates += 1
        self._tokens += update.tokens
        seconds = trainer.seconds - self._start
        if self._updates >= _UPDATES and seconds >= _SECONDS:
            self._said = True
            rest = seconds / self._tokens * tokens_left(self._run, update.update)
            log_header("estimate", f"{_until(rest)}; peak memory so far {_memory()}")


def tokens_left(run: Run, done: int) -> float:
    """Return how many tokens are left to train on after ``done`` updates.

    Those that are only evaluated or predicted count as a third.
    """
    options, data = run.options, run.data
    total, per_epoch = count_updates(len(run.train), options)
    epochs = total / per_epoch
    evaluations = math.ceil(epochs) + total // (options.eval_steps or total + 1)
    dev, test = (
        sum(len(part.input_ids) for part in parts.values()) for parts in (data.dev, data.test)
    )
    each = epochs * len(run.train.input_ids) + _FORWARD * evaluations * dev
    return (1 - done / total) * each + _FORWARD * test


def _until(seconds: float) -> str:
    end = time.time() + seconds
    day = "" if time.localtime(end).tm_yday == time.localtime().tm_yday else "%a "
    return f"about {duration(seconds)}, until {time.strftime(day + '%H:%M', time.localtime(end))}"


def duration(seconds: float) -> str:
    """Return a time in words, in its two largest units."""
    rest = max(1, round(seconds))
    parts: list[tuple[int, str]] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        parts.append((rest // size, unit))
        rest %= size
    first = next(i for i, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def try_longest_batch(run: Run) -> None:
    """Train on the longest batch, twice, and estimate time and memory of the run."""
    train, options = run.train, run.options
    net = run.classifier.net
    chosen = np.argsort(-train.lengths, kind="stable")[: options.batch_size]
    longest = replace(train.take(chosen), turns=())
    once = try_frozen_part(run, longest) if keeps_outputs(run) else 0.0
    updates = 2 if longest.kept is None else _QUICK_UPDATES
    trial = replace(options, epochs=updates, training_steps=None)
    trainer = Trainer(net, longest, loss_for(run.data), run.workers, trial)
    (first,) = trainer.updates_until(1)  # allocates
    before = trainer.seconds
    list(trainer.updates_until(updates))
    seconds = (trainer.seconds - before) / (updates - 1)
    total_updates, updates_per_epoch = count_updates(len(train), options)
    if longest.kept and not len(longest.kept.network.cells):
        share: float = total_updates * options.accumulate  # the head's time is not the tokens'
    else:
        share = tokens_left(run, 0) / len(longest.input_ids)
    log.info(
        f"\nthe longest batch ({len(longest)} examples, {longest.lengths.sum()} tokens): loss "
        f"{first.loss:.4f}, forward, backward and update in {seconds:.3f} s"
    )
    log.info(
        f"estimated time {duration(once + share * seconds)} for "
        f"{total_updates / updates_per_epoch:g} epochs; peak memory so far {_memory()}"
    )


def try_frozen_part(run: Run, longest: TokenizedExamples) -> float:
    """Keep what the frozen part gives for a batch; returns the seconds that all examples need."""
    compute(run, longest)  # allocates
    start = time.perf_counter()
    longest.kept = Kept(network_behind(run), compute(run, longest))
    seconds = time.perf_counter() - start
    parts = parts_to_keep(run)
    seconds *= sum(len(part.input_ids) for part in parts) / len(longest.input_ids)
    size = sum(kept_bytes(run, part) for part in parts)
    log.info(
        f"\nthe frozen part computes the training and dev examples once, in about {seconds:.1f} s, "
        f"and its outputs take {size / 1e6:,.1f} MB"
    )
    return seconds


def _memory() -> str:
    # getrusage counts in KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB"
