#!/usr/bin/env python3
"""Predict labels of new text with a fine-tuned model.

    python3 predict.py --model_dir output_dir --input new.csv --output out.csv
    python3 predict.py --model_dir output_dir --text_a "It rained." \\
        --text_b "There was rain."
    cat texts | python3 predict.py --model_dir output_dir > predictions.jsonl

--input is TSV, CSV, JSON Lines (each optionally with .gz) or Parquet, by its
ending or by --input_format. In TSV one line is one row, and quotes are text (with
--input_format quoted_tsv, or after a training with --quoted_tsv, they quote, as
in CSV); CSV is as in RFC 4180; JSON Lines has an object per line. A blank line
is a row only in a table of one column. Columns are named as those the model was
trained on, or text_a (and text_b); other columns are ignored. A model of a GLUE
task reads the task's own files as training did.

Standard input takes one example per line: text_a, or text_a<TAB>text_b, or a
JSON object. It is answered after every --batch_size lines; --batch_size 1
answers line by line. With --input - it is read like a file.

A text that is longer than the model's max_len is cut, or divided into windows
whose logits are averaged, as finetune_classifier.py --long_text said.

Each output row has the input row's number (index, from 0), the label, and one
probability per label; for a regression the score; after a training with
--multi_label, all labels with a probability of at least 0.5, as a list (labels; in
a table as in the training file). Rows keep the input's order. After
finetune_classifier.py --calibrate, probabilities use its temperature, and of two
labels or with --multi_label its thresholds decide.

--keep_columns copies columns of the input to the output, after the index; values
of JSON Lines stay as they are, and those of Parquet in Parquet.

An unusable row of --input ends the run with exit code 2, after the rows before
it are written; with --skip_bad_rows its output row has an error instead (in a
table, in the column error). A line of standard input always gets such a row.

--output FILE is FILE.predict.partial until it is complete; FILE.predict.json
records which input, model and flags it is computed from, for --resume. A
device, a FIFO or /dev/stdout is written to directly. Of an interrupted Parquet
output nothing can be used: it starts again.

Exit codes: 0 success (also if the reader closes the pipe); 1 the run failed;
2 a flag or file is wrong; 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    import finetuning.early  # noqa: F401

import argparse
import sys

from bert import runtime, terminal
from finetuning import command
from finetuning.data.tables import FORMATS, PARQUET
from finetuning.parser import Parser, add_num_threads, count

STANDARD_INPUT = "/dev/stdin"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; exits with code 2 if they do not go together."""
    parser = Parser(
        "predict.py",
        __doc__,
        {"--model_parameters": "--model_dir"},
        usage="%(prog)s --model_dir DIR [flags]",
    )
    parser.add_argument(
        "--model_dir", metavar="DIR", required=True, help="output folder of a training run"
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="rows to predict, - for standard input (default: lines of standard input)",
    )
    parser.add_argument(
        "--input_format",
        choices=(*FORMATS, PARQUET),
        help="format of --input (default: by its ending)",
    )
    parser.add_argument("--output", metavar="FILE", help="file to write (default: standard output)")
    parser.add_argument(
        "--keep_columns",
        metavar="NAME,NAME,...",
        type=names,
        default=(),
        help="copy these columns of the input to the output, e.g. id,source",
    )
    parser.add_argument("--text_a", metavar="TEXT", help="predict this one example")
    parser.add_argument("--text_b", metavar="TEXT", help="second text of that example")
    parser.add_argument(
        "--format",
        choices=("jsonl", "tsv", "csv", PARQUET),
        help="format of the output (default: by the ending of --output; otherwise jsonl)",
    )
    parser.add_argument(
        "--top_k",
        metavar="N",
        type=count,
        help="write only the N largest probabilities of each row (default: all)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --output if it already exists"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted output; refused if input, model or flags have changed",
    )
    parser.add_argument(
        "--skip_bad_rows",
        action="store_true",
        help="answer unusable rows of --input with an error instead of ending",
    )
    parser.add_argument(
        "--batch_size",
        metavar="N",
        type=count,
        default=32,
        help="examples per batch; standard input is answered batch by batch (default: 32)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        default="float32",
        help="data type of matrix products; bfloat16 (CPU) is faster with AVX512-BF16 or AMX, and "
        "changes logits in the third digit, sometimes the second; auto: bfloat16 on a CPU that is "
        "faster in it, otherwise float32 (default: float32)",
    )
    parser.add_argument("--gpu", action="store_true", help="predict on the first GPU")
    add_num_threads(parser)
    args = parser.parse_args(argv)
    if args.text_a is not None and args.input:
        parser.error("--text_a and --input exclude each other")
    if args.text_a is not None and args.keep_columns:
        parser.error("--text_a has no columns: leave out --keep_columns")
    if args.text_b is not None and args.text_a is None:
        parser.error("--text_b needs --text_a")
    if args.resume and not (args.input and args.output):
        parser.error("--resume needs --input and --output")
    if args.input_format and not args.input:
        parser.error("--input_format needs --input; - is standard input")
    if args.input == "-":
        args.input = STANDARD_INPUT
    if args.input == STANDARD_INPUT and args.input_format not in FORMATS:
        why = "; Parquet is read from its end: pass a file" if args.input_format else ""
        parser.error(f"--input - needs --input_format: {', '.join(FORMATS)}{why}")
    if args.gpu and args.dtype == "bfloat16":
        parser.error("--dtype bfloat16 is for CPUs: leave out --gpu")
    if args.dtype == "auto":
        args.dtype = runtime.dtype_for("auto", args.gpu)
        terminal.say(f"note: --dtype auto takes {args.dtype}", sys.stderr)
    ending = str(args.output).rpartition(".")[2].lower()
    if ending in ("gz", "bz2", "xz", "zst"):
        parser.error(f"--output is not compressed: choose a name without .{ending}")
    if not args.format:
        args.format = ending if ending in ("tsv", "csv", PARQUET) else "jsonl"
    if args.format == PARQUET and not args.output and sys.stdout and sys.stdout.isatty():
        parser.error("--format parquet is not for a terminal: pass --output")
    return args


def names(text: str) -> tuple[str, ...]:
    """Convert the value of --keep_columns."""
    found = tuple(name.strip() for name in text.split(","))
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"must be different names of columns, not {text!r}")
    return found


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    def work() -> None:
        runtime.set_threads(args.num_threads)
        from finetuning.results import inference

        inference.run(args)

    return command.run("predict.py", work)


if __name__ == "__main__":
    terminal.start(main)
