#!/usr/bin/env python3
"""Draw one finished run, or several of one task: an HTML page and PNGs.

    python3 plot_runs.py output_dir --output_dir pictures
    python3 plot_runs.py runs/seed-1 runs/seed-2 --output_dir pictures

RUN is a run's output folder; a folder of seed-* or fold_* runs stands for all
of them. The page, index.html, needs no other file and no network. It shows
learning curves, the dev metric of each epoch (of several runs mean and standard
deviation; published results where known), confusion matrix, reliability
diagram, lengths and padding, and the most confident mistakes. The PNGs are the
same figures. Of several runs it also prints a table: the arguments in which
they differ, the best epoch's scores and the seconds of training.

Exit codes: 0 success; 1 a file cannot be written; 2 a flag or file is wrong.
"""

from __future__ import annotations

if __name__ == "__main__":
    import finetuning.early  # noqa: F401

from pathlib import Path

from bert import terminal
from finetuning import command
from finetuning.parser import Parser, require


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        "plot_runs.py",
        __doc__,
        {"--out": "--output_dir"},
        usage="%(prog)s RUN [RUN ...] --output_dir DIR [--overwrite]",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="output folder of a run")
    parser.add_argument(
        "--output_dir", metavar="DIR", type=Path, required=True, help="folder to write"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace pictures that are there already"
    )
    args = parser.parse_args(argv)
    require(parser, ["matplotlib"])

    def work() -> None:
        from finetuning.results import page

        page.write(args.runs, args.output_dir, args.overwrite)

    return command.run("plot_runs.py", work)


if __name__ == "__main__":
    terminal.start(main)
