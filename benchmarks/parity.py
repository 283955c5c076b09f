#!/usr/bin/env python3
"""Train GLUE's tasks here and with Hugging Face: same weights (MiniLM), files and recipe.

    GLUE_DIR=glue_data python3 benchmarks/parity.py --tasks MRPC,RTE,STS-B,CoLA --seeds 1,2,3,4,5
    GLUE_DIR=glue_data python3 benchmarks/parity.py --tasks SST-2 --seeds 1,2

The recipe is AdamW at 5e-5, 3 epochs, batch size 32, warm-up over a tenth of the updates, then a
linear decay, gradients clipped at norm 1. Two more columns are this project with the flags that
docs/results.md recommends, in float32 and in bfloat16. Each result is appended to
benchmarks/parity.jsonl as soon as it is there, and what is there is not trained again;
benchmarks/PARITY.md is written anew from all of it. Needs the peers' environment (make
.venv-bench/installed). On two cores MRPC takes about 6 minutes a seed. --who trains some of the
contestants only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import make_models
import numpy as np
from bench import OURS, PEERS, ROOT, commit, machine, versions

from dataset import Examples
from finetuning.data.reading import read_glue
from finetuning.data.tasks import Task, find_task, task_folder
from finetuning.results.metrics import compute

HERE = Path(__file__).resolve().parent
RESULTS, TABLE = HERE / "parity.jsonl", HERE / "PARITY.md"
RECIPE = ("--optimizer", "adamw", "--lr", "5e-5", "--epochs", "3")
RECOMMENDED = (
    *("--optimizer", "adamw", "--lr", "1.5e-4", "--layer_lr_decay", "0.85"),
    *("--epochs", "4", "--dropout", "0"),
)
FOR_PAIRS_WITHOUT_AN_ORDER = ("--swap_pairs",)
HUGGING_FACE, SAME = "Hugging Face", "this project, same recipe"
OWN, OWN_BFLOAT16 = "this project, recommended", "this project, recommended, bfloat16"
CONTESTANTS = (HUGGING_FACE, SAME, OWN, OWN_BFLOAT16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("GLUE_DIR", "glue_data"))
    parser.add_argument("--tasks", default="MRPC,RTE,STS-B,CoLA")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--who", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench_cache")
    args = parser.parse_args()
    make_models.make(args.cache)
    done = {(r["who"], r["task"], r["seed"]) for r in read_results()}
    for seed in map(int, args.seeds.split(",")):
        for task in args.tasks.split(","):
            for who in args.who:
                if (who, task, seed) in done:
                    continue
                result = {"who": who, "task": task, "seed": seed, "commit": commit()}
                result |= train(who, task, seed, args.data_dir, args.cache / "MiniLM")
                with RESULTS.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)
                write_table()


def read_results() -> list[dict]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def train(who: str, task: str, seed: int, data_dir: Path, model: Path) -> dict:
    """Return the main dev metric after each epoch, and the seconds of the training."""
    with tempfile.TemporaryDirectory() as folder:
        if who == HUGGING_FACE:
            return train_huggingface(task, seed, data_dir, model, Path(folder, "data.json"))
        command = [OURS, ROOT / "finetune_classifier.py", "--data_dir", data_dir]
        command += ["--task_name", task, "--seed", str(seed), "--output_dir", folder + "/out"]
        command += ["--bert_model", "bert_6_384_12", "--bert_dataset", "minilm_en_uncased"]
        run([*command, *flags_of(who, find_task(task)), "--no_tensorboard"])
        results = json.loads(Path(folder, "out", "metrics.json").read_text())
        metric = find_task(task).metrics[0]
        return {
            "scores": [row["dev"][metric] for row in results["epochs"]],
            "seconds": sum(row["seconds"] for row in results["epochs"]),
        }


def flags_of(who: str, task: Task) -> tuple[str, ...]:
    if who == SAME:
        return RECIPE
    swap = FOR_PAIRS_WITHOUT_AN_ORDER if task.text_b_column and task.symmetric else ()
    return (*RECOMMENDED, *swap, "--dtype", "bfloat16" if who == OWN_BFLOAT16 else "float32")


def train_huggingface(name: str, seed: int, data_dir: Path, model: Path, file: Path) -> dict:
    """Let Hugging Face train on a task's rows as this project reads them (into ``file``)."""
    task = find_task(name)
    folder = task_folder(data_dir, task)
    splits = {
        "train": read_glue(folder / "train.tsv", task),
        "dev": read_glue(folder / task.dev_files[""], task),
    }
    parts = {name: columns(part) for name, part in splits.items()}
    file.write_text(json.dumps({"outputs": task.outputs, **parts}))
    done = json.loads(run([PEERS, HERE / "finetune_huggingface.py", model, file, seed]))
    metric, label = task.metrics[0], splits["dev"].label
    scores = [compute(np.array(x), label, (metric,))[metric] for x in done["logits"]]
    return {"scores": scores, "seconds": done["seconds"]}


def columns(examples: Examples) -> dict:
    text_b = None if examples.text_b is None else list(examples.text_b)
    return {"text_a": list(examples.text_a), "text_b": text_b, "label": examples.label.tolist()}


def run(command: list) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def write_table() -> None:
    """Write PARITY.md: a row a task, mean ± standard deviation over its seeds."""
    results = read_results()
    lines = [
        "# Dev scores beside Hugging Face's",
        "",
        f"Written by `python3 benchmarks/parity.py` on {date.today()}; its --help has the recipe.",
        "",
        f"- Machine: {machine()}",
        f"- Versions: {versions()}",
        f"- Commits: {', '.join(sorted({r['commit'] for r in results}))}",
        "- The main dev metric after the last epoch, mean ± standard deviation over the seeds; in "
        "brackets the mean of each seed's best epoch. Last, the difference from Hugging Face's "
        "mean, in standard errors of the difference.",
        f"- Recommended flags: `{' '.join(RECOMMENDED)}`, for pairs without an order also "
        f"`{' '.join(FOR_PAIRS_WITHOUT_AN_ORDER)}`",
        "",
        f"| task | metric | {' | '.join(CONTESTANTS)} |",
        "| --- | --- |" + " --- |" * len(CONTESTANTS),
    ]
    for task in dict.fromkeys(r["task"] for r in results):
        peers = scores_of(results, HUGGING_FACE, task)
        cells = [cell(scores_of(results, who, task), peers) for who in CONTESTANTS]
        lines.append(f"| {task} | {find_task(task).metrics[0]} | {' | '.join(cells)} |")
    TABLE.write_text("\n".join(lines) + "\n")


def scores_of(results: list[dict], who: str, task: str) -> list[list[float]]:
    """Return the scores after each epoch, seed by seed."""
    rows = [r for r in results if (r["who"], r["task"]) == (who, task)]
    return [r["scores"] for r in sorted(rows, key=lambda r: r["seed"])]


def cell(scores: list[list[float]], peers: list[list[float]]) -> str:
    """Return a cell of the table."""
    if not scores:
        return ""
    last, theirs = (np.array([each[-1] for each in found]) for found in (scores, peers))
    best = np.mean([max(each) for each in scores])
    if len(last) == 1:
        return f"{last[0]:.4f} ({best:.4f})"
    text = f"{last.mean():.4f} ± {last.std(ddof=1):.4f} ({best:.4f}), {len(last)} seeds"
    if scores == peers or len(theirs) < 2:
        return text
    error = np.sqrt(last.var(ddof=1) / len(last) + theirs.var(ddof=1) / len(theirs))  # Welch
    return f"{text}, {(last.mean() - theirs.mean()) / error:+.1f}"


if __name__ == "__main__":
    main()
