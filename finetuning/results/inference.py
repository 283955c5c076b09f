"""Predict new rows with a fine-tuned model: the work of predict.py."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import mxnet as mx
import numpy as np
from scipy.special import softmax
from tqdm import tqdm

import dataset
from bert import runtime
from bert.classifier import Classifier, load_classifier
from bert.errors import UserError
from finetuning.data.reading import empty_text
from finetuning.data.tables import BadRows, Row, parse_object, split_lines, table_rows, text_of
from finetuning.data.tasks import Task, task_from_config
from finetuning.results.predictions import delimited
from finetuning.training.evaluation import predict
from finetuning.training.workers import Workers

# How many batches of a file are read, sorted by length and written at a time: enough for little
# padding, few enough for constant memory. Standard input is answered batch by batch.
_BATCHES_PER_CHUNK = 32


def run(args: argparse.Namespace) -> None:
    """Do what predict.py's flags say."""
    predictor = load_predictor(args)
    task = predictor.task
    if args.text_a is not None:
        rows: Iterator[Row] = iter([(0, [args.text_a, args.text_b])])
    elif args.input:
        rows = file_rows(Path(args.input), task)
    else:
        rows = line_rows(sys.stdin.buffer, task)
    chunk = args.batch_size * (_BATCHES_PER_CHUNK if args.input else 1)
    output = Output(args.format, task)
    if args.output:
        write_file(Path(args.output), rows, Writer(predictor, output, chunk), args.resume)
        return
    try:
        Writer(predictor, output, chunk).write(sys.stdout.buffer, rows)
    except BrokenPipeError:
        # The reader has read enough. Python must not flush to the closed pipe again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model that predicts texts."""

    model: Classifier
    task: Task
    workers: Workers
    batch_size: int

    def __call__(self, texts: Sequence[Sequence[str | None]]) -> list[list]:
        """Return, for each (text_a, text_b), the label and its probabilities, or the score."""
        config = self.model.config
        text_a, text_b = zip(*texts, strict=True)
        label = np.zeros(len(texts), np.int32)
        examples = dataset.Examples(text_a, text_b if self.task.text_b_column else None, label)
        tokenized = dataset.tokenize(examples, self.model.tokenizer, config["max_len"])
        logits = predict(self.model.net, tokenized, self.batch_size, self.workers)
        if self.task.regression:
            return [[_rounded(row[0])] for row in logits.astype(np.float64)]
        calibration = config.get("calibration", {})
        scaled = logits.astype(np.float64) / calibration.get("temperature", 1)
        threshold = calibration.get("threshold")
        return [
            [self.task.labels[label_index(row, threshold)], *map(_rounded, row)]
            for row in softmax(scaled, axis=1)
        ]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def label_index(probability: np.ndarray, threshold: float | None) -> int:
    """Return the most probable label, or of two labels the one by a calibrated threshold."""
    if threshold is not None and len(probability) == 2:
        return int(probability[1] >= threshold)
    return int(probability.argmax())


def load_predictor(args: argparse.Namespace) -> Predictor:
    """Load the model of predict.py's flags; UserError if it does not take such texts."""
    missing = runtime.why_no_gpu() if args.gpu else None
    if missing:
        raise UserError(f"--gpu: {missing}")
    ctx = mx.gpu(0) if args.gpu else mx.cpu()
    model = load_classifier(args.model_dir, ctx=ctx)
    task = task_from_config(model.config)
    if args.text_b is not None and task.text_b_column is None:
        raise UserError("this model takes single texts: leave out --text_b")
    if args.text_a is not None and args.text_b is None and task.text_b_column is not None:
        raise UserError("this model takes pairs of texts: pass --text_b too")
    unavailable = model.compile(fused=not args.gpu)
    if unavailable:
        print(
            f"warning: fused operators unavailable ({unavailable}): prediction will be slower",
            file=sys.stderr,
        )
    return Predictor(model, task, Workers([ctx]), args.batch_size)


def file_rows(path: Path, task: Task) -> Iterator[Row]:
    """Yield (line, [text_a, text_b or None]) of a table; UserError names an unusable row."""
    b = task.text_b_column
    columns = [(task.text_a_column, "text_a"), (None,) if b is None else (b, "text_b")]
    for line, values in table_rows(path, columns, BadRows()):
        problem = empty_text(values[0] or "", values[1])
        if problem:
            raise UserError(f"{path}, line {line}: {problem}")
        yield line, values


