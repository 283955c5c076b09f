"""Pictures of finished runs: each function draws one figure and returns it."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import expit, softmax

from bert.terminal import shown
from finetuning.results import calibration
from finetuning.results.finished_run import FinishedRun

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#777777"
_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
# Published dev results, drawn for comparison where task and numbers of examples are theirs:
# (task, metric, train, dev) -> (from, to, legend).
PUBLISHED = {("MRPC", "accuracy", 3668, 408): (0.84, 0.88, "BERT base, as published: 0.84 to 0.88")}
_LONGEST_NAME = 40  # characters of a label or of a run's name
_PNG_DPI = 150
OF_ALL_RUNS = ("learning_curves", "dev_metric")
MOST_LABELS = 40  # in a confusion matrix that can be read
_MOST_MEANS = 30  # a learning curve is smoothed to at most this many independent means
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "font.size": 10,
    "legend.frameon": False,
    "text.parse_math": False,  # "$" in a label is a dollar
    "text.usetex": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pictures",  # the same run gives the same file
}


def _axes(width: float = 6.4, height: float = 4.0, **labels):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(**labels)
    return figure, axes


def learning_curves(runs: list[FinishedRun]) -> Figure:
    """Draw the training loss over the updates, and the dev loss after each epoch."""
    figure, axes = _axes(xlabel="update", ylabel="loss (nats)" if runs[0].labels else "loss")
    shown = {"alpha": 0.45 if len(runs) > 1 else 1.0, "linewidth": 1.2}
    for run in runs:
        curve, epochs = run.results["curve"], run.results["epochs"]
        updates = [_last_update(run, row["epoch"]) for row in epochs]
        dev_loss = [row["dev"]["loss"] for row in epochs]
        # A legend needs each name once.
        names = ("train (running mean)", "dev") if run is runs[0] else (None, None)
        width = 1 + len(curve["update"]) // _MOST_MEANS
        train_loss = pd.Series(curve["train_loss"]).rolling(width, min_periods=1).mean()
        axes.plot(curve["update"], train_loss, color=BLUE, label=names[0], **shown)
        axes.plot(updates, dev_loss, "o-", color=ORANGE, markersize=4, label=names[1], **shown)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _last_update(run: FinishedRun, epoch: int) -> int:
    arguments, examples = run.results["arguments"], run.results["data"]["train"]["examples"]
    batches = -(-examples // arguments["batch_size"])
    updates = epoch * -(-batches // arguments["accumulate"])
    return min(updates, arguments["training_steps"] or updates)


def dev_metric(runs: list[FinishedRun]) -> Figure:
    """Draw the main dev metric of each epoch; of several runs mean and standard deviation."""
    metric = runs[0].metric
    figure, axes = _axes(xlabel="epoch", ylabel=f"dev {metric}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if published := _published(runs[0]):
        low, high, whose = published
        axes.axhspan(low, high, color=GREEN, alpha=0.15, linewidth=0, label=whose)
    epochs, mean, deviation = metric_by_epoch(runs)
    if len(runs) == 1:
        axes.plot(epochs, mean, "o-", color=BLUE, label=runs[0].name)
    else:
        for run in runs:
            rows = run.results["epochs"]
            axes.plot(
                [row["epoch"] for row in rows],
                [row["dev"][metric] for row in rows],
                color=GREY,
                alpha=0.4,
                linewidth=0.8,
            )
        axes.plot(epochs, mean, "o-", color=BLUE, label=f"mean of {len(runs)} runs")
        axes.fill_between(
            epochs,
            np.subtract(mean, deviation),
            np.add(mean, deviation),
            color=BLUE,
            alpha=0.2,
            linewidth=0,
            label="± 1 standard deviation",
        )
    axes.legend()
    return figure


def _published(run: FinishedRun) -> tuple[float, float, str] | None:
    data = run.results["data"]
    examples = (data.get(split, {}).get("examples") for split in ("train", "dev"))
    return PUBLISHED.get((run.results["task"], run.metric, *examples))


def metric_by_epoch(runs: list[FinishedRun]) -> tuple[list[int], list[float], list[float]]:
    """Return the epochs that all runs have, and mean and standard deviation of their dev metric."""
    columns = [
        {row["epoch"]: row["dev"][run.metric] for row in run.results["epochs"]} for run in runs
    ]
    epochs = sorted(set.intersection(*map(set, columns)))
    values = np.array([[column[epoch] for epoch in epochs] for column in columns])
    deviation = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(epochs))
    return epochs, values.mean(axis=0).tolist(), deviation.tolist()


def confusion(run: FinishedRun) -> Figure:
    """Draw the confusion matrix of the best epoch."""
    counts = np.array(run.results["best"]["confusion_matrix"])
    size = max(4.0, 0.55 * len(counts) + 2.0)
    margin = 0.08 * max(map(len, run.labels))  # inches
    figure, axes = _axes(size + margin, size * 0.85 + margin, xlabel="predicted", ylabel="true")
    axes.grid(visible=False)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(run.labels))
    rotation = 45 if max(map(len, run.labels)) > 6 else 0
    axes.set_xticks(ticks, run.labels, rotation=rotation)
    axes.set_yticks(ticks, run.labels)
    for i in ticks:
        for j in ticks:
            colour = "white" if share[i, j] > 0.6 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour)
    return figure


def label_f1(run: FinishedRun) -> Figure:
    """Draw the F1 of each label in the best epoch; of very many labels the lowest."""
    scores = [row["f1"] for row in run.results["best"]["per_class"].values()]
    drawn = list(range(len(scores)))
    if len(scores) > MOST_LABELS:
        drawn = np.argsort(scores, kind="stable")[:MOST_LABELS].tolist()
    names = [run.labels[i] for i in drawn]
    width = 5.0 + 0.08 * max(map(len, names))  # inches
    lowest = f" (the lowest of {len(scores)} labels)" if len(drawn) < len(scores) else ""
    figure, axes = _axes(width, 1.2 + 0.28 * len(drawn), xlabel=f"F1{lowest}", xlim=(0, 1.1))
    axes.grid(visible=False)
    places = range(len(drawn))
    bars = axes.barh(places, [scores[i] for i in drawn], color=BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    return figure


def label_reliability(run: FinishedRun) -> Figure:
    """Draw, for each label in bins, the share of examples that have it over its probability.

    Of more labels than colours, all decisions together are drawn.
    """
    probability = expit(run.logits / (run.temperature or 1.0))
    columns = [*zip(run.labels, probability.T, run.label.T, strict=True)]
    if len(columns) > len(_COLOURS):
        columns = [(f"all {len(columns)} labels", probability.ravel(), run.label.ravel())]
    scaled = "" if run.temperature is None else f", temperature {run.temperature:.2f}"
    area = "(the area of a point: its share of the examples)"
    figure, axes = _axes(
        5.0,
        4.4,
        xlabel=f"probability of the label{scaled}\n{area}",
        ylabel="share that has the label",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    for colour, (name, values, true) in zip(_COLOURS, columns, strict=False):
        bins = calibration.in_bins(values, true)
        places = [x for _, x, _, _ in bins], [y for _, _, y, _ in bins]
        sizes = [10 + 300 * share for *_, share in bins]
        axes.plot(*places, color=colour, linewidth=0.8, alpha=0.4)
        axes.scatter(*places, s=sizes, color=colour, alpha=0.7, clip_on=False, label=name)
    legend = axes.legend(loc="upper left", fontsize=8)
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    return figure


def reliability(run: FinishedRun) -> Figure:
    """Draw accuracy over confidence in bins (Guo et al. 2017, fig. 1), with and without scaling."""
    confidence = "confidence (the area of a point: its share of the examples)"
    figure, axes = _axes(5.0, 4.4, xlabel=confidence, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    wanted = [("as trained", 1.0, BLUE)]
    if run.temperature is not None:
        wanted.append((f"temperature {run.temperature:.2f}", run.temperature, ORANGE))
    for name, temperature, colour in wanted:
        probability = softmax(run.logits / temperature, axis=1)
        bins = calibration.reliability(probability, run.label)
        error = calibration.expected_calibration_error(probability, run.label)
        axes.scatter(
            [x for _, x, _, _ in bins],
            [y for _, _, y, _ in bins],
            s=[20 + 400 * share for *_, share in bins],
            color=colour,
            alpha=0.6,
            clip_on=False,  # most points are at an accuracy of 1
            label=f"{name}: expected calibration error {error:.4f}",
        )
    legend = axes.legend(loc="lower left", fontsize=9)
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    return figure


def scatter(run: FinishedRun) -> Figure:
    """Draw a regression's predictions over the true numbers."""
    figure, axes = _axes(5.0, 4.4, xlabel="true", ylabel="predicted")
    axes.axline((run.label.mean(), run.label.mean()), slope=1, color=GREY, linestyle="--")
    axes.scatter(run.label, run.logits[:, 0], s=8, alpha=0.4, color=BLUE)
    return figure


