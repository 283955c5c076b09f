#!/usr/bin/env python3
"""Time from the command to the first update, and peak memory, of BERT base from the Hub.

    GLUE_DIR=glue_data python3 benchmarks/first_step.py

A server on loopback stands in for the Hub, with random weights in BERT base's place, so nothing is
downloaded. The first run fetches and converts; the three after it find the conversion in the cache.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/bert")]

import make_models
import workload
from hub_server import HubServer

RUNS = 3


def measure(environment: dict, output_dir: Path) -> tuple[float, float]:
    """Run one update; returns the seconds until it is logged, and the peak memory in MB."""
    flags = ("--training_steps", "1", "--log_interval", "1", "--overwrite", "--output_dir")
    command = [sys.executable, "finetune_classifier.py", *flags, str(output_dir)]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    seconds = None
    for line in process.stdout:
        if b"update 1/1" in line and seconds is None:
            seconds = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    if status or seconds is None:
        sys.exit(f"the run failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    workload.describe(__doc__, glue=True)
    cache = ROOT / ".bench_cache"
    make_models.make(cache)
    server = HubServer({"google-bert/bert-base-uncased": cache / "BERT base"})
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.url,
            "HF_HOME": f"{folder}/hf",
            "MXNET_HOME": f"{folder}/mxnet",
            "GLUE_DIR": str(Path(os.environ["GLUE_DIR"]).resolve()),
        }
        native = Path("~/.mxnet/native").expanduser()
        if native.is_dir():  # compiling is not what is measured
            Path(folder, "mxnet").mkdir()
            Path(folder, "mxnet/native").symlink_to(native)
        first, *warm = (measure(environment, Path(folder, "out")) for _ in range(1 + RUNS))
    server.close()
    print("| BERT base | to the first update, s | peak memory, MB |\n| --- | --- | --- |")
    print(f"| fetched from loopback and converted | {first[0]:.1f} | {first[1]:,.0f} |")
    seconds, memory = (statistics.median(column) for column in zip(*warm, strict=True))
    least, most = min(warm)[0], max(warm)[0]
    print(f"| from the cache | {seconds:.1f} ({least:.1f} to {most:.1f}) | {memory:,.0f} |")


if __name__ == "__main__":
    main()
