"""What is printed during a run: log lines, progress bar, tables; and ``train.log``."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from bert.files import open_own
from bert.terminal import say, shown

if TYPE_CHECKING:  # to print a sentence must not load MXNet
    from finetuning.training.trainer import Progress

log = logging.getLogger("finetune")
# Tables wider than a common terminal would wrap into nonsense.
_COLUMNS = 80
# Characters; what is longer loses its middle.
_LONGEST_CELL, _LONGEST_LINE, _LONGEST_TABLE = 60, 2000, 100_000


class _Screen(logging.Handler):
    """Prints on standard output above a progress bar."""

    def emit(self, record):
        say(self.format(record))


class _LogFile(logging.FileHandler):
    """Appends to a file, and never through a link."""

    def _open(self):
        return open_own(Path(self.baseFilename), "a", encoding="utf-8")


class _Shown(logging.Formatter):
    """Makes other people's text visible.

    A message is one line, unless it begins with an empty one or its record has ``lines``: then it
    was put together from parts of one line each, such as the cells of a table.
    """

    def formatMessage(self, record):
        lines = record.message.startswith("\n") or getattr(record, "lines", False)
        keep = "\n" if lines else ""
        record.message = shown(record.message, _LONGEST_TABLE if keep else _LONGEST_LINE, keep)
        return super().formatMessage(record)


def start_logging(log_file: Path | None) -> None:
    """Send the log to standard output, and with times to ``log_file``, to which it is appended."""
    log.setLevel(logging.DEBUG)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # what it could not write it cannot flush either
            handler.close()
    logging.raiseExceptions = False  # a log that cannot be written does not stop a run
    screen = _Screen()
    screen.setLevel(logging.INFO)
    screen.setFormatter(_Shown())
    log.addHandler(screen)
    if log_file:
        file = _LogFile(log_file, encoding="utf-8", delay=True)
        file.setFormatter(_Shown("%(asctime)s %(message)s"))
        log.addHandler(file)


class ProgressReport:
    """Shows progress: a bar on a terminal, otherwise a line every ``log_interval`` updates.

    ``train.log`` gets the lines in both cases. Use as a context manager.
    """

    def __init__(self, total_updates: int, done: int, log_interval: int):
        self._total = total_updates
        self._log_interval = log_interval
        self._live = sys.stderr.isatty()
        self._bar = tqdm(
            total=total_updates, initial=done, unit="update", disable=not self._live, leave=False
        )
        self._loss = 0.0
        self._examples = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()

    def __call__(self, progress: Progress) -> None:
        if progress.problem:
            log.info(f"skipped   {progress.problem}")
        else:
            self._loss += progress.loss * progress.examples
            self._examples += progress.examples
        self._bar.update()
        self._bar.set_description(f"epoch {progress.epoch}", refresh=False)
        self._bar.set_postfix_str(
            f"loss {progress.loss:.4f}, lr {progress.lr:.2e}, "
            f"{progress.samples_per_second:.1f} samples/s"
        )
        if progress.update % self._log_interval and progress.update != self._total:
            return
        log.log(
            logging.DEBUG if self._live else logging.INFO,
            f"epoch {progress.epoch}, update {progress.update}/{self._total}: "
            f"loss {self._loss / self._examples if self._examples else math.nan:.4f}, "
            f"lr {progress.lr:.3g}, "
            f"gradient norm {progress.gradient_norm:.3g}, "
            f"{progress.samples_per_second:.1f} samples/s",
        )
        self._loss, self._examples = 0.0, 0


def log_header(title: str, text: str) -> None:
    """Print a line of a run's header: a title of up to nine characters, and wrapped text."""
    layout = textwrap.TextWrapper(
        _COLUMNS,
        initial_indent=title.ljust(10),
        subsequent_indent=" " * 10,
        break_long_words=False,
        break_on_hyphens=False,
    )
    log.info(layout.fill(shown(text, _LONGEST_LINE)), extra={"lines": True})


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as text in aligned columns; floats with four decimals."""
    cells = [
        [f"{x:.4f}" if isinstance(x, float) else shown(x, _LONGEST_CELL) for x in row]
        for row in (header, *rows)
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def log_scores(scores: dict[str, float]) -> None:
    """Print metrics, a column each."""
    log.info("\n" + table(list(scores), [list(scores.values())]))


def log_classes(results: dict) -> None:
    """Print scores and confusions per label, as :func:`metrics.by_class` returns them."""
    from finetuning.results.metrics import to_show  # SciPy comes with it

    classes, confusions = results["per_class"], results.get("confusion_matrix")
    header = ["label", "precision", "recall", "f1", "examples"]
    rows = [[name, *scores.values()] for name, scores in to_show(classes).items()]
    if confusions is None:
        log.info("\n" + table(header, rows))
        if len(rows) < len(classes):
            log.info(
                f"the {len(rows)} of {len(classes)} labels with the lowest f1; all: metrics.json"
            )
        return
    predicted = [f"predicted {name}" for name in classes]
    together = table(
        [*header, *predicted],
        [[*row, *counts] for row, counts in zip(rows, confusions, strict=True)],
    )
    if _fits(together):
        log.info("\n" + together)
        return
    log.info("\n" + table(header, rows))
    confused = [[name, *counts] for name, counts in zip(classes, confusions, strict=True)]
    apart = table(["label \\ predicted", *classes], confused)
    if _fits(apart):  # otherwise it is in metrics.json
        log.info("\n" + apart)


def _fits(text: str) -> bool:
    return len(text.splitlines()[0]) <= _COLUMNS


def log_epochs(results: dict, metric: str) -> None:
    """Print the table of epochs, and which is the best by ``metric``."""
    best = results["best"]
    rows = [
        [
            f"{row['epoch']}{'*' if row['epoch'] == best['epoch'] else ''}",
            row["train_loss"],
            *row["dev"].values(),
            f"{row['seconds']:.1f}",
            f"{row['samples_per_second']:.1f}",
        ]
        for row in results["epochs"]
    ]
    columns = [f"dev {name}" for name in best["dev"]]
    log.info("\n" + table(["epoch", "train loss", *columns, "seconds", "samples/s"], rows))
    if "per_class" in best:
        log_classes(best)
    log.info(
        f"* best dev {metric}: {best['dev'][metric]:.4f} (epoch {best['epoch']}); model.params and "
        "dev_predictions.tsv are from that epoch"
    )
