"""``run.json``: the record of what a run has written into its folder, and of its flags."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from bert import schema
from bert.errors import UserError
from bert.files import read_json

RECORD = "run.json"
KINDS = {
    "single": "a run",
    "seeds": "the runs of --seeds",
    "folds": "the runs of --folds",
    "grid": "the runs of a grid",
}
# Files that a run writes and no other program is expected to have in the same folder.
RESULT_FILES = (
    "config.json",
    "vocab.txt",
    "tokenizer.json",
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
# The folders of runs in it; of a grid: lr-5e-05_epochs-3.
_CELL = r"(lr|epochs|batch_size)-[0-9.e+-]+"
PARTS = re.compile(rf"(seed-|fold_)\d+|{_CELL}(_{_CELL})*")
IDENTITY = schema.fields(
    {"arguments": schema.entries(schema.anything), "contents": schema.entries(schema.text)}
)
_RECORD = schema.fields(
    {"kind": schema.one_of(*KINDS)},
    {
        "argv": schema.items(schema.matching(r"[^\0]*")),
        "files": schema.items(schema.matching(NAMES)),
        "parts": schema.items(schema.matching(PARTS)),
        "finished": schema.optional(IDENTITY),
    },
)


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
        Folders of runs in it: one per seed, fold or cell of a grid.
    finished : dict or None
        The identity of the run (see :meth:`Run.identity`), once it has finished.
    """

    kind: str
    argv: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    finished: dict | None = None


def is_of_run(name: str) -> bool:
    """Tell whether a file in a run's folder has the name of one that belongs to the run."""
    return name in (RECORD, "train.log", ".lock") or NAMES.fullmatch(name) is not None


def read_record(folder: Path) -> Record | None:
    """Return a folder's record, or None if it has none; UserError if it is damaged."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        _RECORD(content, "")
    except ValueError as error:
        raise UserError(
            f"{path} is not the record of a run ({error}): choose another --output_dir"
        ) from None
    return Record(**{name: content[name] for name in Record.__annotations__ if name in content})


def recorded_flags(folder: Path) -> list[str]:
    """Return the flags that the run in a folder was started with; none if there is no run."""
    try:
        record = read_record(folder)
    except UserError:  # which whoever writes into the folder will raise again
        return []
    return record.argv if record else []
