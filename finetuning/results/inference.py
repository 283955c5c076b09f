"""Predict new rows with a fine-tuned model: the work of predict.py."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

import dataset
from bert import runtime, terminal
from bert.classifier import SavedClassifier, build_classifier, read_classifier
from bert.errors import RunError, UserError, reason
from bert.inference import Inference
from bert.native import NativeUnavailable
from bert.prediction import Answer, answers, averaged
from bert.run_config import HEAD
from bert.terminal import say, shown
from finetuning.data.parquet import column_types
from finetuning.data.tables import PARQUET
from finetuning.data.tasks import Task, task_from_config
from finetuning.output import Input, Target, file_target, open_stream, refuse_appending
from finetuning.results.parquet_output import ParquetFormat, refuse_bytes
from finetuning.results.partial import fingerprint, partial_output, partial_path
from finetuning.results.predictions import OutputFormat
from finetuning.results.texts import InputRow, argument_row, file_rows, input_format, line_rows
from finetuning.training.record import is_of_run

# How many batches of a file are read, sorted by length and written at a time: enough for little
# padding, few enough for constant memory. Standard input is answered batch by batch.
_BATCHES_PER_CHUNK = 32
# How many batches are computed in one call of C++, which pads nothing and divides them among the
# threads itself: the more, the more evenly; an interrupt waits for its end.
_BATCHES_PER_CALL = 4
# A chunk that has so many characters is not filled up: the memory is constant for long texts, too.
_CHARACTERS = 2**20


def run(args: argparse.Namespace) -> None:
    """Do what predict.py's flags say."""
    target = output_target(args)
    predictor = load_predictor(args)
    task = predictor.task
    types: dict[str, Any] = {}  # of the columns to keep, where the input has types
    if args.text_a is not None:
        rows = iter([argument_row(args.text_a, args.text_b)])
    elif args.input:
        path, keep = Path(args.input), args.keep_columns
        format = args.input_format or input_format(path, task)
        types = column_types(path, keep) if format == PARQUET else {}
        rows = file_rows(path, task, args.skip_bad_rows, format, keep)
    elif sys.__stdin__ is None:
        raise UserError("standard input is closed: pass --input or --text_a")
    else:
        rows = line_rows(sys.stdin.buffer, task, args.keep_columns)
    stream = args.input in (None, "/dev/stdin")
    chunk = args.batch_size * (1 if stream else _BATCHES_PER_CHUNK)
    answers_errors = args.skip_bad_rows or not (args.input or args.text_a is not None)
    on_terminal = not args.output and sys.stdout.isatty()
    output: OutputFormat
    if args.format == PARQUET:
        output = ParquetFormat(task, answers_errors, args.keep_columns, args.top_k, types)
    else:
        refuse_bytes(types)
        output = OutputFormat(
            args.format, task, answers_errors, on_terminal, args.keep_columns, args.top_k
        )
    writer = Writer(predictor, output, chunk)
    write(target, rows, writer, args)
    if writer.unusable:
        say(
            f"warning: {writer.unusable} of {writer.rows} rows cannot be used: they are answered "
            'with "error"',
            sys.stderr,
        )
    if predictor.truncated:
        say(f"note: {predictor.truncated} texts are cut at the model's max_len", sys.stderr)


def output_target(args: argparse.Namespace) -> Target | None:
    """Return where --output writes; None for standard output. UserError if it is an input."""
    folder = Path(args.model_dir)
    inputs: list[Input] = [folder]
    folder = folder if folder.is_dir() else folder.parent
    # Not every file in the folder: earlier predictions may be there.
    inputs += [path for path in folder.glob("*") if is_of_run(path.name)]
    if args.text_a is None:
        inputs.append(Path(args.input) if args.input else 0)
    if args.output:
        return file_target(Path(args.output), inputs, args.overwrite)
    terminal.data_output()  # or it is closed
    refuse_appending(inputs)
    return None


def write(
    target: Target | None, rows: Iterator[InputRow], writer: Writer, args: argparse.Namespace
) -> None:
    """Write all rows to standard output (None), through a stream, or to a file."""
    if target and not target.stream:
        write_file(target.path, rows, writer, args)
        return
    try:
        if target is None:
            writer.write(terminal.data_output(), rows)
        else:
            with open_stream(target.path) as stream:
                writer.write(stream, rows)
    except OSError as error:
        if target is None:  # Python must not flush to it again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), terminal.data_output().fileno())
        if not isinstance(error, BrokenPipeError):  # the reader has read enough
            where = args.output or "standard output"
            raise RunError(f"cannot write {where}: {reason(error)}") from None


