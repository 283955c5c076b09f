#!/usr/bin/env python3
"""Fetch a GLUE task's files and lay them out as the benchmark does.

    python3 download_glue_data.py --data_dir glue_data --tasks MRPC

MRPC is built from Microsoft's two raw files, of which GLUE's dev split is 408 pairs: 3668 pairs
to train on, 408 to develop on, 1725 to test on. --path_to_mrpc takes the raw files from a folder
instead of the network.

Exit codes: 0 done; 1 the network or the disk failed; 2 a flag or a file is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

import requests
from tqdm import tqdm

from bert.errors import UserError

MRPC_ADDRESS = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
MRPC_FILES = {  # name -> MD5
    "msr_paraphrase_train.txt": "793daf7b6224281e75fe61c1f80afe35",
    "msr_paraphrase_test.txt": "e437fdddb92535b820fe8852e2df8a49",
}
# GLUE's dev split of MRPC: pairs of ids, one a line. Its own address is dead.
MRPC_DEV_IDS = Path(__file__).resolve().parent / "glue_files" / "mrpc_dev_ids.tsv"
MRPC_ROWS = {"train": 3668, "dev": 408, "test": 1725}
TASKS = ("MRPC",)

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 16


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fetch(address: str) -> bytes:
    """Download a file of a few megabytes, with a progress bar.

    Raises
    ------
    requests.RequestException
        The server cannot be reached, refuses, or ends the answer early.
    """
    with requests.get(address, stream=True, timeout=_TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        content = bytearray()
        with tqdm(
            total=size, desc=address.rsplit("/", 1)[-1], unit="B", unit_scale=True, disable=None
        ) as bar:
            for chunk in response.iter_content(_CHUNK_BYTES):
                content += chunk
                bar.update(len(chunk))
    if size is not None and len(content) < size:
        raise requests.ConnectionError(f"the connection ended after {len(content)} of {size} bytes")
    return bytes(content)


def raw_mrpc(source: Path | None, address: str = MRPC_ADDRESS) -> dict[str, bytes]:
    """Return MRPC's raw files, read from a folder or fetched, their checksums verified."""
    files = {}
    for name, md5 in MRPC_FILES.items():
        where = source / name if source else address + name
        if source:
            try:
                files[name] = (source / name).read_bytes()
            except OSError as error:
                raise UserError(f"--path_to_mrpc: cannot read {where}: {error.strerror}") from None
        else:
            files[name] = fetch(address + name)
        if hashlib.md5(files[name]).hexdigest() != md5:
            raise UserError(
                f"{where} is not the published file (its MD5 is not {md5}): get it again"
            )
    return files


def lay_out_mrpc(files: dict[str, bytes], folder: Path) -> dict[str, int]:
    """Write train.tsv, dev.tsv and test.tsv as GLUE has them; returns the rows of each."""
    dev_ids = {tuple(line.split("\t")) for line in MRPC_DEV_IDS.read_text().splitlines()}
    strings = "#1 ID\t#2 ID\t#1 String\t#2 String"
    lines = {
        "train": [f"Quality\t{strings}"],
        "dev": [f"Quality\t{strings}"],
        "test": [f"index\t{strings}"],
    }
    for label, id_a, id_b, text_a, text_b in rows_of(files["msr_paraphrase_train.txt"]):
        split = "dev" if (id_a, id_b) in dev_ids else "train"
        lines[split].append("\t".join((label, id_a, id_b, text_a, text_b)))
    for index, (_, *fields) in enumerate(rows_of(files["msr_paraphrase_test.txt"])):
        lines["test"].append("\t".join((str(index), *fields)))
    rows = {split: len(content) - 1 for split, content in lines.items()}
    if rows != MRPC_ROWS:
        raise UserError(f"MRPC came out as {rows}, not as GLUE's {MRPC_ROWS}")
    folder.mkdir(parents=True, exist_ok=True)
    for split, content in lines.items():
        write_whole(folder / f"{split}.tsv", ("\n".join(content) + "\n").encode())
    return rows


def rows_of(content: bytes) -> list[list[str]]:
    """Split a raw file into rows of five fields, without its header; nothing is quoted."""
    lines = content.decode("utf-8-sig").split("\n")
    return [line.rstrip("\r").split("\t") for line in lines[1:] if line.strip()]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        usage="%(prog)s [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data_dir", type=Path, default=Path("glue_data"), help="default: %(default)s"
    )
    parser.add_argument(
        "--tasks", default="MRPC", help=f"comma-separated, of {', '.join(TASKS)} (default: MRPC)"
    )
    parser.add_argument(
        "--path_to_mrpc",
        type=Path,
        metavar="DIR",
        help=f"folder with {' and '.join(MRPC_FILES)} (default: they are downloaded)",
    )
    args = parser.parse_args(argv)
    args.tasks = [task.strip() for task in args.tasks.split(",") if task.strip()]
    for task in args.tasks:
        if task.upper() not in TASKS:
            parser.error(f"--tasks: there is no {task!r}; there are: {', '.join(TASKS)}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    folder = args.data_dir / "MRPC"
    try:
        rows = lay_out_mrpc(raw_mrpc(args.path_to_mrpc), folder)
    except UserError as error:
        print(f"download_glue_data.py: {error}", file=sys.stderr)
        return 2
    except requests.RequestException as error:
        print(
            f"download_glue_data.py: MRPC cannot be fetched ({error}); with its raw files at hand, "
            "use --path_to_mrpc",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(f"download_glue_data.py: cannot write to {folder}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{folder}: " + ", ".join(f"{count} {split}" for split, count in rows.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
