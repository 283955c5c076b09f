"""What a run writes and prints grows with its labels, not with their square."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import run_script

from bert.errors import UserError
from finetuning.data.tasks import own_task
from finetuning.results import metrics, predictions


def training(tiny_bert, folder, labels, rows, *flags):
    lines = [f"red blue {i}\tlabel {i % labels}" for i in range(rows)]
    (folder / "train.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    return run_script(
        *("finetune_classifier.py", "--pretrained_bert_parameters", tiny_bert),
        *("--train_file", folder / "train.tsv", "--text_a_column", "text"),
        *("--epochs", 1, "--max_len", 16, "--batch_size", 32, "--num_threads", 1, *flags),
    )


def test_many_labels_leave_small_files_and_a_short_log(tiny_bert, tmp_path):
    out = tmp_path / "out"
    flags = ("--dev_file", tmp_path / "train.tsv", "--output_dir", out)
    run = training(tiny_bert, tmp_path, 500, 1000, *flags)
    assert run.returncode == 0, run.stderr
    best = json.loads((out / "metrics.json").read_text())["best"]
    assert len(best["per_class"]) == 500 and "confusion_matrix" not in best
    assert (out / "metrics.json").stat().st_size < 150_000
    assert (out / "README.md").stat().st_size < 20_000
    assert len(run.stdout) < 20_000 and "the 20 of 500 labels with the lowest f1" in run.stdout
    export = run_script(
        *("export_classifier.py", "--model_dir", out, "--format", "gluon"),
        *("--output_dir", tmp_path / "exported", "--num_threads", 1),
    )
    assert export.returncode == 0, export.stderr
    assert "There are 500" in (tmp_path / "exported/README.md").read_text()
    plot = run_script("plot_runs.py", out, "--output_dir", tmp_path / "pictures")
    assert plot.returncode == 0, plot.stderr
    page = (tmp_path / "pictures/index.html").read_text()
    assert "Most frequent confusions" in page and len(page) < 1_000_000


@pytest.mark.parametrize("labels, rows", [(60, 60), (60, 100), (20_000, 60_000)])
@pytest.mark.parametrize("flags", [("--dev_fraction", 0.2), ("--folds", 3)])
def test_a_column_of_ids_is_refused_before_training(tiny_bert, tmp_path, labels, rows, flags):
    run = training(tiny_bert, tmp_path, labels, rows, *flags, "--output_dir", tmp_path / "out")
    assert run.returncode == 2
    (sentence,) = run.stderr.splitlines()
    assert f"'label' has {labels} different values in {rows} rows" in sentence
    assert "--label_column" in sentence and "--regression" in sentence


def test_predictions_that_would_not_fit_memory_are_refused():
    task = own_task("text", None, "label", False, tuple(map(str, range(1000))))
    predictions.check_size(50_000, task, "dev")
    with pytest.raises(UserError, match="the dev split has 50001 examples"):
        predictions.check_size(50_001, task, "dev")


def test_the_labels_shown_of_very_many_are_the_worst_of_those_that_the_dev_split_has():
    names = tuple(map(str, range(300)))
    label = np.arange(250)
    logits = np.eye(300, dtype=np.float32)[label]
    logits[7] = logits[8]
    found = metrics.by_class(logits, label, names)
    shown = metrics.to_show(found["per_class"])
    assert len(shown) == 20 and list(shown)[:2] == ["7", "8"]
    assert all(scores["support"] for scores in shown.values())
    few = {name: found["per_class"][name] for name in names[:200]}
    assert metrics.to_show(few) == few
