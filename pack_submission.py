#!/usr/bin/env python3
"""Pack the test predictions of several runs into one file for gluebenchmark.com.

    python3 pack_submission.py --output submission.zip runs/cola runs/mnli ...

Takes predictions/*.tsv from each run's output folder (finetune_classifier.py
--predict_test writes them).

Exit codes: 0 success; 1 the file cannot be written; 2 a flag or file is wrong.
"""

from __future__ import annotations

if __name__ == "__main__":
    import finetuning.early  # noqa: F401

from pathlib import Path

from bert import terminal
from finetuning import command
from finetuning.parser import Parser


def main(argv: list[str] | None = None) -> int:
    usage = "%(prog)s RUN [RUN ...] [--output FILE] [--overwrite]"
    parser = Parser("pack_submission.py", __doc__, usage=usage)
    parser.add_argument("folders", metavar="RUN", nargs="+", help="output folder of a run")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default="submission.zip",
        help="file to write (default: submission.zip)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --output if it already exists"
    )
    args = parser.parse_args(argv)

    def work() -> None:
        from finetuning.results import submission

        submission.pack(args.folders, args.output, args.overwrite)

    return command.run(parser.prog, work)


if __name__ == "__main__":
    terminal.start(main)
