"""What every contestant is given: the pairs, the sizes, and the form of its answer.

Each contestant is a process that measures one mode and prints one line of JSON.

training
    It cuts the whole training set into batches in its own way, makes a few updates to warm up
    (allocation, compilation, caches) and times some that stand for the epoch. Cutting only a few
    hundred pairs would not do: batches of similar length need thousands to choose from, and small
    buckets give small batches.
inference
    The dev set, sorted by length, in batches of the size that it is fastest with.
latency
    One text of random words after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BATCH_SIZE = 32
BATCH_SIZES = (4, 8, 16, 32)  # tried in inference
MAX_LEN = 128
LR = 5e-5
DROPOUT = 0.1
SEED = 1
WARM_UP_STEPS = 3
LATENCY_TOKENS = (16, 128)
LATENCY_SECONDS = 1.5


def describe(description: str | None, glue: bool = False) -> None:
    """Print a script's ``--help``; ends if GLUE_DIR is needed and not set."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=form)
    parser.parse_args()
    if glue and not os.environ.get("GLUE_DIR"):
        parser.error("set GLUE_DIR to the folder that download_glue_data.py has filled")


def parse_args(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, required=True, help="folder that make_models.py made")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv, dev.tsv")
    parser.add_argument("--batches", type=int, required=True, help="to time in training")
    parser.add_argument("--mode", choices=("training", "inference", "latency"), required=True)
    parser.add_argument("--variant", default="", help="see the contestant")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "int8"), default="float32")
    return parser.parse_args()


def read_pairs(args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Return (text_a, text_b, label) of train.tsv, or for inference of dev.tsv, in order."""
    split = "train" if args.mode == "training" else "dev"
    lines = (args.data / f"{split}.tsv").read_text(encoding="utf-8").split("\n")[1:]
    rows = [line.split("\t") for line in lines if line]
    if args.mode == "inference":  # about as many as are trained on
        rows = rows[:: max(1, len(rows) // (args.batches * BATCH_SIZE))]
    return [(row[3], row[4], int(row[0])) for row in rows]


def typical_batches(batches: Sequence[Sequence[int]], lengths: Sequence[int], count: int) -> range:
    """Return which ``count`` successive batches of an epoch have the most typical length.

    Their mean tokens a pair is nearest to that of the whole epoch, so that contestants that time
    different pairs have the same work. The batches must be in random order.
    """

    def tokens_a_pair(part: Sequence[Sequence[int]]) -> float:
        return tokens_of(part, lengths) / sum(map(len, part))

    count = min(count, len(batches))
    whole = tokens_a_pair(batches)
    start = min(
        range(len(batches) - count + 1),
        key=lambda start: abs(tokens_a_pair(batches[start : start + count]) - whole),
    )
    return range(start, start + count)


def tokens_of(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Count the tokens of batches, padding left out."""
    return int(sum(lengths[i] for batch in batches for i in batch))


# Computes batches, of which each is a list of the pairs' indices.
OnePass = Callable[[list[list[int]]], object]


def inference(
    lengths: Sequence[int],
    one_pass: OnePass,
    sizes: Sequence[int] = BATCH_SIZES,
    as_in_file: bool = False,
) -> None:
    """Time all pairs, in the batch size that is fastest for a quarter of the batches; report it.

    ``as_in_file``: not sorted by length.
    """
    order = sorted(range(len(lengths)), key=lambda i: 0 if as_in_file else -lengths[i])

    def batches(size: int) -> list[list[int]]:
        return [order[start : start + size] for start in range(0, len(order), size)]

    def seconds_a_pair(part: list[list[int]]) -> float:
        one_pass(part)  # allocates, and compiles what depends on shapes
        start = time.perf_counter()
        one_pass(part)
        return (time.perf_counter() - start) / sum(map(len, part))

    size = min(sizes, key=lambda size: seconds_a_pair(batches(size)[::4]))
    seconds = seconds_a_pair(batches(size))
    report(
        pairs_per_second=1 / seconds,
        tokens_per_second=sum(lengths) / len(lengths) / seconds,
        batch_size=size,
    )


def latency(one_text: Callable[[int], object]) -> None:
    """Time texts of :data:`LATENCY_TOKENS` tokens, one after the other, and report the medians."""
    found = {}
    for tokens in LATENCY_TOKENS:
        times: list[float] = []
        while sum(times) < LATENCY_SECONDS:
            start = time.perf_counter()
            one_text(tokens)
            times.append(time.perf_counter() - start)
        found[f"ms_{tokens}"] = 1e3 * statistics.median(times[len(times) // 4 :])
    report(**found)


def random_ids(tokens: int) -> list[int]:
    """Return the ids of a text for :func:`latency`."""
    return [1000 + 977 * i % 20_000 for i in range(tokens)]


class Stopwatch:
    """Times what follows the warm-up, and notes when the first step was done."""

    def __init__(self):
        self._first_step = None
        self._start = None

    def step_done(self) -> None:
        if self._first_step is None:
            self._first_step = time.time() - float(os.environ["BENCH_STARTED"])

    def start(self) -> None:
        self._start = time.perf_counter()

    def report(self, pairs: int, tokens: int) -> None:
        """Print the measurement; ``pairs`` and ``tokens`` (no padding) are what was timed."""
        seconds = time.perf_counter() - self._start
        report(
            pairs_per_second=pairs / seconds,
            tokens_per_second=tokens / seconds,
            first_step_seconds=self._first_step,
        )


def report(**found: float) -> None:
    """Print a contestant's answer."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "peak_mb": peak_mb}))
