"""The page of pictures: a browser shows the results of the runs."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
import warnings

import numpy as np
import pytest
from conftest import run_script
from helpers import FLAGS, write_sentences

import plot_runs
from bert.run_config import config_text
from bert.terminal import shown
from finetuning.results.predictions import delimited

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PNG = b"\x89PNG\r\n\x1a\n"
RUN = ("--epochs", "3", "--lr", "1e-3", "--batch_size", "14")


def plot(*arguments) -> int:
    return plot_runs.main([str(argument) for argument in arguments])


@pytest.fixture
def seeds(finetune_here, glue_dir):
    code, out = finetune_here("--data_dir", glue_dir, *RUN, "--seeds", "1,2,3", "--calibrate")
    assert code == 0
    return out


def as_browsed(page, tmp_path) -> str:
    """Return the text of a page as headless Chromium has laid it out."""
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    flags = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"),
    )
    browser = subprocess.run(
        [CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert browser.returncode == 0, browser.stderr
    return html.unescape(re.sub(r"<[^>]*>", "\n", browser.stdout))


def test_the_browser_shows_the_figures_of_the_runs(seeds, tmp_path):
    assert plot(seeds, "--output_dir", tmp_path / "pictures") == 0
    text = as_browsed(tmp_path / "pictures/index.html", tmp_path)
    runs = [json.loads((seeds / f"seed-{n}" / "metrics.json").read_text()) for n in (1, 2, 3)]
    best = [run["best"]["dev"]["accuracy"] for run in runs]
    assert f"dev accuracy {np.mean(best):.4f} ± {np.std(best, ddof=1):.4f} over 3 runs" in text
    for epoch in range(3):
        values = [run["epochs"][epoch]["dev"]["accuracy"] for run in runs]
        rows = (
            re.escape(f"{np.mean(values):.4f}")
            + r"\s+"
            + re.escape(f"{np.std(values, ddof=1):.4f}")
        )
        assert re.search(rows, text)
    shown_best = runs[int(np.argmax(best))]["best"]
    figure = text[text.index("Confusion matrix") : text.index("Reliability")]
    numbers = re.findall(r"^\s*(\d+)\s*$", figure, re.MULTILINE)
    counts = [str(count) for row in shown_best["confusion_matrix"] for count in row]
    assert numbers[-4:] == counts
    config = json.loads((seeds / f"seed-{1 + int(np.argmax(best))}" / "config.json").read_text())
    for name in ("ece_before", "ece_after"):
        assert f"expected calibration error {config['calibration'][name]:.4f}" in text
    for share in runs[0]["data"]["train"]["padding"].values():
        assert f"{share:.1%}" in text
    assert "as published" not in text  # these are not the data of MRPC, whatever the task is called


def test_the_page_needs_no_other_file(seeds, tmp_path):
    assert plot(seeds / "seed-2", "--output_dir", tmp_path / "pictures") == 0
    page = (tmp_path / "pictures/index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert page.count("<svg") == 5
    pngs = sorted(path.name for path in (tmp_path / "pictures").glob("*.png"))
    assert pngs == [
        f"{n}.png" for n in ("confusion", "dev_metric", "learning_curves", "lengths", "reliability")
    ]
    for path in (tmp_path / "pictures").glob("*.png"):
        assert path.read_bytes().startswith(PNG)


def test_a_picture_says_what_it_shows_without_its_page(seeds, tmp_path):
    assert plot(seeds, "--output_dir", tmp_path / "pictures") == 0
    page = (tmp_path / "pictures/index.html").read_text()
    titles = re.findall(r">(MRPC, [^<]*)</text>", page)
    assert titles[:2] == ["MRPC, 3 runs"] * 2 and len(titles) == 5
    (best,) = set(titles[2:])
    assert re.fullmatch(r"MRPC, seed-[123]", best)
    assert ">to --max_len (32)</text>" in page


def test_the_mistakes_stand_in_the_page_as_text(finetune_here, glue_dir, tmp_path):
    dev = glue_dir / "MRPC/dev.tsv"
    dev.write_text(dev.read_text().replace("the ", "<b>the</b> & "))
    code, out = finetune_here("--data_dir", glue_dir, *RUN)
    assert code == 0 and plot(out, "--output_dir", tmp_path / "pictures") == 0
    page = (tmp_path / "pictures/index.html").read_text()
    assert "<b>" not in page
    rows = (out / "dev_mistakes.tsv").read_text().splitlines()[1:]
    assert rows
    for row in rows:
        assert html.escape(row.split("\t")[4]) in page


def test_a_regression_has_its_own_picture(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 30, 0)
    train.write_text(train.read_text().replace(",cat", ",1.5").replace(",dog", ",-2"))
    files = ("--train_file", train, "--dev_fraction", "0.3", "--regression")
    code, out = finetune_here(*FLAGS, *files, "--epochs", "2")
    assert code == 0 and plot(out, "--output_dir", tmp_path / "pictures") == 0
    assert (tmp_path / "pictures/predictions.png").is_file()


def test_what_cannot_be_drawn_is_one_sentence(seeds, finetune_here, tmp_path, capsys):
    train = write_sentences(tmp_path / "train.csv", 30, 0)
    files = ("--train_file", train, "--dev_fraction", "0.3")
    code, other = finetune_here(*FLAGS, *files, "--epochs", "1", out="other")
    assert code == 0
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    shutil.copytree(other, tmp_path / "cut")
    (tmp_path / "cut/dev_predictions.tsv").write_text("index\n0\n")
    for arguments, says in (
        ((tmp_path / "nowhere",), "is not a run folder"),
        ((tmp_path / "empty",), "is not a run folder"),
        ((seeds / "seed-1", other), "different tasks"),
        ((tmp_path / "cut",), "dev_predictions.tsv is damaged"),
    ):
        code = plot(*arguments, "--output_dir", tmp_path / "pictures")
        sentence = capsys.readouterr().err
        assert code == 2 and says in sentence and sentence.count("\n") == 1
    assert plot(other, "--output_dir", tmp_path / "there") == 0
    assert plot(other, "--output_dir", tmp_path / "there") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert plot(other, "--output_dir", tmp_path / "there", "--overwrite") == 0


DAMAGES = {
    "best": None,
    "epochs": [],
    "curve": {"update": [1, 2], "train_loss": [0.5]},
    "arguments": [1],
    "data": {"train": {"examples": 0}},
    "task": ["MRPC"],
    "best.confusion_matrix": [[1, 2, 3]],
    "best.epoch": 77,
    "best.dev": {"accuracy": "high"},
    "arguments.batch_size": 0,
    "arguments.dtype": "float8",
    "data.train.lengths": {"short": 3},
    "data.train.padding": {"all": -1},
}


def test_damaged_metrics_are_one_sentence(finetune_here, glue_dir, tmp_path, capsys):
    code, out = finetune_here("--data_dir", glue_dir, "--epochs", "1", "--lr", "1e-3")
    assert code == 0
    whole = (out / "metrics.json").read_text()
    for place, value in DAMAGES.items():
        results = part = json.loads(whole)
        *parents, name = place.split(".")
        for parent in parents:
            part = part[parent]
        part[name] = value
        (out / "metrics.json").write_text(json.dumps(results))
        capsys.readouterr()
        assert plot(out, "--output_dir", tmp_path / "pictures") == 2, place
        sentence = capsys.readouterr().err
        assert f"{out / 'metrics.json'}: " in sentence and sentence.count("\n") == 1
    assert not (tmp_path / "pictures").exists()


def test_several_runs_are_compared_in_a_table(finetune_here, glue_dir, tmp_path, capsys):
    folders = []
    for lr, epochs in (("1e-3", "1"), ("2e-3", "2")):
        flags = ("--lr", lr, "--epochs", epochs)
        folders.append(finetune_here("--data_dir", glue_dir, *flags, out=f"lr-{lr}")[1])
    capsys.readouterr()
    assert plot(*folders, "--output_dir", tmp_path / "pictures") == 0
    header, _, *rows, written = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["run", "epochs", "lr", "best"] and "written" in written
    for row, folder in zip(rows, folders, strict=True):
        results = json.loads((folder / "metrics.json").read_text())
        best, arguments = results["best"], results["arguments"]
        values = [folder.name, str(arguments["epochs"]), str(arguments["lr"]), str(best["epoch"])]
        values += [f"{score:.4f}" for score in best["dev"].values()]
        assert row.split()[:-1] == values


def test_a_run_that_is_given_twice_counts_once(seeds, tmp_path):
    assert plot(seeds, seeds / "seed-1", "--output_dir", tmp_path / "pictures") == 0
    assert "over 3 runs" in (tmp_path / "pictures/index.html").read_text()


def test_many_labels_are_a_table(finetune_here, tmp_path):
    train = tmp_path / "train.csv"
    labels = [f"label {number}" for number in range(45)]
    rows = "".join(f"the dog {name},{name}\n" for name in labels * 4)
    train.write_text("text,label\n" + rows)
    files = ("--train_file", train, "--dev_file", train)
    code, out = finetune_here(*FLAGS, *files, "--epochs", "1")
    assert code == 0 and plot(out, "--output_dir", tmp_path / "pictures") == 0
    page = (tmp_path / "pictures/index.html").read_text()
    assert "Most frequent confusions" in page and "Confusion matrix" not in page
    assert not (tmp_path / "pictures/confusion.png").exists()
    matrix = json.loads((out / "metrics.json").read_text())["best"]["confusion_matrix"]
    most = max(n for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j)
    first = re.search(r'id="confusions">.*?class="number">(\d+)<', page, re.DOTALL)
    assert int(first[1]) == most


def test_the_same_run_gives_the_same_page(seeds, tmp_path):
    pages = []
    for name in ("one", "two"):
        run = run_script("plot_runs.py", seeds, "--output_dir", tmp_path / name)
        assert run.returncode == 0, run.stderr
        pages.append((tmp_path / name / "index.html").read_bytes())
    assert pages[0] == pages[1]


def renamed(run, out, labels):
    """Copy a run of two labels; the copy's are named otherwise."""
    shutil.copytree(run, out)
    config = json.loads((out / "config.json").read_text())
    ids = dict(zip(labels, (0, 1), strict=True))
    config |= {"label2id": ids, "id2label": {str(id_): name for name, id_ in ids.items()}}
    (out / "config.json").write_text(config_text(config, (out / "vocab.txt").read_text()))
    rows = list(csv.reader((out / "dev_predictions.tsv").open(), delimiter="\t"))
    for row in rows[1:]:
        row[1], row[2] = (labels[name == "dog"] for name in row[1:3])
    (out / "dev_predictions.tsv").write_text(delimited(rows))


