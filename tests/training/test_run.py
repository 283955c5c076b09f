"""What a finished run's folder tells of it: card, curve, mistakes, dev examples, event files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from helpers import FLAGS, write_sentences
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bert.parameters import read_params
from dataset import TokenizedExamples

RUN = ("--epochs", "2", "--lr", "1e-3", "--batch_size", "14")


@pytest.fixture
def finished(finetune_here, glue_dir):
    code, out = finetune_here("--data_dir", glue_dir, *RUN)
    assert code == 0
    return out, json.loads((out / "metrics.json").read_text())


def test_the_card_says_what_the_run_is(finished):
    out, results = finished
    card = (out / "README.md").read_text()
    assert card.startswith("---\n") and "fine-tuned on MRPC" in card
    for expected in (
        f"| accuracy | {results['best']['dev']['accuracy']:.4f} |",
        f"| train | 70 | {results['data']['train']['tokens']} |",
        "| `--lr` | 0.001 |",
        "| MXNet | 1.9.1 |",
        "predict.py",
        "load_classifier",
        "--format huggingface",
    ):
        assert expected in card


def test_a_readme_of_the_users_own_is_left_alone(finetune_here, glue_dir, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/README.md").write_text("# My project\n")
    code, out = finetune_here("--data_dir", glue_dir, *RUN)
    assert code == 0
    assert (out / "README.md").read_text() == "# My project\n"
    assert "left as it is" in capsys.readouterr().out


def test_a_run_that_is_overwritten_takes_its_card_and_curves_along(finetune_here, glue_dir):
    flags = ("--data_dir", glue_dir, *RUN)
    code, out = finetune_here(*flags)
    (events,) = out.glob("events*")
    # Two runs within a second would have the same name.
    before = events.rename(out / "events.out.tfevents.0000000001.1.0")
    record = (out / "run.json").read_text()
    (out / "run.json").write_text(record.replace(events.name, before.name))
    assert code == 0 and (out / "README.md").exists()
    assert finetune_here(*flags, "--overwrite", "--lr", "1e30", "--optimizer", "sgd")[0] == 1
    assert not (out / "README.md").exists()
    assert list(out.glob("events*")) and not before.exists()


def test_the_curve_is_the_mean_loss_of_the_updates(finished):
    _, results = finished
    curve, first_epoch = results["curve"], results["epochs"][0]
    assert curve["update"] == list(range(1, 11))  # 5 an epoch
    assert np.mean(curve["train_loss"][:5]) == pytest.approx(first_epoch["train_loss"], rel=1e-6)
    assert 0 < curve["lr"][-1] <= min(curve["lr"])


def test_the_mistakes_are_the_surest_wrong_predictions(finished, glue_dir):
    out, results = finished
    rows = list(csv.DictReader((out / "dev_mistakes.tsv").open(), delimiter="\t"))
    wrong = sum(
        count
        for i, row in enumerate(results["best"]["confusion_matrix"])
        for j, count in enumerate(row)
        if i != j
    )
    assert len(rows) == min(wrong, 20)
    probability = [float(row["probability"]) for row in rows]
    assert probability == sorted(probability, reverse=True)
    dev = (glue_dir / "MRPC/dev.tsv").read_text().splitlines()[1:]
    for row in rows:
        fields = dev[int(row["index"])].split("\t")
        assert [row["label"], row["text_a"], row["text_b"]] == [fields[0], *fields[3:]]
        assert row["label"] != row["prediction"]


def test_the_dev_examples_are_kept_as_the_model_saw_them(finished):
    out, results = finished
    examples = TokenizedExamples.from_arrays(read_params(out / "dev_examples.params"))
    assert len(examples) == 30 and results["data"]["dev"]["tokens"] == examples.offsets[-1]
    lengths = {int(n): count for n, count in results["data"]["dev"]["lengths"].items()}
    for upper, count in lengths.items():
        inside = (examples.lengths > upper - 8) & (examples.lengths <= upper)
        assert inside.sum() == count
    padding = results["data"]["train"]["padding"]
    train = 70 * 32
    assert padding["all (32)"] == pytest.approx(1 - results["data"]["train"]["tokens"] / train)
    assert 0 < padding["random batches"] <= padding["all (32)"]


def test_a_regressions_mistakes_are_its_largest_errors(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 30, 0)
    numbers = train.read_text().replace(",cat", ",1.5").replace(",dog", ",-2")
    train.write_text(numbers)
    files = ("--train_file", train, "--dev_fraction", "0.3", "--regression")
    code, out = finetune_here(*FLAGS, *files, "--epochs", "1")
    assert code == 0
    rows = list(csv.DictReader((out / "dev_mistakes.tsv").open(), delimiter="\t"))
    errors = [float(row["error"]) for row in rows]
    assert errors == sorted(errors, reverse=True) and len(errors) == 9
    assert "predicts a number" in (out / "README.md").read_text()


def read_events(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_the_curves(finished):
    out, results = finished
    scalars = read_events(out)
    curve = results["curve"]
    assert [step for step, _ in scalars["train/loss"]] == curve["update"]
    values = [value for _, value in scalars["train/loss"]]
    np.testing.assert_allclose(values, curve["train_loss"], rtol=1e-6)
    dev = [(row["epoch"] * 5, pytest.approx(row["dev"]["accuracy"])) for row in results["epochs"]]
    assert scalars["dev/accuracy"] == dev


def test_no_event_files_where_none_are_wanted(finetune_here, glue_dir):
    code, out = finetune_here("--data_dir", glue_dir, *RUN, "--no_tensorboard")
    assert code == 0 and not list(out.glob("events*"))


def test_labels_that_were_renamed_are_other_labels(finetune_here, tmp_path, capsys):
    """The examples and their labels' numbers are the same."""
    train = write_sentences(tmp_path / "train.csv", 40, 0)
    flags = (*FLAGS, "--train_file", train, "--dev_fraction", "0.2", "--epochs", "1")
    code, out = finetune_here(*flags)
    assert code == 0
    before = {path: path.read_bytes() for path in out.iterdir() if path.name != "train.log"}
    rows = [row.rsplit(",", 1) for row in train.read_text().splitlines()]
    renamed = {"cat": "car", "dog": "dot"}
    train.write_text("".join(f"{text},{renamed.get(x, x)}\n" for text, x in rows))
    assert finetune_here(*flags, "--resume")[0] == 2
    assert "the labels have changed" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in out.iterdir() if path.name != "train.log"}
    assert after == before
