"""A run's folder: its lock, and ``run.json``, the record of what the run has written there."""

from __future__ import annotations

import fcntl
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from bert.errors import UserError, reason
from bert.files import open_own, read_json, refuse_foreign, write_json
from finetuning.console import log
from finetuning.options import Options
from finetuning.training.record import (
    KINDS,
    NAMES,
    PARTS,
    RECORD,
    Record,
    read_record,
)

# Files that a run appends to, where a link would lead it elsewhere. All others are replaced.
_IN_PLACE = ("train.log", ".lock")
# Files of a run that never replace another program's.
_UNHARMED = re.compile(r"README\.md$|checkpoint-|events\.")
# The temporary names of bert.files.replacing for files of a run.
_HALF_WRITTEN = re.compile(r"\.[a-z_0-9-]+\.(params|json|tsv|txt)\.\d+\.tmp")


def find_run(folder: Path) -> Record | None:
    """Return the record of the run in a folder, also of one from before there were records."""
    record = read_record(folder)
    if record or not folder.is_dir():
        return record
    parts = [path for path in folder.iterdir() if PARTS.fullmatch(path.name)]
    if _is_old_run(folder) or any(map(_is_old_run, parts)):
        names = [path.name for path in folder.iterdir() if path.is_file()]
        files = [name for name in names if NAMES.fullmatch(name) and name != "README.md"]
        kind = parts[0].name.partition("-")[0].partition("_")[0] if parts else ""
        kinds = {"seed": "seeds", "fold": "folds"}
        return Record(kinds.get(kind, "single"), files=files, parts=[path.name for path in parts])
    return None


def _is_old_run(folder: Path) -> bool:
    """Tell whether a folder has what only this project's runs have."""
    if any(re.fullmatch(r"checkpoint-\d+\.params", path.name) for path in folder.glob("check*")):
        return True
    with suppress(UserError):
        return {"task_name", "sha256"} <= set(read_json(folder / "config.json"))
    return False


def claim(folder: Path, *names: str) -> None:
    """Record that the run is about to write these files, or folders of seeds and folds."""
    record = read_record(folder) or Record("single")
    new = [name for name in names if name not in record.files and name not in record.parts]
    if new:
        record.parts += filter(PARTS.fullmatch, new)
        record.files += filter(NAMES.fullmatch, new)
        write_json(folder / RECORD, asdict(record))


def finish(folder: Path, identity: dict) -> None:
    """Record that the run has finished."""
    record = read_record(folder) or Record("single")
    record.finished = identity
    write_json(folder / RECORD, asdict(record))


def check(folder: Path, kind: str, resume: bool, overwrite: bool) -> Record | None:
    """Return the record of the run in the folder; UserError if a new one may not be written there.

    Parameters
    ----------
    folder : Path
    kind : str
        Of the run that is to be written or resumed, see :data:`KINDS`.
    resume, overwrite : bool
        The flags.
    """
    record = find_run(folder)
    if record and not (resume or overwrite):
        raise UserError(
            f"{folder} already holds a run: pass --resume to continue it, --overwrite to replace "
            "it, or choose another --output_dir"
        )
    foreign = _foreign(folder, record)
    if foreign:
        raise UserError(
            f"{folder} holds {', '.join(foreign)}, which no run has written: choose another "
            "--output_dir"
        )
    if record and resume and record.kind != kind:
        raise UserError(
            f"--resume: {folder} holds {KINDS[record.kind]}, not {KINDS[kind]}: use the flags that "
            "it was started with, or choose another --output_dir"
        )
    return record


def _foreign(folder: Path, record: Record | None) -> list[str]:
    """Return the names of files that a run may write and that the one in the folder has not."""
    names = [RECORD] if record is None and (folder / RECORD).exists() else []
    names += [path.name for path in folder.glob("*") if NAMES.fullmatch(path.name)]
    names += [f"predictions/{path.name}" for path in folder.glob("predictions/*.tsv")]
    own = record.files if record else []
    return sorted(name for name in names if name not in own and not _UNHARMED.match(name))


def check_inputs(folder: Path, inputs: Iterable[Path | None]) -> None:
    """Raise UserError if an input has the name of a file that a run writes or deletes there."""
    for path in filter(None, inputs):
        within, _, name = str(path.resolve()).partition(f"{folder.resolve()}/")
        while PARTS.fullmatch(name.partition("/")[0]):
            name = name.partition("/")[2]
        if not within and NAMES.fullmatch(name):
            raise UserError(
                f"{path} is an input of this command and has the name of a file that it writes: "
                "choose another --output_dir"
            )


def check_results(folder: Path, *patterns: str) -> None:
    """Raise UserError if there are files that an evaluation would replace."""
    for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
        raise UserError(f"{path} already exists: move it away, or choose another --output_dir")


def begin(folder: Path, kind: str, options: Options) -> None:
    """Make a folder the run's own: with --overwrite, first delete what an earlier run wrote.

    A run that is resumed keeps its record; of one from before there were records it is written.
    """
    before = find_run(folder)
    if before and options.overwrite:
        remove(folder, before)
        before = None
    if read_record(folder) is None:
        record = before or Record(kind, list(options.argv))
        write_json(folder / RECORD, asdict(record))


def remove(folder: Path, record: Record) -> None:
    """Delete what a run has written and nothing else; links are not followed."""
    for name in record.parts:
        part = folder / name
        if _is(part, stat.S_ISDIR) and (inner := find_run(part)):
            remove(part, inner)
            for own in ("train.log", ".lock"):
                (part / own).unlink(missing_ok=True)
            with suppress(OSError):  # somebody else's files are in it
                part.rmdir()
    for name in (*record.files, RECORD):
        path = folder / name
        inside = path.parent == folder or _is(path.parent, stat.S_ISDIR)
        if inside and _is(path, stat.S_ISREG):
            path.unlink()
    with suppress(OSError):
        (folder / "predictions").rmdir()


def _is(path: Path, kind) -> bool:
    """Tell of what kind a path is, without following a link."""
    try:
        return kind(path.lstat().st_mode)
    except OSError:
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run's folder and keep every other process from writing to it.

    The lock is the kernel's: it ends with the process, however that ends. A file system without
    locks costs a warning only. What a killed process has half written is removed.

    Raises
    ------
    UserError
        The folder cannot be written, or another process has locked it; or a link in it leads to
        a place that a run would write to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name in _IN_PLACE:
                refuse_foreign(path)
            elif path.is_symlink() and (path.name == "predictions" or PARTS.fullmatch(path.name)):
                raise UserError(f"{path} is a link to another folder: move it away")
        lock = open_own(folder / ".lock")
    except OSError as error:
        raise UserError(f"cannot write to the output folder {folder}: {reason(error)}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.iterdir():
                if _HALF_WRITTEN.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        except BlockingIOError:
            raise UserError(
                f"another process is writing to {folder}: wait for it, or choose another "
                "--output_dir"
            ) from None
        except OSError as error:
            log.warning(f"warning: cannot lock {folder} ({error.strerror}): run no other there")
        yield
