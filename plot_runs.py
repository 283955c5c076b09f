#!/usr/bin/env python3
"""Draw one finished run, or several of one task: an HTML page and PNGs.

    python3 plot_runs.py output_dir --out pictures
    python3 plot_runs.py output_dir/seed-1 output_dir/seed-2 --out pictures

RUN is the output folder of a run; one with seeds or folds in it stands for all of them. The page,
index.html, needs no other file and no network: learning curves, the dev metric of each epoch (of
several runs mean and standard deviation, beside published results where there are some), confusion
matrix, reliability diagram, lengths and padding, and the most confident mistakes. The PNGs are the
same figures.

Exit codes: 0 done; 1 the disk is full, and the like; 2 a flag or a file is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys

from bert import runtime


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="%(prog)s RUN [RUN …] --out DIR [--overwrite]",
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the output folder of a run")
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder to make")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the pictures that are there"
    )
    args = parser.parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed: pip install matplotlib")
    return args


ARGUMENTS = parse_args() if __name__ == "__main__" else None
runtime.prepare()  # the readers of a run's files load MXNet

import csv
import html
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bert.errors import UserError
from bert.files import read_json, replacing
from finetuning.data.tasks import task_from_config
from finetuning.results import pictures
from finetuning.results.pictures import FinishedRun
from finetuning.training.evaluation import labels_of, logits_of

_PNG_DPI = 150


def main(args: argparse.Namespace) -> None:
    folders = [folder for run in args.runs for folder in runs_in(Path(run))]
    runs = [read_run(folder) for folder in folders]
    tasks = sorted({(run.results["task"], run.labels) for run in runs})
    if len(tasks) > 1:
        raise UserError(
            f"these runs are of different tasks ({' and '.join(task for task, _ in tasks)}): draw "
            "them one by one"
        )
    best = max(runs, key=lambda run: run.score)
    figures = pictures.draw(runs, best)
    out = Path(args.out)
    files = [out / "index.html", *(out / f"{name}.png" for name in figures)]
    if any(path.exists() for path in files) and not args.overwrite:
        raise UserError(f"{out} holds pictures already: --overwrite replaces them")
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        with replacing(out / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=_PNG_DPI)
    with replacing(out / "index.html") as temporary:
        temporary.write_text(page(runs, best, figures), encoding="utf-8")
    print(f"written to {out}: {', '.join(path.name for path in files)}")


def runs_in(folder: Path) -> list[Path]:
    """Return a run's folder, or those of the seeds or folds in it, by their numbers."""
    parts = [*folder.glob("seed-*"), *folder.glob("fold_*")]
    parts = [path for path in parts if path.is_dir()]
    return sorted(parts, key=lambda path: (len(path.name), path.name)) or [folder]


def read_run(folder: Path) -> FinishedRun:
    """Read what is to be drawn; UserError where the folder is not that of a finished run."""
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder} is no run, or has not come to its first evaluation")
    results, config = read_json(folder / "metrics.json"), read_json(folder / "config.json")
    task = task_from_config(config)
    try:
        text = (folder / "dev_predictions.tsv").read_text(encoding="utf-8")
        label, logits = labels_of(text), logits_of(text).astype(np.float64)
        if task.regression:
            label = np.array(label, np.float64)
        else:
            label = np.array([task.labels.index(name) for name in label])
        mistakes = folder / "dev_mistakes.tsv"
        rows = mistakes.read_text(encoding="utf-8") if mistakes.exists() else ""
        return FinishedRun(
            folder.name,
            {key: results[key] for key in _NEEDED},
            task.labels,
            label,
            logits,
            task.metrics[0],
            config.get("calibration", {}).get("temperature"),
            list(csv.DictReader(io.StringIO(rows), delimiter="\t")),
        )
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{folder}: its files do not fit each other ({error!r})") from None


_NEEDED = ("task", "seed", "arguments", "epochs", "best", "curve", "data")

_TITLES = {
    "learning_curves": "Learning curves",
    "dev_metric": "Dev metric of each epoch",
    "confusion": "Confusion matrix (dev)",
    "reliability": "Reliability (dev)",
    "predictions": "Predictions (dev)",
    "lengths": "Lengths and padding (train)",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 60rem;
       padding: 0 1rem; }
h1, h2 { line-height: 1.2; font-weight: 600; } h2 { margin-top: 2.5rem; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.75rem; text-align: left;
         vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
"""


def page(runs: list[FinishedRun], best: FinishedRun, figures: dict[str, Figure]) -> str:
    """Return the HTML page: self-contained, the figures as SVG in it."""
    task, metric = best.results["task"], best.metric
    several = len(runs) > 1
    scores = [run.score for run in runs]
    if several:
        headline = f"dev {metric} {np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}"
        headline += f" over {len(runs)} runs, from {min(scores):.4f} to {max(scores):.4f}"
    else:
        headline = f"dev {metric} {best.score:.4f} (epoch {best.results['best']['epoch']})"
    title = f"{task}: {len(runs)} runs" if several else f"{task}: {best.name}"
    names = list(best.results["best"]["dev"])
    summary = _table(
        ["run", "seed", "best epoch", *(f"dev {name}" for name in names)],
        [
            [run.name, run.results["seed"], run.results["best"]["epoch"]]
            + [run.results["best"]["dev"][name] for name in names]
            for run in runs
        ],
    )
    parts = [f"<h1>{_text(title)}</h1>", f"<p>{_text(headline)}</p>", summary]
    epochs, mean, deviation = pictures.metric_by_epoch(runs)
    tables = {
        "dev_metric": _table(
            ["epoch", f"dev {metric}", *(["standard deviation"] if several else [])],
            [
                [epoch, value, *([sd] if several else [])]
                for epoch, value, sd in zip(epochs, mean, deviation, strict=True)
            ],
        )
    }
    one = {"confusion", "reliability", "predictions", "lengths"}
    for name, figure in figures.items():
        whose = f", {best.name}, the best" if several and name in one else ""
        parts.append(f"<h2>{_text(_TITLES[name] + whose)}</h2>")
        parts.append(f'<figure id="{name}">{_svg(figure)}</figure>{tables.get(name, "")}')
    if best.mistakes:
        rows = [list(row.values()) for row in best.mistakes]
        whose = f" of {best.name}" if several else ""
        parts.append(f"<h2>Most confident mistakes{_text(whose)}</h2>")
        parts.append(_table(list(best.mistakes[0]), rows, "mistakes"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with pictures.mpl.rc_context(pictures.STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(header: list[str], rows: list[list], id_: str = "") -> str:
    def cell(value):
        if isinstance(value, float):
            return f'<td class="number">{value:.4f}</td>'
        kind = ' class="number"' if isinstance(value, int) else ""
        return f"<td{kind}>{_text(value)}</td>"

    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    where = f' id="{id_}"' if id_ else ""
    return f'<div class="wide"><table{where}><tr>{head}</tr>\n{body}</table></div>'


def command(args: argparse.Namespace) -> int:
    """Run, and turn what can be foreseen into one sentence and an exit code."""
    try:
        main(args)
    except UserError as error:
        print(f"plot_runs.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"plot_runs.py: cannot write {args.out}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(command(ARGUMENTS))
