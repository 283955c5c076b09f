"""How long one sentence takes, and how many pairs a second, with a run's model.

    python3 benchmarks/latency.py RUN

RUN is the output folder of a run. Sentences of random words take turns through the contestants,
round after round; prints two Markdown tables: milliseconds for one sentence, the least and the
median, and dev examples per second. On a busy machine the least says most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bert import runtime

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("run", metavar="RUN", type=Path)
parser.add_argument("--rounds", type=int, default=200, help="default: 200")
parser.add_argument("--num_threads", type=int, default=runtime.physical_cores())
args = parser.parse_args()
THREADS = runtime.prepare(args.num_threads)

import mxnet as mx
import numpy as np

from bert.classifier import build_classifier, read_classifier
from bert.inference import Inference
from bert.parameters import read_params
from dataset import (
    DEV_EXAMPLES,
    TokenizedExamples,
    evaluation_batches,
    logits_by,
    packed_batch,
    padded_batch,
)

LENGTHS = 16, 64, 128
REST = 0.01  # seconds between contestants: threads of the one before may still spin
BATCH_SIZE = 32
# The logits of some examples.
Compute = Callable[[TokenizedExamples, np.ndarray], np.ndarray]


def contestants() -> dict[str, Compute]:
    saved = read_classifier(args.run)
    model = build_classifier(saved)
    if unavailable := model.compile():
        sys.exit(unavailable)

    def by_operators(examples: TokenizedExamples, indices: np.ndarray) -> np.ndarray:
        arrays = *packed_batch(examples, indices), np.zeros(2, np.int32)
        return model.net(*(mx.nd.array(x, dtype="int32") for x in arrays)).asnumpy()

    def by(inference: Inference) -> Compute:
        return lambda examples, indices: logits_by(inference, examples, indices)

    return {
        "this project, float32": by(Inference.of_run(saved)),
        "this project, bfloat16": by(Inference.of_run(saved, bfloat16=True)),
        "the operators of its training, float32": by_operators,
        **onnx_runtime(model),
    }


def onnx_runtime(model) -> dict[str, Compute]:
    """ONNX Runtime on the exported model, where it is installed."""
    import tempfile

    from finetuning.results.export_formats import quantize_onnx, read_onnx, write_onnx

    found: dict[str, Compute] = {}
    for name, quantize in (("float32", False), ("int8", True)):
        with tempfile.TemporaryDirectory() as folder:
            write_onnx(Path(folder), model)
            if quantize:
                quantize_onnx(Path(folder), model)
            compute = read_onnx(Path(folder))
        found[f"ONNX Runtime, {name}"] = lambda examples, indices, compute=compute: compute(
            *padded_batch(examples, indices)
        )
    return found


def sentence(length: int) -> TokenizedExamples:
    ids = np.random.default_rng(length).integers(1000, 20_000, length).astype(np.int32)
    return TokenizedExamples(
        ids, np.array([0, length]), np.array([length]), np.zeros(1), length, np.zeros(1, bool)
    )


def seconds(compute: Compute, examples: TokenizedExamples, batches: list[np.ndarray]) -> float:
    time.sleep(REST)
    start = time.perf_counter()
    for indices in batches:
        compute(examples, indices)
    return time.perf_counter() - start


def table(header: list[str], rows: dict[str, list[str]]) -> None:
    print(f"\n| | {' | '.join(header)} |\n| --- |{' --- |' * len(header)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


computes = contestants()
print(f"{runtime.processor()}, {THREADS} threads")
rows: dict[str, list[str]] = {name: [] for name in computes}
for length in LENGTHS:
    one, times = sentence(length), {name: [] for name in computes}
    for _ in range(args.rounds):
        for name, compute in computes.items():
            times[name].append(1e3 * seconds(compute, one, [np.array([0])]))
    for name, found in times.items():
        rows[name].append(f"{min(found):.2f}, {statistics.median(found):.2f}")
table([f"{length} tokens, ms" for length in LENGTHS], rows)

dev = TokenizedExamples.from_arrays(read_params(args.run / DEV_EXAMPLES))
batches = evaluation_batches(dev.lengths, BATCH_SIZE)
speeds: dict[str, list[float]] = {name: [] for name in computes}
for _ in range(5):
    for name, compute in computes.items():
        speeds[name].append(len(dev) / seconds(compute, dev, batches))
rows = {name: [f"{max(s):.0f}, {statistics.median(s):.0f}"] for name, s in speeds.items()}
table([f"{len(dev)} dev examples per second: the most, the median"], rows)