def line_rows(file: BinaryIO, task: Task) -> Iterator[Row]:
    """Yield what :func:`file_rows` does, from lines of text or of JSON objects."""
    for line, content, problem in split_lines(file):
        try:
            if problem:
                raise ValueError(problem)
            values = _texts_of(content.rstrip("\r\n"), task)
            if problem := empty_text(values[0] or "", values[1]):
                raise ValueError(problem)
        except ValueError as error:
            raise UserError(f"standard input, line {line}: {error}") from None
        yield line, values


def _texts_of(line: str, task: Task) -> list[str | None]:
    if line.startswith("{"):
        content = parse_object(line)
        names = [(task.text_a_column, "text_a"), (task.text_b_column, "text_b")]
        return [
            None if trained is None else text_of(content, trained if trained in content else name)
            for trained, name in names
        ]
    pairs = task.text_b_column is not None
    texts = line.split("\t")
    if len(texts) != 1 + pairs:
        wanted = "two texts with one tab between them" if pairs else "one text without tabs"
        raise ValueError(f"the model takes {wanted}; there are {len(texts) - 1} tabs")
    return [texts[0], texts[1] if pairs else None]


_DELIMITERS = {"tsv": "\t", "csv": ","}


class Output:
    """The bytes of predictions in JSON Lines, TSV or CSV."""

    def __init__(self, format: str, task: Task):
        self._delimiter = _DELIMITERS.get(format)
        self._labels = task.labels
        names = ["score"] if task.regression else ["label"]
        names += [f"probability_{label}" for label in task.labels]
        self.format = format
        self.header = self._table([["index", *names]]) if self._delimiter else b""

    def rows(self, rows: list[list]) -> bytes:
        """Encode rows of index, label and probabilities, or of index and score."""
        return self._table(rows) if self._delimiter else b"".join(map(self._json, rows))

    def _table(self, rows: list[list]) -> bytes:
        return delimited(rows, self._delimiter or "").encode()

    def _json(self, row: list) -> bytes:
        index, predicted, *probabilities = row
        content = {"index": index, "label" if self._labels else "score": predicted}
        if self._labels:
            content["probabilities"] = dict(zip(self._labels, probabilities, strict=True))
        return (json.dumps(content, ensure_ascii=False) + "\n").encode()

    def index(self, line: bytes) -> int | None:
        """Return the index of a row; None if the line is not a row in this format."""
        try:
            if self._delimiter:
                return int(line.split(self._delimiter.encode())[0])
            return json.loads(line)["index"]
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Writer:
    """Predicts rows in chunks of ``chunk`` rows, and writes each chunk when it is ready."""

    predictor: Predictor
    output: Output
    chunk: int

    def write(self, file: BinaryIO, rows: Iterator[Row], done: int = 0) -> None:
        """Write all rows; the first of them has the index ``done``."""
        if not done:
            file.write(self.output.header)
        with tqdm(
            initial=done, unit=" rows", unit_scale=True, disable=None, delay=1, leave=False
        ) as progress:
            while texts := [values for _, values in islice(rows, self.chunk)]:
                predicted = enumerate(self.predictor(texts), done)
                file.write(self.output.rows([[index, *row] for index, row in predicted]))
                file.flush()
                done += len(texts)
                progress.update(len(texts))


def write_file(path: Path, rows: Iterator[Row], writer: Writer, resume: bool) -> None:
    """Write all rows to a file, which has the ending .partial until it is complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        done = resume_at(path, partial, writer) if resume else 0
        for _ in islice(rows, done):  # read, and so checked, but not predicted again
            pass
        with partial.open("ab" if done else "wb") as file:
            writer.write(file, rows, done)
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from None


def resume_at(path: Path, partial: Path, writer: Writer) -> int:
    """Cut an interrupted output back to its last complete chunk; return the rows it then has.

    Chunks, not rows: the batches, and so the last digits, stay those of an uninterrupted run.
    """
    if not partial.exists() and path.exists():
        path.replace(partial)
    if not partial.exists():
        return 0
    output = writer.output
    rows = keep = position = 0
    with partial.open("rb+") as file:
        for number, line in enumerate(file):
            position += len(line)
            if (output.header and number == 0) or not line.endswith(b"\n"):
                continue
            if output.index(line) != rows:
                raise UserError(
                    f"{partial}, line {number + 1} is not row {rows} of an output in "
                    f"{output.format}: it cannot be resumed; move it away"
                )
            rows += 1
            if rows % writer.chunk == 0:
                keep = position
        file.truncate(keep)
    return rows - rows % writer.chunk
