#!/usr/bin/env python3
"""What saving each epoch costs a MiniLM run.

    GLUE_DIR=glue_data python3 benchmarks/checkpoint_cost.py

Trains three epochs with the command's own flags, and counts the seconds in which training waits for
a checkpoint to be copied and for the one before it to be written, and those in which the writing
goes on behind it. All of them, as if nothing overlapped, are compared with the training's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bert import runtime

runtime.prepare()

import workload

import finetune_classifier
from finetuning import console
from finetuning.training.checkpoint import BackgroundWriter
from finetuning.training.state import RunState

FLAGS = "--bert_model bert_6_384_12 --bert_dataset minilm_en_uncased --epochs 3 --output_dir"


def main() -> None:
    workload.describe(__doc__, glue=True)
    seconds, results = Counter(), []

    def timed(kind, function):
        def call(*arguments, **options):
            start = time.perf_counter()
            value = function(*arguments, **options)
            seconds[kind] += time.perf_counter() - start
            return value

        return call

    submit, log_epochs = BackgroundWriter.submit, console.log_epochs
    BackgroundWriter.submit = lambda self, job: submit(self, timed("behind", job))
    RunState.save = timed("waiting", RunState.save)
    RunState.wait = timed("waiting", RunState.wait)

    def keep(run_results, *arguments):
        results.append(run_results)
        log_epochs(run_results, *arguments)

    console.log_epochs = keep
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if finetune_classifier.main([*FLAGS.split(), folder + "/run"]):
            sys.exit("the run failed")
    training = sum(epoch["seconds"] for epoch in results[0]["epochs"])
    share = (seconds["waiting"] + seconds["behind"]) / training
    print(
        f"\n{training:.1f} s of training; {seconds['waiting']:.2f} s waiting for files, "
        f"{seconds['behind']:.2f} s of writing behind it: at most {share:.2%}"
    )


if __name__ == "__main__":
    main()
