"""What every contestant is given: the pairs, the sizes, and the form of its answer.

Each contestant is a process that trains one epoch over the given pairs to warm up (allocation,
compilation, caches), times a second one, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import time
from pathlib import Path

BATCH_SIZE = 32
MAX_LEN = 128
LR = 5e-5
DROPOUT = 0.1
SEED = 1


def parse_args(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv, dev.tsv")
    parser.add_argument("--batches", type=int, required=True, help="of the training set")
    parser.add_argument("--mode", choices=("training", "inference"), default="training")
    parser.add_argument("--variant", default="", help="see the contestant")
    return parser.parse_args()


def read_pairs(args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Return (text_a, text_b, label): some of train.tsv, the same for all; or dev.tsv, in order."""
    split = "train" if args.mode == "training" else "dev"
    lines = (args.data / f"{split}.tsv").read_text(encoding="utf-8").split("\n")[1:]
    rows = [line.split("\t") for line in lines if line]
    if args.mode == "training":
        rows = random.Random(SEED).sample(rows, min(len(rows), args.batches * BATCH_SIZE))
    return [(row[3], row[4], int(row[0])) for row in rows]


class Stopwatch:
    """Times the second of two passes, and notes when the first step was done."""

    def __init__(self):
        self._first_step = None
        self._start = None

    def step_done(self) -> None:
        if self._first_step is None:
            self._first_step = time.time() - float(os.environ["BENCH_STARTED"])

    def start(self) -> None:
        self._start = time.perf_counter()

    def report(self, pairs: int, tokens: int) -> None:
        """Print the measurement; ``tokens`` are those of the timed pass, padding not counted."""
        seconds = time.perf_counter() - self._start
        print(
            json.dumps(
                {
                    "pairs_per_second": pairs / seconds,
                    "tokens_per_second": tokens / seconds,
                    "first_step_seconds": self._first_step,
                    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
            )
        )
