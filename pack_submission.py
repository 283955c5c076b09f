#!/usr/bin/env python3
"""Pack the test predictions of several runs into one file for gluebenchmark.com.

    python3 pack_submission.py --output submission.zip runs/cola runs/mnli ...

Takes predictions/*.tsv of each run's output folder (finetune_classifier.py --predict_test).

Exit codes: 0 done; 1 the file cannot be written; 2 a folder or a file is wrong.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

from bert import runtime

runtime.prepare()

from bert.errors import UserError
from bert.files import replacing
from finetuning.data.tasks import SUBMISSION_FILES


def find_predictions(folders: list[Path]) -> dict[str, Path]:
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
                raise UserError(f"{path} is not named as one of GLUE's test sets")
            if path.stem in found:
                raise UserError(f"{path} and {found[path.stem]} are of the same test set")
            if not path.read_bytes().startswith(b"index\tprediction\n"):
                raise UserError(f"{path}, line 1: the header is not index, prediction")
            found[path.stem] = path
    return found


def main(args: argparse.Namespace) -> None:
    found = find_predictions([Path(folder) for folder in args.folders])
    with (
        replacing(Path(args.output)) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, path in sorted(found.items()):
            archive.write(path, f"{name}.tsv")
    print(f"{args.output}: {', '.join(sorted(found))}")
    missing = [name for name in SUBMISSION_FILES if name not in found]
    if missing:
        print(f"the site takes eleven files; still missing: {', '.join(missing)}")


def command(argv: list[str] | None = None) -> int:
    """Run, and turn what can be foreseen into one sentence and an exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", metavar="RUN", nargs="+", help="output folder of a run")
    parser.add_argument("--output", metavar="FILE", default="submission.zip")
    args = parser.parse_args(argv)
    try:
        main(args)
    except UserError as error:
        print(f"pack_submission.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pack_submission.py: cannot write {args.output}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(command())
