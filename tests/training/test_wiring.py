"""Flags reach what they are for: another value, another outcome, in the direction expected."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from helpers import FLAGS, write_sentences
from mxnet import autograd

from bert.inference import Inference
from bert.modeling import BERTClassifier
from bert.parameters import read_params

# Three updates without dropout; the learning rate of the second leaves every parameter as it was.
SHORT = ("--optimizer", "adamw", "--epochs", "1", "--dropout", "0", "--warmup_ratio", "0")
NO_STEP = ("--lr", "1e-30")


@pytest.fixture
def train(finetune_here, glue_dir):
    """Train with these flags; returns the output folder."""

    def run(*flags, out):
        code, folder = finetune_here("--data_dir", glue_dir, *flags, out=out)
        assert code == 0
        return folder

    return run


def trained(folder, ending="weight") -> np.ndarray:
    """Return all parameters whose names end so, in one array."""
    parameters = read_params(folder / "model.params")
    return np.concatenate([a.ravel() for name, a in parameters.items() if name.endswith(ending)])


def test_weight_decay_shrinks_the_weights_and_no_bias_or_layer_norm(train):
    # A large epsilon leaves little of a step but the decay, lr * weight_decay: up to 0.1.
    start = train(*SHORT, *NO_STEP, out="start")
    decayed = train(*SHORT, "--lr", "1e-2", "--epsilon", "1e4", "--weight_decay", "10", out="much")
    free = train(*SHORT, "--lr", "1e-2", "--epsilon", "1e4", "--weight_decay", "0", out="none")
    size = np.linalg.norm(trained(start))
    assert np.linalg.norm(trained(free)) == pytest.approx(size, rel=1e-3)
    assert np.linalg.norm(trained(decayed)) < 0.95 * size
    for ending in ("gamma", "beta", "bias"):
        np.testing.assert_allclose(trained(decayed, ending), trained(free, ending), atol=1e-6)


def test_a_large_epsilon_makes_steps_small(train):
    start = trained(train(*SHORT, *NO_STEP, out="start"))
    lengths = {
        epsilon: np.linalg.norm(
            trained(train(*SHORT, "--lr", "1e-3", "--epsilon", epsilon, out=epsilon)) - start
        )
        for epsilon in ("1e-6", "1")
    }
    assert 0 < lengths["1"] < lengths["1e-6"] / 10


@pytest.mark.parametrize("no_native", [(), ("--no_native",)])
def test_each_layer_moves_less_than_the_one_above_it(no_native, train):
    # The largest step of Adam's first update is the learning rate.
    flags = (*SHORT, *no_native, "--training_steps", "1", "--weight_decay", "0")
    start = read_params(train(*flags, *NO_STEP, out="start") / "model.params")
    after = train(*flags, "--lr", "1e-2", "--layer_lr_decay", "0.1", out="after")
    steps = {
        name: np.abs(array - start[name]).max()
        for name, array in read_params(after / "model.params").items()
    }
    for part, step in {
        "classifier.1.weight": 1e-2,
        "pooler.weight": 1e-2,
        "transformer_cells.1.ffn.ffn_2.weight": 1e-3,
        "transformer_cells.0.ffn.ffn_2.weight": 1e-4,
        "word_embed.0.weight": 1e-5,
        "position_weight": 1e-5,
    }.items():
        (name,) = (name for name in steps if name.endswith(part))
        assert steps[name] == pytest.approx(step, rel=0.05), name


@pytest.mark.parametrize("flags, largest", [((), 30), (("--dev_batch_size", "8"), 8)])
@pytest.mark.parametrize("no_native", [(), ("--no_native",)])
def test_the_network_sees_dev_batch_size_rows_at_once(
    no_native, flags, largest, train, monkeypatch
):
    rows = []

    def record(network):
        call = network.__call__

        def recording(self, *inputs):
            logits = call(self, *inputs)
            if not autograd.is_recording():
                rows.append(len(logits))
            return logits

        monkeypatch.setattr(network, "__call__", recording)

    record(BERTClassifier)
    record(Inference)
    train(*SHORT, *flags, *no_native, out="out")
    assert max(rows) == largest and sum(rows) == 30


@pytest.mark.parametrize(
    "flags, epochs", [((), 4), (("--early_stop", "1"), 2), (("--early_stop", "2"), 3)]
)
def test_early_stop_ends_a_run_that_does_not_improve(flags, epochs, train):
    out = train(*SHORT, *NO_STEP, "--epochs", "4", *flags, out="out")
    assert len(json.loads((out / "metrics.json").read_text())["epochs"]) == epochs


def test_of_epochs_with_the_same_score_the_one_with_the_lowest_dev_loss_is_the_best(
    finetune_here, tmp_path
):
    train = write_sentences(tmp_path / "train.csv", 60, 0)
    files = ("--train_file", train, "--dev_fraction", "0.3", "--optimizer", "adamw")
    code, out = finetune_here(*FLAGS, *files, "--epochs", "4", "--lr", "3e-3")
    assert code == 0
    results = json.loads((out / "metrics.json").read_text())
    highest = max(row["dev"]["accuracy"] for row in results["epochs"])
    equal = {
        r["epoch"]: r["dev"]["loss"] for r in results["epochs"] if r["dev"]["accuracy"] == highest
    }
    assert len(equal) > 1 and min(equal, key=equal.get) != min(equal)
    assert results["best"]["epoch"] == min(equal, key=equal.get)


def test_pairs_are_trained_on_in_either_order_in_turn(finetune_here, tmp_path):
    there, back = tmp_path / "there.tsv", tmp_path / "back.tsv"
    pairs = [f"the cat sat {'on ' * n}\tthe dog\t{n % 2}" for n in range(40)]
    there.write_text("\n".join(["one\tother\tlabel", *pairs]) + "\n")
    back.write_text("\n".join(["other\tone\tlabel", *pairs]) + "\n")
    columns = ("--text_a_column", "one", "--text_b_column", "other", "--dev_fraction", "0.2")
    losses = []
    for file in (there, back):
        flags = (*columns, *SHORT, *NO_STEP, "--epochs", "3", "--swap_pairs")
        code, out = finetune_here("--train_file", file, *flags, out=file.stem)
        assert code == 0
        epochs = json.loads((out / "metrics.json").read_text())["epochs"]
        losses.append([row["train_loss"] for row in epochs])
    first, second = losses
    # What one file has in odd epochs, the other one has in even epochs.
    assert first == pytest.approx([second[1], second[0], second[1]], abs=2e-6)
    assert abs(first[0] - second[0]) > 1e-5


@pytest.mark.parametrize("task", ["RTE", "CoLA"])
def test_only_pairs_without_an_order_are_swapped(task, finetune_here, tmp_path, capsys):
    (tmp_path / task).mkdir()
    header, row = {
        "RTE": ("index\tsentence1\tsentence2\tlabel\n", "0\tthe cat\ta dog\tentailment\n"),
        "CoLA": ("", "gj04\t1\t\tthe cat sat\n"),
    }[task]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / task / name).write_text(header + row * 4)
    code, _ = finetune_here("--data_dir", tmp_path, "--task_name", task, "--swap_pairs")
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and "--swap_pairs" in err and "leave it out" in err


def test_training_steps_are_made_whatever_the_epochs(train):
    for steps in (1, 9):
        out = train(*SHORT, "--training_steps", steps, out=f"{steps}")
        results = json.loads((out / "metrics.json").read_text())
        assert results["curve"]["update"][-1] == steps
    assert len(results["epochs"]) == 3  # of three updates each


def test_a_run_of_one_update_learns(train):
    start = trained(train(*SHORT, *NO_STEP, out="start"))
    one = trained(train(*SHORT, "--training_steps", "1", "--lr", "1e-3", out="one"))
    assert 0 < np.abs(one - start).max() <= 1.1e-3


CHANCE = "this model is no better than chance; "


@pytest.mark.parametrize(
    "shuffled, flags, sentence",
    [
        (False, ("--lr", "1e-2", "--epochs", "10", "--dropout", "0"), None),
        (
            True,
            ("--lr", "2e-3", "--epochs", "40", "--dropout", "0"),
            "has memorised them: check that the",
        ),
        (False, ("--lr", "1e-9", "--epochs", "1"), "did not learn the training data either: try"),
        (False, ("--lr", "0.5", "--epochs", "2"), "did not learn the training data either: try"),
    ],
)
@pytest.mark.parametrize("regression", [False, True])
def test_a_run_that_learned_nothing_says_so(
    shuffled, flags, sentence, regression, finetune_here, tmp_path, capsys
):
    path = write_sentences(tmp_path / "train.csv", 150, 0, regression)
    if shuffled:
        header, *rows = path.read_text().splitlines()
        texts, labels = zip(*(row.rsplit(",", 1) for row in rows), strict=True)
        labels = np.random.default_rng(4).permutation(labels)
        rows = [",".join(row) for row in zip(texts, labels, strict=True)]
        path.write_text("\n".join([header, *rows]) + "\n")
    kind = ("--regression",) if regression else ()
    files = ("--train_file", path, "--dev_fraction", "0.3", "--optimizer", "adamw", *kind)
    code, _ = finetune_here(*FLAGS, *files, *flags)
    assert code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (CHANCE in printed) == (sentence is not None)
    assert sentence is None or sentence in printed


def test_a_run_ends_with_its_most_confident_dev_predictions(train, glue_dir, capsys):
    out = train(*SHORT, "--lr", "1e-3", out="out")
    printed = capsys.readouterr().out.splitlines()
    dev = list(csv.DictReader((glue_dir / "MRPC/dev.tsv").open(), delimiter="\t"))
    rows = list(csv.DictReader((out / "dev_predictions.tsv").open(), delimiter="\t"))
    confidence = [abs(float(row["logit_1"]) - float(row["logit_0"])) for row in rows]
    for right in (True, False):
        those = [i for i, row in enumerate(rows) if (row["label"] == row["prediction"]) == right]
        for i in sorted(those, key=lambda i: -confidence[i])[:2]:
            texts = f"{dev[i]['#1 String']} | {dev[i]['#2 String']}"
            line = next(line for line in printed if line.endswith(texts))
            assert rows[i]["label"] in line and f"predicted {rows[i]['prediction']} (" in line
