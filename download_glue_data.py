#!/usr/bin/env python3
"""Fetch the GLUE tasks and lay them out as the benchmark does, a folder for each task.

    python3 download_glue_data.py --data_dir glue_data --tasks MRPC

Every file is verified (checksum or CRC, and the number of rows) before it takes its place; a task
that is there and whole is left alone; a download that was cut goes on where it stopped. MRPC is
built from Microsoft's two raw files: 3668 pairs to train on, GLUE's 408 for development, 1725 to
test on; --path_to_mrpc takes the raw files from a folder instead of the network.

Exit codes: 0 done; 1 the network or the disk failed; 2 a flag or a file is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from bert.errors import UserError

GLUE_ADDRESS = "https://dl.fbaipublicfiles.com/glue/data/"
MRPC_ADDRESS = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
MRPC_RAW = {  # name -> MD5
    "msr_paraphrase_train.txt": "793daf7b6224281e75fe61c1f80afe35",
    "msr_paraphrase_test.txt": "e437fdddb92535b820fe8852e2df8a49",
}
# GLUE's dev split of MRPC: pairs of ids, one a line. Its own address is dead.
MRPC_DEV_IDS = Path(__file__).resolve().parent / "finetuning/data/mrpc_dev_ids.tsv"

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 16
_TRIES = 5
_PARALLEL = 4
# No file of GLUE is larger than 100 MB; what claims to be is not one of them.
_LARGEST_FILE_BYTES = 1 << 29


@dataclass(frozen=True)
class Task:
    """A task's source, and the files it must come out as.

    ``files`` maps a file's name to its rows below the header, ``headless`` names those without
    one. QQP's published counts are of questions, some of which are broken over two lines, hence
    its ``tolerance``.
    """

    name: str
    source: str | None  # of GLUE_ADDRESS; None: MRPC's raw files
    files: dict[str, int]
    md5: str | None = None
    headless: tuple[str, ...] = ()
    tolerance: int = 0


def _splits(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train.tsv": train, "dev.tsv": dev, "test.tsv": test}


TASKS = {
    task.name: task
    for task in (
        Task("CoLA", "CoLA.zip", _splits(8551, 1043, 1063), headless=("train.tsv", "dev.tsv")),
        Task("SST-2", "SST-2.zip", _splits(67349, 872, 1821), "9f81648d4199384278b86e315dac217c"),
        Task("MRPC", None, _splits(3668, 408, 1725)),
        Task("STS-B", "STS-B.zip", _splits(5749, 1500, 1379)),
        Task("QQP", "QQP-clean.zip", _splits(363846, 40430, 390965), tolerance=100),
        Task(
            "MNLI",
            "MNLI.zip",
            {
                "train.tsv": 392702,
                "dev_matched.tsv": 9815,
                "dev_mismatched.tsv": 9832,
                "test_matched.tsv": 9796,
                "test_mismatched.tsv": 9847,
            },
        ),
        Task("QNLI", "QNLIv2.zip", _splits(104743, 5463, 5463), "b4efd6554440de1712e9b54e14760e82"),
        Task("RTE", "RTE.zip", _splits(2490, 277, 3000), "bef554d0cafd4ab6743488101c638539"),
        Task("WNLI", "WNLI.zip", _splits(635, 71, 146), "a1b4bd2861017d302d29e42139657a42"),
        Task("AX", "AX.tsv", {"AX.tsv": 1104}),
    )
}
_OLD_NAMES = {"sst": "SST-2", "sst2": "SST-2", "sts": "STS-B", "stsb": "STS-B", "diagnostic": "AX"}


class DownloadError(RuntimeError):
    """A task could not be had; the text says why, in one sentence."""


class Downloader:
    """Fetches tasks into a data folder.

    Parameters
    ----------
    data_dir : Path
    mirror : str, optional
        Serve every file from here instead, by its name.
    path_to_mrpc : Path, optional
    pause : float
        Seconds before the second try of a download; each further pause is twice as long.
    """

    def __init__(
        self,
        data_dir: Path,
        mirror: str | None = None,
        path_to_mrpc: Path | None = None,
        pause: float = 1.0,
    ):
        self.data_dir = data_dir
        self.path_to_mrpc = path_to_mrpc
        self.stop = threading.Event()  # set on Ctrl-C: the threads end at their next chunk
        self._mirror = mirror
        self._pause = pause
        self._work = data_dir / ".download"

    def addresses(self, task: Task) -> list[str]:
        """Return where a task's files come from."""
        if task.source:
            return [(self._mirror or GLUE_ADDRESS).rstrip("/") + "/" + task.source]
        if self.path_to_mrpc:
            return [str(self.path_to_mrpc / name) for name in MRPC_RAW]
        return [(self._mirror or MRPC_ADDRESS).rstrip("/") + "/" + name for name in MRPC_RAW]

    def is_there(self, task: Task) -> bool:
        """Tell whether a task's folder is there and whole, by its rows."""
        folder = self.data_dir / task.name
        try:
            return not any(wrong_rows(task, name, folder / name) for name in task.files)
        except OSError:
            return False

    def get(self, task: Task) -> str:
        """Fetch, verify and lay out a task; returns a line that says what was done.

        Raises
        ------
        DownloadError, UserError, OSError
            The folder that was there, if any, is as it was.
        """
        if self.is_there(task):
            return f"{task.name}: already there"
        self._work.mkdir(parents=True, exist_ok=True)
        laid_out = self._work / f"{task.name}.{os.getpid()}.new"
        laid_out.mkdir()
        try:
            if task.source is None:
                self._lay_out_mrpc(task, laid_out)
            else:
                self._lay_out_source(task, laid_out)
            for name in task.files:
                wrong = wrong_rows(task, name, laid_out / name)
                if wrong:
                    raise DownloadError(f"{task.name}: {wrong}: the source has changed")
            replace_folder(laid_out, self.data_dir / task.name)
        finally:
            shutil.rmtree(laid_out, ignore_errors=True)
        for name in (task.source,) if task.source else MRPC_RAW:
            (self._work / name).unlink(missing_ok=True)
        rows = ", ".join(f"{name} {count}" for name, count in task.files.items())
        return f"{task.name}: {rows} rows"

    def _lay_out_source(self, task: Task, folder: Path) -> None:
        (address,) = self.addresses(task)
        path = self.fetch(address, task.md5)
        if path.suffix != ".zip":
            self._check_space(path.stat().st_size)
            shutil.copyfile(path, folder / path.name)
            return
        try:
            with zipfile.ZipFile(path) as archive:
                members = self._members(archive, task, address)
                self._check_space(sum(member.file_size for member in members.values()))
                for name, member in members.items():
                    # The names are ours: nothing in the archive says where a file goes.
                    with archive.open(member) as source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
                        flush(target)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            path.unlink()
            raise DownloadError(f"{address} is damaged ({error}): run the command again") from None

    def _members(self, archive, task: Task, address: str) -> dict[str, zipfile.ZipInfo]:
        """Return {file name: its member}; the archive has them in a folder of any name."""
        members = {}
        for member in archive.infolist():
            folder, _, name = member.filename.rpartition("/")
            if name in task.files and "/" not in folder:
                members[name] = member
        missing = [name for name in task.files if name not in members]
        if missing:
            raise DownloadError(f"{address} lacks {', '.join(missing)}: the source has changed")
        for member in members.values():
            if member.file_size > _LARGEST_FILE_BYTES:
                raise DownloadError(
                    f"{address}: {member.filename} would unpack to {member.file_size:,} bytes, "
                    "which no file of GLUE has"
                )
        return members

    def _lay_out_mrpc(self, task: Task, folder: Path) -> None:
        raw = {}
        for (name, md5), address in zip(MRPC_RAW.items(), self.addresses(task), strict=True):
            if self.path_to_mrpc:
                raw[name] = self.path_to_mrpc / name
                try:
                    correct = md5_of(raw[name]) == md5
                except OSError as error:
                    message = f"--path_to_mrpc: cannot read {raw[name]}: {error.strerror}"
                    raise UserError(message) from None
                if not correct:
                    raise UserError(f"{raw[name]} is not the published file (its MD5 is not {md5})")
            else:
                raw[name] = self.fetch(address, md5)
        write_mrpc(raw, folder)

    def fetch(self, address: str, md5: str | None = None) -> Path:
        """Download a file to the work folder, going on with what an earlier try has left.

        Raises
        ------
        DownloadError
            The server refuses, cannot be reached in several tries, or what came is not the file
            of this MD5.
        """
        name = address.rsplit("/", 1)[-1]
        path, part = self._work / name, self._work / f"{name}.part"
        self._work.mkdir(parents=True, exist_ok=True)
        pause = self._pause
        for remaining in reversed(range(_TRIES)):
            try:
                self._try(address, part)
                break
            except requests.RequestException as error:
                response = error.response
                status = response.status_code if response is not None else None
                final = status is not None and status < 500 and status not in (408, 416, 429)
                if final or not remaining:
                    reason = f"the server answers {status}" if status else str(error)
                    raise DownloadError(f"cannot fetch {address}: {reason}") from None
                asked = response.headers.get("Retry-After", "") if response is not None else ""
                self.stop.wait(min(float(asked), 60.0) if asked.isdigit() else pause)
                pause *= 2
        if md5 and md5_of(part) != md5:
            part.unlink()
            raise DownloadError(f"{address} is not the published file (its MD5 is not {md5})")
        part.replace(path)
        return path

    def _try(self, address: str, part: Path) -> None:
        """Make one request, for what is missing of ``part``."""
        # Which version of the file the part is of: the server sends the rest only of the same one.
        validator_file = part.with_suffix(".validator")
        have = part.stat().st_size if part.exists() and validator_file.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator_file.read_text()}
        with requests.get(
            address, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS
        ) as response:
            if response.status_code == 416:  # the part is no beginning of the file: start over
                part.unlink(missing_ok=True)
            response.raise_for_status()
            if response.status_code != 206:
                have = 0
            length = response.headers.get("Content-Length", "")
            missing = int(length) if length.isdigit() else None
            self._check_space(missing or 0)
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if validator and not validator.startswith("W/"):
                validator_file.write_text(validator)
            else:
                validator_file.unlink(missing_ok=True)
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(
                    total=None if missing is None else have + missing,
                    initial=have,
                    desc=part.stem,
                    unit="B",
                    unit_scale=True,
                    disable=None,
                    leave=False,
                ) as bar,
            ):
                for chunk in response.iter_content(_CHUNK_BYTES):
                    if self.stop.is_set():
                        raise DownloadError("interrupted")
                    file.write(chunk)
                    bar.update(len(chunk))
                flush(file)
        if missing is not None and part.stat().st_size != have + missing:
            raise requests.ConnectionError("the connection was cut")

    def _check_space(self, size: int) -> None:
        free = shutil.disk_usage(self._work).free
        if size > free:
            raise DownloadError(
                f"{self.data_dir}: {size:,} bytes are needed and {free:,} are free: make room"
            )


