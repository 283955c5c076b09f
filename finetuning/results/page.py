"""The HTML page and PNGs of finished runs: the work of plot_runs.py."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bert.errors import RunError, UserError
from bert.files import contains, replacing
from bert.terminal import say, shown
from finetuning.console import table
from finetuning.output import folder_target
from finetuning.results import pictures
from finetuning.results.finished_run import FinishedRun, read_run, runs_in
from finetuning.results.metrics import rank

_LONGEST_CELL = 5000  # characters
_MOST_CONFUSIONS = 30
# Tells a page of this program from a user's own.
_MARK = '<meta name="generator" content="plot_runs.py">'


def write(folders: Sequence[str], output_dir: Path, overwrite: bool) -> None:
    """Draw runs of one task into ``output_dir``: ``index.html`` and PNGs.

    Raises
    ------
    UserError
        A folder is not that of a finished run, the runs are of different tasks, or
        ``output_dir`` may not be written.
    """
    paths = [folder.resolve() for run in folders for folder in runs_in(Path(run))]
    paths = list(dict.fromkeys(paths))  # a run that is given twice counts once
    folder = folder_target(output_dir, [*map(Path, folders), *paths], overwrite, is_page)
    runs = [read_run(path) for path in paths]
    _refuse_different_tasks(runs)
    best = max(runs, key=lambda run: rank(run.results["best"]["dev"], run.metric))
    names = "".join(text for run in runs for text in (run.name, *run.labels))
    families, drawable = pictures.fonts_for(names)
    drawn = [pictures.with_names(run, drawable) for run in runs]
    figures = pictures.draw(drawn, pictures.with_names(best, drawable), families)
    pngs = {f"{name}.png": pictures.png(figure) for name, figure in figures.items()}
    figures = pictures.draw([*map(pictures.with_names, runs)], pictures.with_names(best))
    # The page comes first: it marks the folder as ours.
    files = {"index.html": page(runs, best, figures).encode(), **pngs}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {output_dir}: {error.strerror}") from None
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    for name in _TITLES.keys() - figures.keys():
        (folder / f"{name}.png").unlink(missing_ok=True)
    if len(runs) > 1:
        say(comparison(runs))
    say(shown(f"written to {output_dir}: {', '.join(files)}"))


def comparison(runs: list[FinishedRun]) -> str:
    """Return a table of runs: the arguments that differ, the best epoch's scores, seconds."""
    arguments = [run.results["arguments"] for run in runs]
    names = dict.fromkeys(name for values in arguments for name in values)
    differing = [n for n in names if len({str(values.get(n)) for values in arguments}) > 1]
    metrics = list(runs[0].results["best"]["dev"])
    rows = [
        [
            run.name,
            *(str(values.get(name, "")) for name in differing),
            run.results["best"]["epoch"],
            *(run.results["best"]["dev"].get(name, "") for name in metrics),
            f"{sum(row['seconds'] for row in run.results['epochs']):.0f}",
        ]
        for run, values in zip(runs, arguments, strict=True)
    ]
    header = ["run", *differing, "best epoch", *(f"dev {name}" for name in metrics), "seconds"]
    return table(header, rows)


def is_page(folder: Path) -> bool:
    """Tell whether a folder holds what this command wrote earlier."""
    return contains(folder / "index.html", _MARK)


def _refuse_different_tasks(runs: list[FinishedRun]) -> None:
    first = runs[0]
    for run in runs:
        for what, one, other in (
            ("task", first.results["task"], run.results["task"]),
            ("labels", ", ".join(first.labels), ", ".join(run.labels)),
            ("metrics", ", ".join(first.metrics), ", ".join(run.metrics)),
        ):
            if one != other:
                raise UserError(
                    f"these runs are of different tasks: the {what} of {first.name} and {run.name} "
                    f"differ ({one}; {other}): draw them one by one"
                )


_TITLES = {
    "learning_curves": "Learning curves",
    "dev_metric": "Dev metric of each epoch",
    "confusion": "Confusion matrix (dev)",
    "label_f1": "F1 of each label (dev)",
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
    """Return the self-contained HTML page, with the figures as SVG."""
    several = len(runs) > 1
    task = best.results["task"]
    title = f"{task}: {len(runs)} runs" if several else f"{task}: {best.name}"
    parts = [f"<h1>{_text(title)}</h1>", f"<p>{_text(_headline(runs, best))}</p>"]
    parts.append(_table_of_runs(runs))
    of_best = f", {best.name}, the best" if several else ""
    for name, figure in figures.items():
        whose = "" if name in pictures.OF_ALL_RUNS else of_best
        below = _table_of_epochs(runs) if name == "dev_metric" else ""
        parts.append(f"<h2>{_text(_TITLES[name] + whose)}</h2>")
        parts.append(f'<figure id="{name}">{pictures.svg(figure)}</figure>{below}')
    if len(best.labels) > pictures.MOST_LABELS and not best.multi_label:
        parts.append(f"<h2>Most frequent confusions (dev){_text(of_best)}</h2>")
        parts.append(_table(["true", "predicted", "examples"], _confusions(best), "confusions"))
    if best.mistakes:
        whose = f" of {best.name}" if several else ""
        parts.append(f"<h2>Most confident mistakes{_text(whose)}</h2>")
        rows = [list(row.values()) for row in best.mistakes]
        parts.append(_table(list(best.mistakes[0]), rows, "mistakes"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'{_MARK}<meta name="viewport" content="width=device-width">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _headline(runs: list[FinishedRun], best: FinishedRun) -> str:
    scores = [run.score for run in runs]
    if len(runs) == 1:
        return f"dev {best.metric} {best.score:.4f} (epoch {best.results['best']['epoch']})"
    return (
        f"dev {best.metric} {np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f} over {len(runs)} "
        f"runs, from {min(scores):.4f} to {max(scores):.4f}"
    )


def _table_of_runs(runs: list[FinishedRun]) -> str:
    names = runs[0].metrics
    rows = []
    for run in runs:
        epoch = run.results["best"]
        metrics = [epoch["dev"][name] for name in names]
        rows.append([run.name, run.results["seed"], epoch["epoch"], *metrics])
    return _table(["run", "seed", "best epoch", *(f"dev {name}" for name in names)], rows)


def _confusions(run: FinishedRun) -> list[list[object]]:
    predicted = run.logits.argmax(axis=1)
    pairs = np.stack([run.label, predicted], axis=1)[predicted != run.label]
    confused, counts = np.unique(pairs, axis=0, return_counts=True)
    descending = np.argsort(-counts, kind="stable")[:_MOST_CONFUSIONS]
    rows = zip(confused[descending].tolist(), counts[descending].tolist(), strict=True)
    return [[run.labels[i], run.labels[j], count] for (i, j), count in rows]


def _table_of_epochs(runs: list[FinishedRun]) -> str:
    header = ["epoch", f"dev {runs[0].metric}", "standard deviation"]
    columns = header if len(runs) > 1 else header[:2]
    rows = zip(*pictures.metric_by_epoch(runs), strict=True)
    return _table(columns, [row[: len(columns)] for row in rows])


def _text(value: object) -> str:
    return html.escape(shown(value, _LONGEST_CELL))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]], id_: str = "") -> str:
    def cell(value: object) -> str:
        if isinstance(value, float):
            return f'<td class="number">{value:.4f}</td>'
        kind = ' class="number"' if isinstance(value, int) else ""
        return f"<td{kind}>{_text(value)}</td>"

    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    where = f' id="{id_}"' if id_ else ""
    return f'<div class="wide"><table{where}><tr>{head}</tr>\n{body}</table></div>'