# The logits [examples, outputs] of examples, in their order.
Logits = Callable[[dataset.TokenizedExamples], np.ndarray]


@dataclass
class Predictor:
    """A fine-tuned model that predicts texts."""

    saved: SavedClassifier
    task: Task
    logits: Logits
    truncated: int = 0  # how many texts so far were too long

    def __call__(self, texts: Sequence[Sequence[str | None]]) -> list[Answer]:
        """Return the answer to each (text_a, text_b): see :func:`bert.prediction.answers`."""
        config = self.saved.config
        text_a, text_b = zip(*texts, strict=True)
        label = np.zeros(len(texts), np.int32)
        examples = dataset.Examples(text_a, text_b if self.task.text_b_column else None, label)
        how = config.get("long_text", HEAD)
        tokenized = dataset.tokenize(examples, self.saved.tokenizer, config["max_len"], how)
        self.truncated += int(tokenized.truncated.sum())
        return answers(self.logits(tokenized), config)


def load_predictor(args: argparse.Namespace) -> Predictor:
    """Load the model of predict.py's flags; UserError if it does not take such texts."""
    saved = read_classifier(args.model_dir)
    task = task_from_config(saved.config)
    if args.text_b is not None and task.text_b_column is None:
        raise UserError("this model takes single texts: leave out --text_b")
    if args.text_a is not None and args.text_b is None and task.text_b_column is not None:
        raise UserError("this model takes pairs of texts: pass --text_b too")
    if args.gpu or not saved.sizes.is_plain:
        return Predictor(saved, task, by_mxnet(saved, args))
    if args.dtype == "bfloat16" and runtime.bfloat16_units() is None:
        say("warning: this processor emulates bfloat16, which is slower than float32", sys.stderr)
    try:
        return Predictor(saved, task, by_native_code(saved, args))
    except NativeUnavailable as unavailable:
        sentence = f"fused operators unavailable ({unavailable}): prediction will be slower"
        say(shown(f"warning: {sentence}"), sys.stderr)
    return Predictor(saved, task, by_mxnet(saved, args))


def by_native_code(saved: SavedClassifier, args: argparse.Namespace) -> Logits:
    """Compute without MXNet, whose import takes longer than the rest; may be NativeUnavailable."""
    inference = Inference.of_run(saved, args.dtype == "bfloat16")

    def logits(examples: dataset.TokenizedExamples) -> np.ndarray:
        found = np.empty((len(examples.lengths), inference.num_classes), np.float32)
        size = _BATCHES_PER_CALL * args.batch_size
        for indices in dataset.evaluation_batches(examples.lengths, size):
            found[indices] = dataset.logits_by(inference, examples, indices)
        if not np.isfinite(found).all():
            raise RunError("the network's outputs are not finite; none of them were saved")
        return averaged(found, examples.windows)

    return logits


def by_mxnet(saved: SavedClassifier, args: argparse.Namespace) -> Logits:
    """Compute with MXNet, on --gpu or the CPU.

    Its own operators are used, except for a model that :mod:`bert.inference` cannot compute.
    """
    bfloat16 = args.dtype == "bfloat16"
    runtime.prepare(args.num_threads, bfloat16)
    import mxnet as mx

    from finetuning.training.evaluation import predict
    from finetuning.training.workers import Workers

    missing = runtime.why_no_gpu() if args.gpu else None
    if missing:
        raise UserError(f"--gpu: {missing}")
    ctx = mx.gpu(0) if args.gpu else mx.cpu()
    model = build_classifier(saved, ctx=ctx)
    model.compile(fused=not (args.gpu or saved.sizes.is_plain), bfloat16=bfloat16)
    return lambda examples: predict(model.net, examples, args.batch_size, Workers([ctx]))