def flush(file) -> None:
    """Make what was written to a file durable."""
    file.flush()
    os.fsync(file.fileno())


def md5_of(path: Path) -> str:
    digest = hashlib.md5()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def wrong_rows(task: Task, name: str, path: Path) -> str | None:
    """Return None where a file has the task's number of rows, otherwise what it has."""
    rows, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            rows += chunk.count(b"\n")
            last = chunk[-1:]
    rows += last != b"\n"  # a last line without its end
    rows -= name not in task.headless
    if abs(rows - task.files[name]) <= task.tolerance:
        return None
    return f"{name} has {rows} rows and not {task.files[name]}"


def replace_folder(new: Path, target: Path) -> None:
    """Put a complete folder in the place of another, which is only then deleted."""
    old = new.with_suffix(".old")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_mrpc(raw: dict[str, Path], folder: Path) -> None:
    """Write train.tsv, dev.tsv and test.tsv from Microsoft's files as GLUE has them."""

    def rows_of(name: str) -> list[list[str]]:  # five fields each; nothing is quoted
        lines = raw[name].read_bytes().decode("utf-8-sig").split("\n")
        return [line.rstrip("\r").split("\t") for line in lines[1:] if line.strip()]

    dev_ids = {tuple(line.split("\t")) for line in MRPC_DEV_IDS.read_text().splitlines()}
    strings = ["#1 ID", "#2 ID", "#1 String", "#2 String"]
    rows = {
        "train.tsv": [["Quality", *strings]],
        "dev.tsv": [["Quality", *strings]],
        "test.tsv": [["index", *strings]],
    }
    for row in rows_of("msr_paraphrase_train.txt"):
        rows["dev.tsv" if (row[1], row[2]) in dev_ids else "train.tsv"].append(row)
    for index, row in enumerate(rows_of("msr_paraphrase_test.txt")):
        rows["test.tsv"].append([str(index), *row[1:]])
    for name, content in rows.items():
        with (folder / name).open("wb") as file:
            file.write("".join("\t".join(row) + "\n" for row in content).encode())
            flush(file)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        usage="%(prog)s [flags]",
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
    )
    parser.add_argument(
        "--data_dir", type=Path, default=Path("glue_data"), help="default: %(default)s"
    )
    parser.add_argument(
        "--tasks",
        default="all",
        help=f"comma-separated, of {', '.join(TASKS)}; the old names SST, STS and diagnostic are "
        "known too (default: all)",
    )
    parser.add_argument(
        "--path_to_mrpc",
        type=Path,
        metavar="DIR",
        help=f"folder with {' and '.join(MRPC_RAW)} (default: they are downloaded)",
    )
    parser.add_argument("--mirror", metavar="URL", help="serve all files from here, by their names")
    parser.add_argument(
        "--dry_run", action="store_true", help="say what would be fetched, and stop"
    )
    args = parser.parse_args(argv)
    names = {name.lower(): name for name in TASKS} | _OLD_NAMES
    wanted = [task.strip().lower() for task in args.tasks.split(",") if task.strip()]
    for task in wanted:
        if task not in (*names, "all"):
            parser.error(f"--tasks: there is no {task!r}; there are: {', '.join(TASKS)}")
    if not wanted:
        parser.error(f"--tasks names no task; there are: {', '.join(TASKS)}")
    args.tasks = list(TASKS) if "all" in wanted else list(dict.fromkeys(names[t] for t in wanted))
    return args


