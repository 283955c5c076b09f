"""What a frozen part computes of a run's examples: computed once, before the first update."""

from __future__ import annotations

import math
import os
import tempfile
import time
from pathlib import Path

import mxnet as mx
import numpy as np

from bert import runtime
from bert.errors import RunError, reason
from bert.frozen import BehindFrozen, Kept, frozen_output
from dataset import TokenizedExamples, evaluation_batches, packed_batch
from finetuning.console import log
from finetuning.training.inputs import memory_for
from finetuning.training.run import Run

# Outputs that need more of the available memory than this are kept in a file.
_SHARE_OF_MEMORY = 0.25


def keeps_outputs(run: Run) -> bool:
    """Whether training and evaluation of a run start behind its frozen part.

    MXNet's own operators compute it each time.
    """
    bert = run.classifier.net.bert
    return bert.frozen_layers is not None and bert.fused


def keep_outputs(run: Run) -> None:
    """Compute the frozen part's outputs for the training and dev examples, as their ``kept``.

    The next seed, or the next cell of a grid, finds them there. The batches are the same wherever
    a run is resumed, so that the last bits are.

    Raises
    ------
    OutOfMemoryError
        Names the flag to lower.
    RunError
        They need a file, and the disk has no room.
    """
    parts = [part for part in parts_to_keep(run) if part.kept is None]
    if not (keeps_outputs(run) and parts):
        return
    start = time.perf_counter()
    size = sum(kept_bytes(run, part) for part in parts)
    in_file = size > _SHARE_OF_MEMORY * runtime.available_memory()
    folder = Path(run.output or tempfile.gettempdir())
    where = f"a file without a name in {folder}" if in_file else "memory"
    log.info(
        f"frozen    computing what the frozen part gives for the training and dev examples, once: "
        f"{size / 1e6:,.1f} MB in {where}"
    )
    network = network_behind(run)
    for part in parts:
        rows = _rows_in_file(folder, _shape(run, part)) if in_file else None
        part.kept = Kept(network, compute(run, part, rows))
    log.info(f"frozen    computed in {time.perf_counter() - start:.1f} s")


def parts_to_keep(run: Run) -> list[TokenizedExamples]:
    """Return the examples that every epoch computes: those to train on, and the dev splits."""
    return [*(run.train.turns or (run.train,)), *run.data.dev.values()]


def network_behind(run: Run) -> BehindFrozen:
    """Return the part of a run's network behind its frozen part, compiled."""
    network = BehindFrozen(run.classifier.net)
    network.hybridize(static_alloc=True)
    return network


def kept_bytes(run: Run, examples: TokenizedExamples) -> int:
    """Return the size of the frozen part's outputs for examples."""
    return math.prod(_shape(run, examples)) * np.dtype(np.float32).itemsize


def _shape(run: Run, examples: TokenizedExamples) -> tuple[int, int]:
    units = run.classifier.net.bert.config.units
    return len(examples.input_ids if _per_token(run) else examples.lengths), units


def _per_token(run: Run) -> bool:
    """Tell whether the frozen part gives a row per token; else it gives one per example."""
    bert = run.classifier.net.bert
    return bert.frozen_layers != bert.config.num_layers


def compute(run: Run, examples: TokenizedExamples, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the frozen part's outputs for examples, in ``rows`` if that is given."""
    bert, (ctx,) = run.classifier.net.bert, run.workers.ctx
    rows = np.empty(_shape(run, examples), np.float32) if rows is None else rows
    for indices in evaluation_batches(examples.lengths, run.options.dev_batch_size):
        with memory_for(examples, [indices], "--dev_batch_size"):
            inputs = (mx.nd.array(x, ctx, x.dtype) for x in packed_batch(examples, indices))
            found = frozen_output(bert, *inputs).asnumpy()
        rows[examples.tokens_of(indices) if _per_token(run) else indices] = found
    return rows


def _rows_in_file(folder: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return an array in a file that has no name, so that it ends with the process."""
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk is an error here, where it would be a signal when the array is written.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise RunError(
            f"cannot keep what the frozen part gives, {size / 1e6:,.1f} MB, in a file in {folder}: "
            f"{reason(error)}"
        ) from None
