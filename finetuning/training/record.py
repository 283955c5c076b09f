"""``run.json``: the record of what a run has written into its folder, and of its flags."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from bert.errors import UserError
from bert.files import read_json

RECORD = "run.json"
KINDS = {"single": "a run", "seeds": "the runs of --seeds", "folds": "the runs of --folds"}
# Files that a run writes and no other program is expected to have in the same folder.
RESULT_FILES = (
    "config.json",
    "vocab.txt",
    "model.params",
    "dev_predictions.tsv",
    "dev_predictions_mm.tsv",
    "dev_mistakes.tsv",
    "dev_examples.params",
    "metrics.json",
)
# All that a run may write. A record is read from a file, so no other name is taken from it.
NAMES = re.compile(
    "|".join(map(re.escape, RESULT_FILES))
    + r"|eval_metrics\.json|test_predictions\.tsv|skipped_rows\.tsv|README\.md"
    r"|predictions/[A-Za-z0-9-]+\.tsv|checkpoint-\d+\.params|events\.out\.tfevents\.[\w.-]+"
)
PARTS = re.compile(r"(seed-|fold_)\d+")


@dataclass
class Record:
    """What a run has written into its folder.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS`.
    argv : list of str
        The flags that the run was started with.
    files : list of str
        Paths relative to the folder. ``train.log`` is not among them: it is kept.
    parts : list of str
        Folders of runs in it: one per seed or fold.
    finished : dict or None
        The identity of the run (see :meth:`Run.identity`), once it has finished.
    """

    kind: str
    argv: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    finished: dict | None = None


def read_record(folder: Path) -> Record | None:
    """Return a folder's record, or None if it has none; UserError if it is damaged."""
    path = folder / RECORD
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        record = Record(**content)
        whole = record.kind in KINDS and all(map(NAMES.fullmatch, record.files))
        whole = whole and all(map(PARTS.fullmatch, record.parts))
        whole = whole and all(isinstance(text, str) for text in record.argv)
        whole = whole and isinstance(record.finished, (dict, type(None)))
    except TypeError:
        whole = False
    if not whole:
        raise UserError(f"{path} is not the record of a run: choose another --output_dir")
    return record


def recorded_flags(folder: Path) -> list[str]:
    """Return the flags that the run in a folder was started with; none if there is no run."""
    try:
        argv = json.loads((folder / RECORD).read_text(encoding="utf-8"))["argv"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return argv if isinstance(argv, list) and all(isinstance(x, str) for x in argv) else []
