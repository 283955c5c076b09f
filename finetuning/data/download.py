"""Download GLUE tasks, verify them, and lay them out as the benchmark does: a folder per task."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from tqdm import tqdm

from bert.bounds import BoundError
from bert.errors import RunError, UserError
from bert.files import replacing
from finetuning import command
from finetuning.data import bounded_http
from finetuning.data.archive import Archive
from finetuning.data.tasks import Download, Task

# The pairs of GLUE's dev split of MRPC, by their ids: GLUE's own address no longer works.
_MRPC_DEV_IDS = Path(__file__).with_name("mrpc_dev_ids.tsv")
_CHUNK_BYTES = 1 << 16
_TRIES = 5
_PARALLEL = 4
_LONGEST_PAUSE_SECONDS = 60.0
# The largest of GLUE has less than 400 MB.
_LARGEST_FILE_BYTES = 1 << 29
_BAR = {"unit": "B", "unit_scale": True, "disable": None, "leave": False}
# A later request may get another answer: timeout, unusable range, too many requests. So it may
# after all status codes from 500.
_RETRY = (408, 416, 429)
# requests' own messages are representations of objects. The first that fits is shown.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (requests.exceptions.ProxyError, "the proxy cannot be reached"),
    (requests.exceptions.SSLError, "the server's certificate is not accepted"),
    (requests.exceptions.Timeout, f"no answer within {bounded_http.TIMEOUT_SECONDS} seconds"),
    (requests.exceptions.ChunkedEncodingError, "the connection was cut"),
    (requests.exceptions.ConnectionError, "the server cannot be reached"),
    (requests.exceptions.TooManyRedirects, "the server redirects for ever"),
    (requests.exceptions.InvalidHeader, "the server's headers are wrong"),
    (ValueError, "it is, or redirects to, no valid http address"),
)


class Downloader:
    """Fetches tasks into a data folder.

    Parameters
    ----------
    data_dir : Path
    mirror : str, optional
        Address from which all files are downloaded, by their names.
    path_to_mrpc : Path, optional
        Folder with MRPC's raw files.
    pause : float
        Seconds before the second try of a download; each later pause is twice as long.
    """

    def __init__(
        self,
        data_dir: Path,
        mirror: str | None = None,
        path_to_mrpc: Path | None = None,
        pause: float = 1.0,
    ):
        self.data_dir = data_dir
        self.stop = threading.Event()  # set on Ctrl-C: all threads end at their next chunk
        self._mirror = mirror
        self._path_to_mrpc = path_to_mrpc
        self._pause = pause
        self._work = data_dir / ".download"
        self._session = bounded_http.Session()

    def source(self, download: Download) -> str:
        """Return the address of a file, or its path with ``path_to_mrpc``."""
        if folder := self._local_folder(download):
            return str(folder / download.name)
        return f"{self._mirror.rstrip('/')}/{download.name}" if self._mirror else download.url

    def _local_folder(self, download: Download) -> Path | None:
        return self._path_to_mrpc if download.name.endswith(".txt") else None

    def is_complete(self, task: Task) -> bool:
        """Tell whether all files of a task are there, with the right numbers of rows."""
        folder = self.data_dir / task.name
        try:
            return not any(wrong_rows(task, folder / name) for name in task.rows)
        except OSError:
            return False

    def plan(self, task: Task) -> str:
        """Return a line that says what :meth:`get` would do."""
        state = "already complete" if self.is_complete(task) else "to be fetched"
        sources = " and ".join(_public(self.source(download)) for download in task.downloads)
        return f"{self.data_dir / task.name}: {state}, from {sources}"

    def get(self, task: Task) -> None:
        """Fetch, verify and lay out a task, and print a line about it.

        Raises
        ------
        RunError, UserError, SaveError
            The folder that was there before, if any, is unchanged.
        """
        if self.is_complete(task):
            tqdm.write(f"{task.name}: already complete")
            return
        folder, old = self.data_dir / task.name, self._work / f"{task.name}.{os.getpid()}.old"
        try:
            with replacing(folder) as new:
                self._work.mkdir(parents=True, exist_ok=True)
                new.mkdir()
                self._lay_out(task, [self._fetched(download) for download in task.downloads], new)
                for name in task.rows:
                    if wrong := wrong_rows(task, new / name):
                        raise RunError(f"{task.name}: {wrong}: the published files have changed")
                if folder.exists():
                    folder.rename(old)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        for download in task.downloads:
            (self._work / download.name).unlink(missing_ok=True)
        rows = ", ".join(f"{name} {count}" for name, count in task.rows.items())
        tqdm.write(f"{task.name}: {rows} rows")

    def _fetched(self, download: Download) -> Path:
        """Return the path of a verified file, downloaded if need be."""
        if folder := self._local_folder(download):
            path = folder / download.name
            try:
                wrong = wrong_checksum(download, path)
            except OSError as error:
                raise UserError(f"--path_to_mrpc: cannot read {path}: {error.strerror}") from None
            if wrong:
                raise UserError(f"{path} {wrong}: download it again or check the source")
            return path
        return self.fetch(download)

    def _lay_out(self, task: Task, files: list[Path], folder: Path) -> None:
        if task.name == "MRPC":
            train, test = files
            write_mrpc(train, test, folder)
        elif files[0].suffix == ".zip":
            self._unpack(task, files[0], folder)
        else:
            self._check_space(files[0].stat().st_size)
            shutil.copyfile(files[0], folder / files[0].name)

    def _unpack(self, task: Task, path: Path, folder: Path) -> None:
        (address,) = map(self.source, task.downloads)
        try:
            with Archive(path) as archive:
                if missing := archive.find(task.rows):
                    lacks = f"{_public(address)} lacks {', '.join(missing)}"
                    raise RunError(f"{lacks}: the published file has changed")
                self._check_space(archive.size())
                archive.unpack(folder)
        except (RunError, OSError):
            raise
        except Exception as error:  # zipfile raises many kinds for what it cannot read
            path.unlink()
            why = str(error) or type(error).__name__
            raise RunError(
                f"{_public(address)} is damaged ({why}): run the command again, or pass --mirror "
                "URL of another server"
            ) from None

    def fetch(self, download: Download) -> Path:
        """Download a file to the work folder, continuing an earlier try, and verify it.

        Raises
        ------
        RunError
            The server refuses, or cannot be reached in several tries; or the file is not the
            published one.
        """
        address = self.source(download)
        path, part = self._work / download.name, self._work / f"{download.name}.part"
        pause = self._pause
        for remaining in reversed(range(_TRIES)):
            try:
                self._try(address, part)
                break
            except (requests.RequestException, BoundError) as error:
                if part.exists() and part.stat().st_size > _LARGEST_FILE_BYTES:
                    part.unlink()
                if not remaining or _is_final(error):
                    raise RunError(_why(error, address)) from None
                if self.stop.wait(_pause_asked_for(error) or pause):
                    raise RunError("interrupted") from None
                pause *= 2
        if wrong := wrong_checksum(download, part):
            part.unlink()
            raise RunError(f"{_public(address)} {wrong}: download it again or check the source")
        part.replace(path)
        return path

    def _try(self, address: str, part: Path) -> None:
        """Make one request, for what is missing of ``part``."""
        # The version of the file that the part is of: the server continues only the same one.
        validator_file = part.with_suffix(".validator")
        have = part.stat().st_size if part.exists() and validator_file.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator_file.read_text()}
        with self._session.open(address, headers) as response:
            if response.status_code == 416:  # the part is not a beginning of the file: start over
                part.unlink(missing_ok=True)
            response.raise_for_status()
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise BoundError("the server compresses what it sends, although asked not to")
            if response.status_code != 206:
                have = 0
            length = _whole_number(response.headers.get("Content-Length"))
            total = None if length is None else have + length
            _check_length(total or 0)
            self._check_space(length or 0)
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if validator and not validator.startswith("W/"):
                validator_file.write_text(validator)
            else:
                validator_file.unlink(missing_ok=True)
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(total=total, initial=have, desc=part.stem, **_BAR) as bar,
            ):
                for chunk in response.iter_content(_CHUNK_BYTES):
                    if self.stop.is_set():
                        raise RunError("interrupted")
                    file.write(chunk)
                    bar.update(len(chunk))
                    _check_length(file.tell())
        if total is not None and part.stat().st_size != total:
            raise requests.exceptions.ChunkedEncodingError

    def _check_space(self, size: int) -> None:
        free = shutil.disk_usage(self._work).free
        if size > free:
            raise RunError(
                f"{self.data_dir}: {size:,} bytes are needed and {free:,} are free: free some space"
            )


def download_tasks(program: str, tasks: Sequence[Task], downloader: Downloader) -> int:
    """Fetch tasks side by side; a failure does not stop the others. Returns the exit code."""
    with ThreadPoolExecutor(_PARALLEL) as pool:
        jobs = [pool.submit(downloader.get, task) for task in tasks]
        try:
            # A thread that waits for a lock does not see Ctrl-C on every system.
            while not all(job.done() for job in jobs):
                time.sleep(0.1)
        except KeyboardInterrupt:
            downloader.stop.set()
            pool.shutdown(cancel_futures=True)
            return 130  # as a shell reports SIGINT
    return max(command.run(program, job.result) for job in jobs)


def _check_length(size: int) -> None:
    """Raise BoundError for a file that cannot be one of GLUE's."""
    if size > _LARGEST_FILE_BYTES:
        raise BoundError(f"it has more than {_LARGEST_FILE_BYTES:,} bytes")