def test_names_are_drawn_as_they_are(finetune_here, tmp_path):
    files = (
        "--train_file",
        write_sentences(tmp_path / "train.csv", 30, 0),
        "--dev_fraction",
        "0.3",
    )
    code, run = finetune_here(*FLAGS, *files, "--epochs", "1")
    assert code == 0
    for i, labels in enumerate(
        [("$\\bad{$", "$5 to $10"), ("_x", "<b>&"), ("中文", "ش\u202e"), ("\x1b[2J", "x" * 9999)]
    ):
        out = tmp_path / f"_run $x_{{$ {i}"  # its name stands in a legend
        renamed(run, out, labels)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a character without a glyph, a name without a place
            assert plot(out, "--output_dir", tmp_path / f"p{i}") == 0
        page = (tmp_path / f"p{i}/index.html").read_text()
        texts = [html.unescape(x).strip() for x in re.findall(r"<text[^>]*>([^<]*)</text>", page)]
        assert out.name in texts
        assert all(texts.count(shown(label, 40)) == 2 for label in labels)
        assert shown(page, len(page), keep="\n") == page


def test_published_results_are_drawn_beside_the_same_data_only(finetune_here, glue_dir, tmp_path):
    code, run = finetune_here("--data_dir", glue_dir, *RUN, "--epochs", "1")
    assert code == 0
    for train, dev, there in ((3668, 408, True), (3668, 40, False), (70, 408, False)):
        results = json.loads((run / "metrics.json").read_text())
        results["data"]["train"]["examples"], results["data"]["dev"]["examples"] = train, dev
        (run / "metrics.json").write_text(json.dumps(results))
        assert plot(run, "--output_dir", tmp_path / "pictures", "--overwrite") == 0
        assert ("as published" in (tmp_path / "pictures/index.html").read_text()) == there
