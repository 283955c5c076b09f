#!/usr/bin/env python3
"""Download the tasks of GLUE and lay them out as the benchmark does.

    python3 download_glue_data.py --data_dir glue_data --tasks MRPC

Each task gets a folder. Every file is verified (checksum or CRC, and the number
of rows) before it takes its place; tasks that are already complete are skipped,
and interrupted downloads resume. MRPC is built from Microsoft's two raw files:
3668 training, 408 development and 1725 test pairs.

Exit codes: 0 success; 1 the network or the disk failed; 2 a flag or file is
wrong; 130 interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    import finetuning.early  # noqa: F401

import argparse
from pathlib import Path

from bert import terminal
from bert.errors import UserError
from finetuning.data.tasks import DOWNLOADABLE, TASKS, Task, find_task
from finetuning.parser import Parser


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from finetuning.data.download import Downloader, download_tasks

    downloader = Downloader(args.data_dir, args.mirror, args.path_to_mrpc)
    if args.dry_run:
        for task in args.tasks:
            terminal.say(terminal.shown(downloader.plan(task)))
        return 0
    return download_tasks("download_glue_data.py", args.tasks, downloader)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("download_glue_data.py", __doc__, usage="%(prog)s [flags]")
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        type=Path,
        default="glue_data",
        help="folder for the tasks' folders (default: %(default)s)",
    )
    parser.add_argument(
        "--tasks",
        metavar="NAME,NAME,...",
        type=tasks_named,
        default="all",
        help=f"{', '.join(DOWNLOADABLE)}, or all (default: all)",
    )
    raw = " and ".join(download.name for download in TASKS["MRPC"].downloads)
    parser.add_argument(
        "--path_to_mrpc",
        metavar="DIR",
        type=Path,
        help=f"folder with {raw} (default: they are downloaded)",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        type=address,
        help="download all files from this address, by their names",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would be downloaded, and stop"
    )
    return parser.parse_args(argv)


def tasks_named(text: str) -> list[Task]:
    """Convert the value of --tasks."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if "all" in map(str.lower, names):
        return list(DOWNLOADABLE.values())
    try:
        tasks = {task.name: task for task in (find_task(name, DOWNLOADABLE) for name in names)}
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not tasks:
        raise argparse.ArgumentTypeError(f"name one or more of {', '.join(DOWNLOADABLE)}")
    return list(tasks.values())


def address(text: str) -> str:
    """Convert the value of --mirror."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must begin with http:// or https://, not {text!r}")
    return text


if __name__ == "__main__":
    terminal.start(main)