def _whole_number(text: str | None) -> int | None:
    """Return the number in a header; None if there is none."""
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None


def _public(address: str) -> str:
    """Return an address without the password that it may have."""
    return re.sub("//[^/]*@", "//", address, count=1)


def _is_final(error: requests.RequestException | BoundError) -> bool:
    """Tell whether trying again is useless."""
    if isinstance(error, BoundError):
        return True
    if error.response is None:
        # The address itself is wrong.
        return isinstance(error, (ValueError, requests.exceptions.TooManyRedirects))
    return error.response.status_code < 500 and error.response.status_code not in _RETRY


def _pause_asked_for(error: requests.RequestException | BoundError) -> float | None:
    """Return the seconds after which the server wants to be asked again, if it says so."""
    if isinstance(error, BoundError) or error.response is None:
        return None
    asked = _whole_number(error.response.headers.get("Retry-After"))
    return None if asked is None else min(asked, _LONGEST_PAUSE_SECONDS)


def _why(error: requests.RequestException | BoundError, address: str) -> str:
    """Return a sentence about a failed download: what is wrong, and what to do."""
    if isinstance(error, BoundError):
        reason, check = str(error), ""
    elif error.response is not None:
        reason, check = f"the server answers {error.response.status_code}", ""
    else:
        reasons = (reason for kind, reason in _REASONS if isinstance(error, kind))
        reason = next(reasons, type(error).__name__)
        check = "check the network (behind a proxy, set HTTPS_PROXY), or "
    local = ", or --path_to_mrpc DIR with a folder of these files" * address.endswith(".txt")
    where = _public(address)
    return f"cannot download {where}: {reason}; {check}pass --mirror URL of another server{local}"


