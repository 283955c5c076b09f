"""One file for gluebenchmark.com from the test predictions of several runs."""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from bert.errors import UserError
from bert.files import read_bytes
from bert.terminal import say, shown
from finetuning.data.tasks import DOWNLOADABLE, SUBMISSION_FILES, Task
from finetuning.output import file_target, write_file


def pack(folders: Iterable[str], output: Path, overwrite: bool) -> None:
    """Pack ``predictions/*.tsv`` of these runs, and print which test sets are in the file.

    Raises
    ------
    UserError
        A run has no predictions or damaged ones, two runs predict the same test set, or the
        output may not be written over.
    """
    runs = list(map(Path, folders))
    found = find_predictions(runs)
    files_of_runs = (path for run in runs for path in run.iterdir())
    target = file_target(output, [*found.values(), *files_of_runs], overwrite)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(found.items()):
            archive.write(path, f"{name}.tsv")
    write_file(target, packed.getvalue())
    report = sys.stderr if target.stream else sys.stdout
    say(shown(f"written to {output}: {', '.join(sorted(found))}"), report)
    for name, path in sorted(found.items()):
        rows = read_bytes(path).count(b"\n") - 1
        task = _task_of(name)
        if rows != (expected := task.rows[task.test_files[name]]):
            sentence = f"{path} has {rows} predictions; GLUE's test set has {expected} rows"
            say(shown(f"warning: {sentence}"), sys.stderr)
    missing = [name for name in SUBMISSION_FILES if name not in found]
    if missing:
        say(
            f"gluebenchmark.com expects {len(SUBMISSION_FILES)} files; still missing: "
            f"{', '.join(missing)}",
            report,
        )


def find_predictions(folders: Iterable[Path]) -> dict[str, Path]:
    """Return {name at gluebenchmark.com: file}; UserError where two runs have the same."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
        files = sorted((folder / "predictions").glob("*.tsv"))
        if not files:
            raise UserError(
                f"{folder / 'predictions'} has no predictions: run finetune_classifier.py with "
                "--predict_test"
            )
        for path in files:
            if path.stem not in SUBMISSION_FILES:
                raise UserError(f"{path}: GLUE has no test set {path.stem}")
            if path.stem in found:
                raise UserError(f"{path} and {found[path.stem]} are of the same test set")
            _check_rows(path)
            found[path.stem] = path
    return found


def _task_of(name: str) -> Task:
    return next(task for task in DOWNLOADABLE.values() if name in task.test_files)


def _check_rows(path: Path) -> None:
    """Raise UserError unless a file has the rows 0, 1, ... and predictions of its task."""
    lines = read_bytes(path).decode(errors="replace").split("\n")
    if lines[0] != "index\tprediction":
        raise UserError(f"{path}, line 1: the header is not index, prediction")
    if lines.pop() or len(lines) == 1:
        raise UserError(f"{path}, line {len(lines) + 1}: the file was cut off")
    task = _task_of(path.stem)
    for index, line in enumerate(lines[1:]):
        number, _, prediction = line.partition("\t")
        if number != str(index) or not _is_prediction(prediction, task):
            raise UserError(
                f"{path}, line {index + 2}: not the row {index} with a prediction of {task.name}"
            )


def _is_prediction(text: str, task: Task) -> bool:
    if not task.regression:
        return text in task.labels
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
