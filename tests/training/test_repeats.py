"""Several seeds, folds or flags in one command: as good as one command each, and none is lost."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, write_mrpc
from helpers import FLAGS, write_sentences

from finetuning.results.metrics import rank

RUN = ("--epochs", "2", "--lr", "1e-3", "--batch_size", "8")


@pytest.fixture
def data(tmp_path):
    return write_mrpc(tmp_path / "glue", train=40, dev=20)


def test_each_seed_gives_the_bytes_of_a_run_with_that_seed_alone(finetune_here, data):
    code, seeds = finetune_here("--data_dir", data, *RUN, "--seeds", "5,3", out="seeds")
    assert code == 0
    models = []
    for seed in ("5", "3"):
        code, alone = finetune_here("--data_dir", data, *RUN, "--seed", seed, out=f"alone-{seed}")
        assert code == 0
        for name in ("model.params", "dev_predictions.tsv", "config.json", "dev_examples.params"):
            same = (seeds / f"seed-{seed}" / name).read_bytes()
            assert same == (alone / name).read_bytes(), (seed, name)
        models.append((alone / "model.params").read_bytes())
    assert models[0] != models[1]


def test_a_seed_that_chooses_the_examples_reads_them_anew(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 40, 0)
    files = ("--train_file", train, "--dev_fraction", "0.3", "--max_train_samples", "16")
    code, seeds = finetune_here(*FLAGS, *files, "--epochs", "1", "--seeds", "1,2", out="seeds")
    assert code == 0
    code, alone = finetune_here(*FLAGS, *files, "--epochs", "1", "--seed", "2", out="alone")
    assert code == 0
    for name in ("model.params", "dev_predictions.tsv"):
        assert (seeds / "seed-2" / name).read_bytes() == (alone / name).read_bytes()


def test_the_table_has_mean_and_spread_and_says_which_to_ship(finetune_here, data, capsys):
    code, out = finetune_here("--data_dir", data, *RUN, "--seeds", "1,2,3")
    assert code == 0
    results = json.loads((out / "metrics.json").read_text())
    scores = [
        json.loads((out / f"seed-{seed}" / "metrics.json").read_text())["best"]["dev"]["accuracy"]
        for seed in (1, 2, 3)
    ]
    assert [score["accuracy"] for score in results["seeds"].values()] == scores
    assert results["mean"]["accuracy"] == pytest.approx(np.mean(scores))
    assert results["standard_deviation"]["accuracy"] == pytest.approx(np.std(scores, ddof=1))
    assert results["minimum"]["accuracy"] == min(scores)
    assert results["maximum"]["accuracy"] == max(scores)
    ranks = [(score["accuracy"], -score["loss"]) for score in results["seeds"].values()]
    best = 1 + ranks.index(max(ranks))
    assert results["best_seed"] == best
    assert f"the one to ship is {out / f'seed-{best}'}" in capsys.readouterr().out


def test_seeds_that_are_done_are_not_trained_again_and_more_can_follow(finetune_here, data, capsys):
    flags = ("--data_dir", data, *RUN)
    assert finetune_here(*flags, "--seeds", "1")[0] == 0
    code, out = finetune_here(*flags, "--seeds", "1,2")
    assert code == 2 and "--resume" in capsys.readouterr().err
    before = (out / "seed-1/model.params").stat().st_mtime_ns
    assert finetune_here(*flags, "--seeds", "1,2", "--resume")[0] == 0
    assert (out / "seed-1/model.params").stat().st_mtime_ns == before
    assert list(json.loads((out / "metrics.json").read_text())["seeds"]) == ["1", "2"]


@pytest.mark.parametrize(
    "flags, names",
    [
        (("--seeds", "1,1"), "twice"),
        (("--seeds", "1,x"), "a whole number"),
        (("--seeds", "1,2", "--seed", "3"), "--seed"),
        (("--seeds", "1,2", "--folds", "3", "--train_file", "t.csv"), "--folds"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(flags, names, finetune_here, capsys):
    with pytest.raises(SystemExit) as exit:
        finetune_here(*flags, bert=False)
    assert exit.value.code == 2 and names in capsys.readouterr().err


def test_cross_validation_reports_mean_and_spread(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 60, 0)
    code, out = finetune_here(*FLAGS, "--train_file", train, "--folds", "3")
    assert code == 0
    results = json.loads((out / "metrics.json").read_text())
    scores = [fold["accuracy"] for fold in results["folds"]]
    for i, score in enumerate(scores, start=1):
        fold = json.loads((out / f"fold_{i}" / "metrics.json").read_text())
        assert fold["best"]["dev"]["accuracy"] == score
    assert results["mean"]["accuracy"] == pytest.approx(np.mean(scores))
    assert results["standard_deviation"]["accuracy"] == pytest.approx(np.std(scores, ddof=1))


def test_the_predictions_of_all_folds_have_each_row_of_the_file_once(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 30, 0)
    train.write_text(train.read_text().replace("\n", "\n,cat\n", 1))  # a bad first row
    files = ("--train_file", train, "--skip_bad_rows", "--folds", "3", "--training_steps", "1")
    code, out = finetune_here(*FLAGS, *files)
    assert code == 0
    predictions = [path.read_text().splitlines() for path in out.glob("*/dev_predictions.tsv")]
    rows = [int(line.split("\t")[0]) for lines in predictions for line in lines[1:]]
    assert len(predictions) == 3 and sorted(rows) == list(range(1, 31))


GRID = ("--epochs", "1,2", "--lr", "1e-3,3e-3", "--batch_size", "8")


def test_each_cell_of_a_grid_is_the_run_of_its_flags_alone(finetune_here, data, capsys):
    code, grid = finetune_here("--data_dir", data, *GRID, "--seeds", "1,2", out="grid")
    assert code == 0
    printed = capsys.readouterr().out
    found = json.loads((grid / "metrics.json").read_text())["grid"]
    assert list(found) == [f"lr-{lr}_epochs-{n}" for lr in ("0.001", "0.003") for n in (1, 2)]
    cell = "lr-0.003_epochs-2"
    flags = ("--epochs", "2", "--lr", "3e-3", "--batch_size", "8", "--seed", "2")
    code, alone = finetune_here("--data_dir", data, *flags, out="alone")
    assert code == 0
    for name in ("model.params", "dev_predictions.tsv", "config.json"):
        assert (grid / cell / "seed-2" / name).read_bytes() == (alone / name).read_bytes()
    scores = [
        json.loads((grid / cell / f"seed-{n}/metrics.json").read_text())["best"]["dev"]
        for n in (1, 2)
    ]
    assert found[cell]["scores"] == scores
    mean = np.mean([score["accuracy"] for score in scores])
    best = max(found, key=lambda name: rank(found[name]["mean"], "accuracy"))
    assert found[cell]["mean"]["accuracy"] == pytest.approx(mean)
    assert f"best by the mean of dev accuracy: {best}" in printed
    spread = found[best]["standard_deviation"]["accuracy"]
    means = sorted((cell["mean"]["accuracy"] for cell in found.values()), reverse=True)
    assert ("may be equally good" in printed) == (means[0] - means[1] < spread)


@pytest.mark.parametrize(
    "moment, grid",
    [
        ("epoch 1, update 2/", ("--epochs", "1,2", "--lr", "1e-3,3e-3")),
        ("--lr=0.003: 2 of 2", ("--epochs", "1", "--lr", "1e-3,3e-3", "--seeds", "1,2")),
    ],
)
def test_a_grid_that_was_killed_and_resumed_ends_in_the_same_table(
    moment, grid, tiny_bert, data, tmp_path
):
    flags = ("--pretrained_bert_parameters", tiny_bert, "--max_len", "32", "--data_dir", data)
    flags += ("--batch_size", "8", "--log_interval", "1", *grid)

    def start(out, *more):
        words = [sys.executable, "finetune_classifier.py", "--output_dir", out, *more]
        words = list(map(str, words))
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def table(log):
        lines = log.splitlines()
        first = max(i for i, line in enumerate(lines) if line.split()[:1] == ["lr"])
        return "\n".join(lines[first:]).replace(str(tmp_path / "killed"), str(tmp_path / "whole"))

    expected, _ = start(tmp_path / "whole", *flags).communicate()
    killed = start(tmp_path / "killed", *flags)
    for line in killed.stdout:
        if moment in line:
            break
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "killed/metrics.json").exists()
    resumed = start(tmp_path / "killed", "--resume")
    log, _ = resumed.communicate()
    assert resumed.returncode == 0
    assert ("there is nothing to resume" in log) == ("update" not in moment)
    assert table(log) == table(expected) and table(log).count("\n") >= 3
    tables = [(tmp_path / name / "metrics.json").read_text() for name in ("whole", "killed")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--lr", "1e-3,1e-3"), "names a rate twice"),
        (("--epochs", "1,0"), "must be at least 1"),
        (("--lr", "1e-3,2e-3", "--check"), "leave out --check"),
        (("--epochs", "1,2", "--training_steps", "3"), "give one value of --epochs"),
    ],
)
def test_grids_that_make_no_sense_are_refused(flags, message, finetune_here, data, capsys):
    with pytest.raises(SystemExit) as stopped:
        finetune_here("--data_dir", data, *flags)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_overwriting_a_grid_removes_all_its_cells(finetune_here, data):
    flags = ("--data_dir", data, "--training_steps", "1")
    code, out = finetune_here(*flags, "--lr", "1e-3,3e-3")
    assert code == 0 and (out / "lr-0.003" / "model.params").exists()
    assert finetune_here(*flags, "--overwrite")[0] == 0
    assert not list(out.glob("lr-*")) and (out / "model.params").exists()