def wrong_checksum(download: Download, path: Path) -> str | None:
    """Return None if a file has the known checksums, otherwise which one differs."""
    known = {"MD5": download.md5, "SHA-256": download.sha256}
    digests = {
        name: hashlib.new(name.replace("-", ""), usedforsecurity=False)
        for name, checksum in known.items()
        if checksum
    }
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            for digest in digests.values():
                digest.update(chunk)
    for name, digest in digests.items():
        if digest.hexdigest() != known[name]:
            return f"does not match the published file (its {name} is not {known[name]})"
    return None


def wrong_rows(task: Task, path: Path) -> str | None:
    """Return None if a file has the task's number of rows, otherwise the number it has."""
    rows, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            rows += chunk.count(b"\n")
            last = chunk[-1:]
    rows += last != b"\n"  # a last line without its end
    rows -= task.has_header(path.name)
    if abs(rows - task.rows[path.name]) <= task.malformed_rows:
        return None
    return f"{path.name} has {rows} rows and not {task.rows[path.name]}"


def write_mrpc(train: Path, test: Path, folder: Path) -> None:
    """Write train.tsv, dev.tsv and test.tsv from Microsoft's files as GLUE has them."""

    def rows_of(path: Path) -> list[list[str]]:  # five fields each; nothing is quoted
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
        return [line.rstrip("\r").split("\t") for line in lines[1:] if line.strip()]

    dev_ids = {tuple(line.split("\t")) for line in _MRPC_DEV_IDS.read_text().splitlines()}
    strings = ["#1 ID", "#2 ID", "#1 String", "#2 String"]
    rows = {
        "train.tsv": [["Quality", *strings]],
        "dev.tsv": [["Quality", *strings]],
        "test.tsv": [["index", *strings]],
    }
    for row in rows_of(train):
        rows["dev.tsv" if (row[1], row[2]) in dev_ids else "train.tsv"].append(row)
    for index, row in enumerate(rows_of(test)):
        rows["test.tsv"].append([str(index), *row[1:]])
    for name, content in rows.items():
        text = "".join("\t".join(row) + "\n" for row in content)
        (folder / name).write_bytes(text.encode())
