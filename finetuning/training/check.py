"""``--check``: two updates on the longest batch, and an estimate of the whole training."""

from __future__ import annotations

import resource
import sys
from dataclasses import replace

import numpy as np

from finetuning.console import log
from finetuning.training.losses import loss_for
from finetuning.training.run import Run
from finetuning.training.trainer import Trainer


def try_longest_batch(run: Run) -> None:
    """Train on the longest batch, twice, and estimate time and memory of the run."""
    train, options = run.train, run.options
    longest = train.take(np.argsort(-train.lengths, kind="stable")[: options.batch_size])
    two_updates = replace(options, epochs=2, training_steps=None)
    trainer = Trainer(run.classifier.net, longest, loss_for(run.data), run.workers, two_updates)
    (first,) = trainer.updates_until(1)  # allocates
    before = trainer.seconds
    list(trainer.updates_until(2))
    seconds = trainer.seconds - before
    total = Trainer(run.classifier.net, train, loss_for(run.data), run.workers, options)
    epochs = total.total_updates / total.updates_per_epoch
    share = epochs * train.lengths.sum() / longest.lengths.sum()
    log.info(
        f"\nthe longest batch ({len(longest)} examples, {longest.lengths.sum()} tokens): loss "
        f"{first.loss:.4f}, forward, backward and update in {seconds:.2f} s"
    )
    log.info(
        f"estimated training time {share * seconds / 60:.1f} min for {epochs:g} epochs; peak "
        f"memory so far {_peak_memory_gib():.1f} GiB"
    )


def _peak_memory_gib() -> float:
    # getrusage counts in KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