def lengths(run: FinishedRun) -> Figure:
    """Draw the lengths of the training examples, and the padding they would need."""
    data = run.results["data"]["train"]
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    upper = np.array([int(tokens) for tokens in data["lengths"]])
    left.bar(upper - 4, list(data["lengths"].values()), width=7, color=BLUE)
    whole = sum(data["lengths"].values()) == data["examples"]
    counted = "training examples" if whole else "windows of training examples"
    left.set(xlabel="tokens", ylabel=counted, xlim=(0, None))
    names = list(data["padding"])[::-1]
    shares = [data["padding"][name] for name in names]
    right.barh(range(len(names)), shares, color=ORANGE)
    right.set_yticks(range(len(names)), [_padded_to(name) for name in names])
    right.set(xlabel="share of padding", xlim=(0, 1))
    right.grid(visible=False)
    for place, share in enumerate(shares):
        right.text(min(share + 0.02, 0.8), place, f"{share:.1%}", va="center")
    return figure


def _padded_to(name: str) -> str:
    everything = re.fullmatch(r"all \(([0-9]+)\)", name)
    if everything:  # as dataset.length_statistics calls it
        return f"to --max_len ({everything[1]})"
    return f"to the longest of {shown(name, _LONGEST_NAME)}"


def draw(
    runs: list[FinishedRun], best: FinishedRun, families: Sequence[str] = ("DejaVu Sans",)
) -> dict[str, Figure]:
    """Draw all figures of runs of one task; a figure of one run shows the best.

    ``families`` are the fonts, of which each character takes the first that has it.
    """
    with mpl.rc_context({**STYLE, "font.family": list(families)}):
        figures = {"learning_curves": learning_curves(runs), "dev_metric": dev_metric(runs)}
        if best.multi_label:
            figures["label_f1"] = label_f1(best)
            figures["reliability"] = label_reliability(best)
        elif best.labels:
            if len(best.labels) <= MOST_LABELS:
                figures["confusion"] = confusion(best)
            figures["reliability"] = reliability(best)
        else:
            figures["predictions"] = scatter(best)
        figures["lengths"] = lengths(best)
        all_of_them = best.name if len(runs) == 1 else f"{len(runs)} runs"
        for name, figure in figures.items():
            whose = all_of_them if name in OF_ALL_RUNS else best.name
            figure.suptitle(f"{best.results['task']}, {whose}", fontsize=10)
    return figures


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element; the same figure gives the same text.

    Its text stays text, for which a browser finds the fonts that matplotlib lacks.
    """
    text = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    content = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(content, format="png", dpi=_PNG_DPI)
    return content.getvalue()


def with_names(run: FinishedRun, drawable: Collection[str] | None = None) -> FinishedRun:
    """Return a run whose name and labels can be drawn.

    With ``drawable``, characters that are not in it become escapes, as PNGs need it.
    """

    def name(text: str) -> str:
        if drawable is not None:
            missing = set(text) - set(drawable)
            escapes = {ord(x): x.encode("unicode_escape").decode() for x in missing}
            text = text.translate(escapes)
        text = shown(text, _LONGEST_NAME)
        return f" {text}" if text.startswith("_") else text  # which hides it from a legend

    return replace(run, name=name(run.name), labels=tuple(map(name, run.labels)))


def fonts_for(text: str) -> tuple[list[str], set[str]]:
    """Return matplotlib's own font and those installed ones that the text needs besides.

    Returns
    -------
    list of str
        Families, in the order in which a character is looked for.
    set of str
        The characters of the text that they have.
    """
    wanted = set(text)
    families: list[str] = []
    found: set[str] = set()
    fonts = sorted(font_manager.fontManager.ttflist, key=lambda font: (font.name, font.fname))
    fonts.sort(key=lambda font: font.name != "DejaVu Sans")  # the first, as it is always there
    for font in fonts:
        regular = font.style == "normal" and font.weight in (400, "normal", "regular")
        if found >= wanted or not regular or font.name.startswith(("Last Resort", "STIX", "cm")):
            continue
        with contextlib.suppress(OSError, RuntimeError):  # a font that was removed or is damaged
            characters = font_manager.get_font(font.fname).get_charmap()
            more = {x for x in wanted - found if ord(x) in characters}
            if more or not families:
                families.append(font.name)
                found |= more
    return families or ["DejaVu Sans"], found
