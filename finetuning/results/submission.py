"""One file for gluebenchmark.com from the test predictions of several runs."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from bert.errors import UserError
from bert.files import replacing
from finetuning.data.tasks import SUBMISSION_FILES


def pack(folders: Iterable[str], output: Path) -> None:
    """Pack ``predictions/*.tsv`` of these runs, and print which test sets are in the file.

    Raises
    ------
    UserError
        A run has no predictions, or two runs predict the same test set.
    """
    found = find_predictions(map(Path, folders))
    with (
        replacing(output) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, path in sorted(found.items()):
            archive.write(path, f"{name}.tsv")
    print(f"written to {output}: {', '.join(sorted(found))}")
    missing = [name for name in SUBMISSION_FILES if name not in found]
    if missing:
        print(
            f"gluebenchmark.com expects {len(SUBMISSION_FILES)} files; still missing: "
            f"{', '.join(missing)}"
        )


def find_predictions(folders: Iterable[Path]) -> dict[str, Path]:
    """Return {name at gluebenchmark.com: file}; UserError where two runs have the same."""
    found: dict[str, Path] = {}
    for folder in folders:
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
            if not path.read_bytes().startswith(b"index\tprediction\n"):
                raise UserError(f"{path}, line 1: the header is not index, prediction")
            found[path.stem] = path
    return found
