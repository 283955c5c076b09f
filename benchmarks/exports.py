"""What a fine-tuned model computes, and how fast, in every form in which it can leave.

    python3 benchmarks/exports.py RUN

RUN is the output folder of a run. Each form computes the run's dev examples, in batches of 32 of
similar length, in rounds one after the other; prints a Markdown table of medians. Hugging Face
runs in .venv-bench (make bench makes it).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bert import runtime

THREADS = runtime.prepare()

import mxnet as mx
import numpy as np
from scipy.stats import binomtest

import export_classifier
from bert.classifier import load_classifier
from bert.parameters import read_params
from dataset import DEV_EXAMPLES, TokenizedExamples, evaluation_batches, padded_batch
from finetuning.results.export_formats import read_gluon, read_onnx
from finetuning.results.exports import logits_by
from finetuning.training.evaluation import predict
from finetuning.training.workers import Workers

ROUNDS = 5
BATCH_SIZE = 32
OTHER_PYTHON = ROOT / ".venv-bench/bin/python"
# Run by the other Python: the exported folder, the batches, the number of threads.
HUGGINGFACE = """
import json, sys, time
import numpy as np, torch
from transformers import AutoModelForSequenceClassification
folder, batches, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
net = AutoModelForSequenceClassification.from_pretrained(folder).eval()
content = np.load(batches)
count = int(content["count"])
def one_pass():
    logits = []
    for i in range(count):
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: torch.from_numpy(content[f"{name}{i}"]) for name in names}
        logits += net(**inputs).logits.tolist()
    return logits
with torch.inference_mode():
    one_pass()
    start = time.perf_counter()
    logits = one_pass()
    print(json.dumps([logits, time.perf_counter() - start]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path)
    model_dir = parser.parse_args().run
    model = load_classifier(model_dir)
    examples = TokenizedExamples.from_arrays(read_params(model_dir / DEV_EXAMPLES))
    if unavailable := model.compile():
        sys.exit(unavailable)
    workers = Workers([mx.cpu()])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        forms = {"this project (predict.py)": None}
        for form, flags in {
            "gluon": (),
            "huggingface": (),
            "onnx": (),
            "onnx int8": ("--quantize", "dynamic"),
        }.items():
            kind = form.split()[0]
            flags = (
                "--model_dir",
                model_dir,
                "--format",
                kind,
                *flags,
                "--output_dir",
                folder / form,
            )
            if export_classifier.main([str(flag) for flag in flags]):
                sys.exit(f"{form} cannot be exported")
        forms["Gluon: mx.gluon.SymbolBlock"] = read_gluon(folder / "gluon")
        forms["ONNX Runtime, float32"] = read_onnx(folder / "onnx")
        forms["ONNX Runtime, int8"] = read_onnx(folder / "onnx int8")
        forms["Hugging Face transformers"] = None
        batches = write_batches(folder / "batches.npz", examples)
        speeds, logits = {form: [] for form in forms}, {}
        for _ in range(ROUNDS):
            for form, compute in forms.items():
                if "Hugging" in form:
                    logits[form], speed = huggingface(folder, batches, len(examples))
                elif compute:
                    one_pass = partial(logits_by, compute, examples, BATCH_SIZE)
                    logits[form], speed = timed(one_pass, len(examples))
                else:
                    one_pass = partial(predict, model.net, examples, BATCH_SIZE, workers)
                    logits[form], speed = timed(one_pass, len(examples))
                speeds[form].append(speed)
    reference = logits["this project (predict.py)"]
    print(f"\n{runtime.processor()}, {THREADS} threads, {len(examples)} dev examples\n")
    print("| form | examples/s (spread) | dev accuracy | largest difference of a logit |")
    print("| --- | --- | --- | --- |")
    for form, found in speeds.items():
        right = int((logits[form].argmax(axis=1) == examples.label).sum())
        low, high = binomtest(right, len(examples)).proportion_ci(method="wilson")
        difference = np.abs(logits[form] - reference).max()
        print(
            f"| {form} | {np.median(found):.1f} ({min(found):.1f} to {max(found):.1f}) | "
            f"{right / len(examples):.4f} ({low:.3f} to {high:.3f}) | {difference:.1g} |"
        )


def timed(one_pass, count: int) -> tuple[np.ndarray, float]:
    one_pass()  # allocates
    start = time.perf_counter()
    logits = one_pass()
    return logits, count / (time.perf_counter() - start)


def write_batches(path: Path, examples: TokenizedExamples) -> list[np.ndarray]:
    batches = evaluation_batches(examples.lengths, BATCH_SIZE)
    content = {"count": np.array(len(batches))}
    for i, indices in enumerate(batches):
        input_ids, token_types, valid_length = padded_batch(examples, indices)
        mask = np.arange(input_ids.shape[1]) < valid_length[:, None]
        arrays = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_types}
        content |= {f"{name}{i}": array.astype(np.int64) for name, array in arrays.items()}
    np.savez(path, **content)
    return batches


def huggingface(folder: Path, batches: list[np.ndarray], count: int) -> tuple[np.ndarray, float]:
    arguments = (folder / "huggingface", folder / "batches.npz", THREADS)
    done = subprocess.run(
        [OTHER_PYTHON, "-c", HUGGINGFACE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    logits, seconds = json.loads(done.stdout.splitlines()[-1])
    in_order = np.empty_like(np.array(logits, np.float32))
    in_order[np.concatenate(batches)] = logits
    return in_order, count / seconds


main()
