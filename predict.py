#!/usr/bin/env python3
"""Predict labels of new text with a fine-tuned model.

    python3 predict.py --model_dir output_dir --input texts.tsv --output predictions.jsonl
    python3 predict.py --model_dir output_dir --text_a "A sentence." --text_b "Another one."
    cat texts | python3 predict.py --model_dir output_dir > predictions.jsonl

--input is TSV, CSV or JSON Lines (.gz may follow), by its ending, with the columns that the model
was trained on, or text_a (and text_b); other columns are left aside. Standard input has an example
a line: text_a, or text_a<TAB>text_b, or, where it begins with {, a JSON object.

An output row has the input's row number (index, from 0), the label, and every label's probability;
for a regression the score. Where the run was calibrated (finetune_classifier.py --calibrate), the
probabilities have its temperature and the label its threshold. Rows come out in the order they went
in. --output FILE is FILE.partial until it is whole.

Exit codes: 0 done, or nobody reads on; 1 the run failed; 2 a flag or a file is wrong; 130
interrupted.
"""

from __future__ import annotations

import argparse
import sys

from bert import runtime


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; exits with code 2 where they do not go together."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [flags]",
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
    )
    parser.add_argument(
        "--model_dir", metavar="DIR", required=True, help="the output folder of a training run"
    )
    parser.add_argument("--input", metavar="FILE", help="rows to predict (default: standard input)")
    parser.add_argument("--output", metavar="FILE", help="default: standard output")
    parser.add_argument("--text_a", metavar="TEXT", help="predict this one example")
    parser.add_argument("--text_b", metavar="TEXT", help="the second text of the example's pair")
    parser.add_argument(
        "--format",
        choices=("jsonl", "tsv"),
        help="of the output (default: tsv where --output ends in it, otherwise jsonl)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the interrupted output of the same flags"
    )
    parser.add_argument(
        "--batch_size", metavar="N", type=int, default=32, help="examples at a time (default: 32)"
    )
    parser.add_argument("--gpu", action="store_true", help="predict on the first GPU")
    parser.add_argument(
        "--num_threads", metavar="N", type=int, help="CPU threads (default: the physical cores)"
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1 or (args.num_threads is not None and args.num_threads < 1):
        parser.error("--batch_size and --num_threads are at least 1")
    if args.text_a is not None and args.input:
        parser.error("--text_a and --input exclude each other")
    if args.text_b is not None and args.text_a is None:
        parser.error("--text_b needs --text_a")
    if args.resume and not (args.input and args.output):
        parser.error("--resume needs --input and --output")
    args.format = args.format or ("tsv" if str(args.output).endswith(".tsv") else "jsonl")
    return args


# MXNet takes its number of threads from the environment while it is loaded.
ARGUMENTS = parse_args() if __name__ == "__main__" else None
runtime.prepare(ARGUMENTS.num_threads if ARGUMENTS else None)

import csv
import io
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import mxnet as mx
import numpy as np
from scipy.special import softmax
from tqdm import tqdm

import dataset
from bert import native
from bert.classifier import load_classifier
from bert.errors import UserError
from finetuning.data.reading import Examples, empty_text
from finetuning.data.tables import BadRows, Row, parse_object, split_lines, table_rows, text_of
from finetuning.data.tasks import Task, task_from_config
from finetuning.training.evaluation import predict
from finetuning.training.workers import Workers

# Batches read, sorted by length and written at a time: enough that batches have little padding,
# few enough that memory does not matter. Standard input is answered batch by batch.
_BATCHES_A_CHUNK = 32


def main(args: argparse.Namespace) -> None:
    missing = runtime.why_no_gpu() if args.gpu else None
    if missing:
        raise UserError(f"--gpu: {missing}")
    ctx = mx.gpu(0) if args.gpu else mx.cpu()
    net, tokenizer, config = load_classifier(args.model_dir, dropout=0.1, ctx=ctx)
    task = task_from_config(config)
    if args.text_b is not None and task.text_b_column is None:
        raise UserError("--text_b: the model was trained on single texts")
    if args.text_a is not None and args.text_b is None and task.text_b_column is not None:
        raise UserError("--text_a: the model was trained on pairs; pass --text_b too")
    if not args.gpu:
        try:
            native.load()
        except native.NativeUnavailable as reason:
            print(f"slower: the fused operators are not used: {reason}", file=sys.stderr)
        else:
            net.bert.fuse()
    net.hybridize(static_alloc=True)

    if args.text_a is not None:
        rows = iter([(0, [args.text_a, args.text_b])])
    elif args.input:
        rows = file_rows(Path(args.input), task)
    else:
        rows = line_rows(sys.stdin.buffer, task)
    chunk = args.batch_size * (_BATCHES_A_CHUNK if args.input else 1)

    calibration = config.get("calibration", {})
    threshold = calibration.get("threshold")

    def predict_rows(texts: list[list[str | None]]) -> np.ndarray:
        text_a, text_b = zip(*texts, strict=True)
        examples = Examples(
            text_a, None if task.text_b_column is None else text_b, np.zeros(len(texts), np.int32)
        )
        tokenized = dataset.tokenize(examples, tokenizer, config["max_len"])
        logits = predict(net, tokenized, args.batch_size, Workers([ctx]))
        return logits.astype(np.float64) / calibration.get("temperature", 1)

    if not args.output:
        write_rows(sys.stdout.buffer, 0, rows, chunk, predict_rows, task, args.format, threshold)
        return
    output, partial = Path(args.output), Path(args.output + ".partial")
    try:
        done = resume_at(output, partial, chunk, args.format) if args.resume else 0
        for _ in islice(rows, done):  # read, and so checked, but not predicted again
            pass
        with partial.open("ab" if done else "wb") as file:
            write_rows(file, done, rows, chunk, predict_rows, task, args.format, threshold)
            os.fsync(file.fileno())
        partial.replace(output)
    except OSError as error:
        raise OSError(f"cannot write {output}: {error.strerror}") from None


def file_rows(path: Path, task: Task) -> Iterator[Row]:
    """Yield (line, [text_a, text_b or None]) of a table; UserError names what cannot be used."""
    b = task.text_b_column
    columns = [(task.text_a_column, "text_a"), (None,) if b is None else (b, "text_b")]
    for line, values in table_rows(path, columns, BadRows()):
        problem = empty_text(*values)
        if problem:
            raise UserError(f"{path}, line {line}: {problem}")
        yield line, values


def line_rows(file: BinaryIO, task: Task) -> Iterator[Row]:
    """Yield what :func:`file_rows` does, of lines of text or of JSON objects."""
    pairs = task.text_b_column is not None
    for line, content, problem in split_lines(file):
        text = content.rstrip("\r\n")
        try:
            if problem:
                raise ValueError(problem)
            if text.startswith("{"):
                values = _values_of(parse_object(text), task)
            else:
                values = text.split("\t")
                if len(values) != 1 + pairs:
                    wanted = "two texts with one tab between" if pairs else "one text without tabs"
                    raise ValueError(f"the model takes {wanted}; there are {len(values) - 1} tabs")
                values = values if pairs else [*values, None]
            if problem := empty_text(*values):
                raise ValueError(problem)
        except ValueError as error:
            raise UserError(f"standard input, line {line}: {error}") from None
        yield line, values


def _values_of(content: dict, task: Task) -> list[str | None]:
    names = [(task.text_a_column, "text_a"), (task.text_b_column, "text_b")]
    return [
        None if trained is None else text_of(content, trained if trained in content else name)
        for trained, name in names
    ]


def label_index(probability: np.ndarray, threshold: float | None) -> int:
    """Return the label of an example: the most probable, or of two by a calibrated threshold."""
    if threshold is not None and len(probability) == 2:
        return int(probability[1] >= threshold)
    return int(probability.argmax())


def write_rows(file, done, rows, chunk, predict_rows, task, output_format, threshold) -> None:
    """Predict rows a chunk at a time, and write each chunk as soon as it is there."""
    names = ["score"] if task.regression else task.labels
    if output_format == "tsv" and not done:
        probabilities = [] if task.regression else [f"probability_{name}" for name in names]
        header = ["index", "score" if task.regression else "label", *probabilities]
        file.write(_tsv([header]))
    with tqdm(
        initial=done, unit=" rows", unit_scale=True, disable=None, delay=1, leave=False
    ) as progress:
        while texts := [values for _, values in islice(rows, chunk)]:
            logits = predict_rows(texts)
            if task.regression:
                results = [[done + i, float(f"{row[0]:.6g}")] for i, row in enumerate(logits)]
            else:
                results = [
                    [
                        done + i,
                        task.labels[label_index(row, threshold)],
                        *(float(f"{p:.6g}") for p in row),
                    ]
                    for i, row in enumerate(softmax(logits, axis=1))
                ]
            file.write(_tsv(results) if output_format == "tsv" else _json(results, task))
            file.flush()
            done += len(texts)
            progress.update(len(texts))


def _tsv(rows: list[list]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _json(rows: list[list], task: Task) -> bytes:
    objects = (
        {"index": index, "score": label}
        if task.regression
        else {
            "index": index,
            "label": label,
            "probabilities": dict(zip(task.labels, probabilities, strict=True)),
        }
        for index, label, *probabilities in rows
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects).encode()


def resume_at(output: Path, partial: Path, chunk: int, output_format: str) -> int:
    """Cut an interrupted output back to its last whole chunk; returns the rows it then has.

    Chunks, not rows, so that batches, and with them the last digits, are those of a run that was
    never interrupted.
    """
    if not partial.exists() and output.exists():
        output.replace(partial)
    if not partial.exists():
        return 0
    header = output_format == "tsv"
    rows = keep = position = 0
    with partial.open("rb+") as file:
        for number, line in enumerate(file):
            position += len(line)
            if number < header or not line.endswith(b"\n"):
                continue
            if _index(line, output_format) != rows:
                raise UserError(
                    f"{partial}, line {number + 1} is not row {rows} of an output in "
                    f"{output_format}: it cannot be resumed; move it away"
                )
            rows += 1
            if rows % chunk == 0:
                keep = position
        file.truncate(keep)
    return rows - rows % chunk


def _index(line: bytes, output_format: str) -> int | None:
    try:
        if output_format == "tsv":
            return int(line.split(b"\t")[0])
        return json.loads(line)["index"]
    except (ValueError, KeyError, TypeError):
        return None


def command(args: argparse.Namespace) -> int:
    """Run, and turn what can be foreseen into one sentence and an exit code."""
    try:
        main(args)
    except UserError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Nobody reads on, which is for the reader to decide. Python must not flush again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(command(ARGUMENTS))