@dataclass
class Writer:
    """Predicts rows in chunks of ``chunk`` rows, and writes each chunk when it is ready."""

    predictor: Predictor
    output: OutputFormat
    chunk: int
    rows: int = 0  # written so far
    unusable: int = 0  # of them

    def write(self, file: BinaryIO, rows: Iterator[InputRow]) -> None:
        """Write all rows; the first of them has the index ``self.rows``."""
        first = self.rows == 0
        with tqdm(
            initial=self.rows, unit=" rows", unit_scale=True, disable=None, delay=1, leave=False
        ) as progress:
            for chunk in _chunks(rows, self.chunk):
                answers = self._answers(chunk)
                if first:
                    file.write(self.output.header)
                    first = False
                kept = [row.kept for row in chunk]
                file.write(self.output.encode(answers, self.rows, kept))
                file.flush()
                self.rows += len(chunk)
                progress.update(len(chunk))
        if first:
            file.write(self.output.header)
        file.write(self.output.end())

    def _answers(self, chunk: list[InputRow]) -> list[Answer | str]:
        """Return for each row its prediction, or what is wrong with it."""
        usable = [row.texts for row in chunk if row.problem is None]
        self.unusable += len(chunk) - len(usable)
        predicted = iter(self.predictor(usable) if usable else [])
        return [next(predicted) if row.problem is None else row.problem for row in chunk]


def _chunks(rows: Iterator[InputRow], size: int) -> Iterator[list[InputRow]]:
    """Yield rows in lists; a row that cannot be used raises after the rows before it.

    After every ``size`` rows a list ends, where an interrupted output is resumed; with long texts
    there are others between.
    """
    chunk: list[InputRow] = []
    characters = 0
    try:
        for number, row in enumerate(rows, 1):
            chunk.append(row)
            characters += sum(len(text or "") for text in row.texts)
            if number % size == 0 or characters >= _CHARACTERS:
                yield chunk
                chunk, characters = [], 0
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def write_file(
    path: Path, rows: Iterator[InputRow], writer: Writer, args: argparse.Namespace
) -> None:
    """Write all rows to a file, which has another name until it is complete."""
    resumable = args.format != PARQUET
    try:
        origin = _origin(args, writer.output)
        with partial_output(path, origin, args.resume, args.overwrite, resumable) as file:
            if resumable:
                writer.rows = resume_at(file, path, writer)
            for row in islice(rows, writer.rows):  # read, and so checked, but not predicted again
                writer.unusable += row.problem is not None
            try:
                writer.write(file, rows)
            except UserError as error:
                if not (writer.rows and resumable):
                    raise
                kept = partial_path(path)
                raise UserError(
                    f"{error} (the {writer.rows} rows before it are in {kept})"
                ) from None
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from None


def _origin(args: argparse.Namespace, output: OutputFormat) -> dict[str, object]:
    """Return what an output is a function of, for --resume."""
    folder = Path(args.model_dir)
    parameters = folder / "model.params" if folder.is_dir() else folder
    origin: dict[str, object] = {
        "--format": args.format,
        "the columns": output.columns,
        "--input_format": args.input_format,
        "--keep_columns": list(args.keep_columns) or None,
        "--top_k": args.top_k,
        "--batch_size": args.batch_size,
        "--dtype": args.dtype,
        "--gpu": args.gpu,
        "config.json": fingerprint(parameters.with_name("config.json")),
        "model.params": fingerprint(parameters),
    }
    if args.input and Path(args.input).is_file():
        return origin | {"--input": fingerprint(Path(args.input))}
    if args.resume:
        raise UserError("--resume needs a regular file as --input: a stream cannot be read again")
    return origin | {"--input": None}


def resume_at(file: BinaryIO, path: Path, writer: Writer) -> int:
    """Cut an interrupted output back to its last complete chunk; return the rows it then has.

    Chunks, not rows: the batches, and so the last digits, stay those of an uninterrupted run.
    """
    output = writer.output
    rows = keep = position = 0
    header, record = bool(output.header), b""
    file.seek(0)
    for number, line in enumerate(file):
        position += len(line)
        record += line
        if not output.is_complete(record):
            continue
        if header:
            header, record = False, b""
            continue
        if output.index(record) != rows:
            raise UserError(
                f"line {number + 1} of the interrupted {path} is not row {rows}: it cannot be "
                "resumed; pass --overwrite without --resume to start again"
            )
        rows, record = rows + 1, b""
        if rows % writer.chunk == 0:
            keep = position
    file.truncate(keep)
    file.seek(keep)
    return rows - rows % writer.chunk
