"""``--check``: two updates on the longest batch, and an estimate of the whole training."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace

import numpy as np

from bert.frozen import Kept
from dataset import TokenizedExamples
from finetuning.console import log
from finetuning.training.kept import compute, keeps_outputs, kept_bytes, network_behind
from finetuning.training.losses import loss_for
from finetuning.training.run import Run
from finetuning.training.trainer import Trainer, count_updates

# How many updates behind a frozen part are timed: one takes a few milliseconds.
_QUICK_UPDATES = 20


def try_longest_batch(run: Run) -> None:
    """Train on the longest batch, twice, and estimate time and memory of the run."""
    train, options = run.train, run.options
    net = run.classifier.net
    longest = train.take(np.argsort(-train.lengths, kind="stable")[: options.batch_size])
    once = try_frozen_part(run, longest) if keeps_outputs(run) else 0.0
    updates = 2 if longest.kept is None else _QUICK_UPDATES
    trial = replace(options, epochs=updates, training_steps=None)
    trainer = Trainer(net, longest, loss_for(run.data), run.workers, trial)
    (first,) = trainer.updates_until(1)  # allocates
    before = trainer.seconds
    list(trainer.updates_until(updates))
    seconds = (trainer.seconds - before) / (updates - 1)
    total_updates, updates_per_epoch = count_updates(len(train), options)
    epochs = total_updates / updates_per_epoch
    if longest.kept and not len(longest.kept.network.cells):
        share = total_updates * options.accumulate  # the head's time is not the tokens'
    else:
        share = epochs * train.lengths.sum() / longest.lengths.sum()
    log.info(
        f"\nthe longest batch ({len(longest)} examples, {longest.lengths.sum()} tokens): loss "
        f"{first.loss:.4f}, forward, backward and update in {seconds:.3f} s"
    )
    log.info(
        f"estimated training time {(once + share * seconds) / 60:.1f} min for {epochs:g} epochs; "
        f"peak memory so far {_peak_memory_gib():.1f} GiB"
    )


def try_frozen_part(run: Run, longest: TokenizedExamples) -> float:
    """Keep what the frozen part gives for a batch; returns the seconds that all examples need."""
    compute(run, longest)  # allocates
    start = time.perf_counter()
    longest.kept = Kept(network_behind(run), compute(run, longest))
    seconds = time.perf_counter() - start
    parts = (run.train, *run.data.dev.values())
    seconds *= sum(len(part.input_ids) for part in parts) / len(longest.input_ids)
    size = sum(kept_bytes(run, part) for part in parts)
    log.info(
        f"\nthe frozen part computes the training and dev examples once, in about {seconds:.1f} s, "
        f"and its outputs take {size / 1e6:,.1f} MB"
    )
    return seconds


def _peak_memory_gib() -> float:
    # getrusage counts in KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