def attempt(downloader: Downloader, task: Task) -> int:
    """Get one task; prints what came of it and returns an exit code."""
    try:
        tqdm.write(downloader.get(task))
        return 0
    except UserError as error:
        problem, code = str(error), 2
    except DownloadError as error:
        problem, code = str(error), 1
    except OSError as error:
        place = error.filename or downloader.data_dir
        problem, code = f"{task.name}: cannot write {place}: {error.strerror}", 1
    if not downloader.stop.is_set():
        tqdm.write(f"download_glue_data.py: {problem}", file=sys.stderr)
    return code


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    downloader = Downloader(args.data_dir, args.mirror, args.path_to_mrpc)
    tasks = [TASKS[name] for name in args.tasks]
    if args.dry_run:
        for task in tasks:
            state = "already there" if downloader.is_there(task) else "to be fetched"
            sources = " and ".join(downloader.addresses(task))
            print(f"{args.data_dir / task.name}: {state}, from {sources}")
        return 0
    with ThreadPoolExecutor(_PARALLEL) as pool:
        jobs = [pool.submit(attempt, downloader, task) for task in tasks]
        try:
            # Polled, because a thread that waits for a lock does not hear Ctrl-C everywhere.
            while not all(job.done() for job in jobs):
                time.sleep(0.1)
        except KeyboardInterrupt:
            downloader.stop.set()
            pool.shutdown(cancel_futures=True)
            return 130
    return max(job.result() for job in jobs)


if __name__ == "__main__":
    sys.exit(main())
