"""A run with --multi_label, from its files to predictions, pictures and exports."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import FLAGS
from safetensors.numpy import load_file
from scipy.special import expit
from sklearn.metrics import f1_score

import export_classifier
import finetune_classifier
import plot_runs
import predict
from bert.parameters import read_params, write_params
from finetuning import signals
from finetuning.data.splits import folds, split_off
from finetuning.data.tasks import task_from_config
from finetuning.results.predictions import read_predictions, read_rows
from finetuning.training import trainer

LABELS = ("cat", "dog", "red")
SMALL = (*FLAGS, "--label_column", "topics", "--multi_label", "|")


def write_topics(path, count, seed):
    """Sentences whose topics are those of the words dog, cat and red that they say."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = list(random.choice("the a of green house ran sat".split(), 6))
        topics = [label for label in LABELS if random.random() < 0.4]
        words[: len(topics)] = topics
        random.shuffle(words)
        rows.append([" ".join(words), topics])
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "topics": topics}) for text, topics in rows]
    elif path.stem == "columns":
        lines = [f"text,{','.join(LABELS)}"]
        lines += [",".join([t, *("01"[label in topics] for label in LABELS)]) for t, topics in rows]
    else:
        lines = ["text,topics", *(f"{text},{'|'.join(topics)}" for text, topics in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tiny_bert, tmp_path_factory):
    """A folder with the files a.csv and b.csv, and a run that was trained on them."""
    folder = tmp_path_factory.mktemp("topics")
    train, dev = write_topics(folder / "a.csv", 480, 0), write_topics(folder / "b.csv", 60, 1)
    files = ("--train_file", train, "--dev_file", dev, "--test_file", dev)
    flags = (*SMALL, *files, "--epochs", "12", "--calibrate", "--max_len", "32")
    model = ("--pretrained_bert_parameters", tiny_bert, "--output_dir", folder / "out")
    assert finetune_classifier.main([str(flag) for flag in (*model, *flags)]) == 0
    return folder


@pytest.fixture
def run_folder(trained, tmp_path):
    """The run in ``trained``, to be changed; b.csv is in ``tmp_path``."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def truth(path):
    if path.suffix == ".jsonl":
        return [json.loads(line)["topics"] for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return [row["topics"].split("|") if row["topics"] else [] for row in csv.DictReader(file)]


def test_a_run_learns_several_labels_and_reports_their_f1(run_folder, tmp_path):
    config = json.loads((run_folder / "config.json").read_text())
    task = task_from_config(config)
    assert task.labels == LABELS and config["problem_type"] == "multi_label_classification"
    label, logits = read_predictions(run_folder / "dev_predictions.tsv", task)
    true = np.array([[name in names for name in LABELS] for names in truth(tmp_path / "b.csv")])
    np.testing.assert_array_equal(label, true)
    results = json.loads((run_folder / "metrics.json").read_text())
    best, predicted = results["best"]["dev"], expit(logits) >= 0.5
    for average in ("micro", "macro"):
        expected = f1_score(true, predicted, average=average)
        assert best[f"{average}_f1"] == pytest.approx(expected) == results["test"][f"{average}_f1"]
    assert best["micro_f1"] > 0.7
    assert best["micro_f1"] == max(row["dev"]["micro_f1"] for row in results["epochs"])
    entropy = -np.where(true, np.log(expit(logits)), np.log(expit(-logits))).mean()
    assert best["loss"] == pytest.approx(entropy, rel=1e-5)
    for i, name in enumerate(LABELS):
        scores = results["best"]["per_class"][name]
        assert scores["f1"] == pytest.approx(f1_score(true[:, i], predicted[:, i]))
        assert scores["support"] == true[:, i].sum()
    rows = list(read_rows(run_folder / "test_predictions.tsv"))
    assert rows[0] == ["index", "label", "prediction", *(f"logit_{name}" for name in LABELS)]
    written = [
        "|".join(name for name, x in zip(LABELS, row, strict=True) if x) for row in predicted
    ]
    assert [row[2] for row in rows[1:]] == written


def test_predict_applies_the_thresholds_of_the_run(run_folder, tmp_path, capsysbinary):
    config = json.loads((run_folder / "config.json").read_text())
    calibration = config["calibration"]
    thresholds = calibration["thresholds"]
    assert list(thresholds) == list(LABELS)
    for format in ("jsonl", "csv"):
        argv = ("--model_dir", run_folder, "--input", tmp_path / "b.csv", "--format", format)
        assert predict.main([str(text) for text in argv]) == 0
        lines = capsysbinary.readouterr().out.decode().splitlines()
        answers = [json.loads(x) for x in lines] if format == "jsonl" else [*csv.DictReader(lines)]
        sets = []
        for answer in answers:
            if format == "jsonl":
                probabilities, labels = answer["probabilities"], answer["labels"]
            else:
                probabilities = {name: float(answer[f"probability_{name}"]) for name in LABELS}
                labels = answer["labels"].split("|") if answer["labels"] else []
            assert labels == [x for x in LABELS if probabilities[x] >= thresholds[x]]
            sets.append([name in labels for name in LABELS])
        true = np.array([[name in names for name in LABELS] for names in truth(tmp_path / "b.csv")])
        assert f1_score(true, sets, average="macro") == pytest.approx(calibration["macro_f1_after"])
    assert calibration["macro_f1_after"] >= calibration["macro_f1_before"]


def test_a_threshold_that_is_not_one_half_decides(run_folder, capsysbinary):
    from bert.run_config import config_text

    config = json.loads((run_folder / "config.json").read_text())
    config["calibration"]["thresholds"] = {"cat": 0.0, "dog": 1.0, "red": 0.0}
    vocabulary = (run_folder / "vocab.txt").read_text()
    (run_folder / "config.json").write_text(config_text(config, vocabulary))
    argv = ["--model_dir", str(run_folder), "--text_a", "dog dog dog"]
    assert predict.main(argv) == 0
    assert json.loads(capsysbinary.readouterr().out)["labels"] == ["cat", "red"]
    del config["calibration"]["thresholds"]["red"]
    (run_folder / "config.json").write_text(config_text(config, vocabulary))
    assert predict.main(argv) == 2
    assert b"thresholds are not those of the labels" in capsysbinary.readouterr().err


def test_the_three_forms_of_the_labels_train_the_same_model(finetune_here, tmp_path):
    models = []
    for name, column in (
        ("a.csv", "topics"),
        ("a.jsonl", "topics"),
        ("columns.csv", "cat,dog,red"),
    ):
        train = write_topics(tmp_path / name, 60, 0)
        flags = ("--train_file", train, "--dev_fraction", "0.3", "--epochs", "1")
        flags += ("--label_column", column, "--multi_label", "|")
        code, out = finetune_here("--text_a_column", "text", *flags, out=f"out-{name}")
        assert code == 0
        models.append(
            [(out / file).read_bytes() for file in ("model.params", "dev_predictions.tsv")]
        )
    assert models[0] == models[1] == models[2]


def interrupt_after(updates, monkeypatch):
    original, seen = trainer.Trainer.updates_until, []

    def interrupting(self, stop):
        for update in original(self, stop):
            seen.append(update)
            if len(seen) == updates:
                raise signals.Interrupted(2)
            yield update

    monkeypatch.setattr(trainer.Trainer, "updates_until", interrupting)


def check_resuming(flags, finetune_here, monkeypatch) -> Path:
    """Check that an interrupted run ends with the bytes of a complete one, which is returned."""
    code, complete = finetune_here(*flags, out="complete")
    assert code == 0
    with monkeypatch.context() as patch:
        interrupt_after(5, patch)
        assert finetune_here(*flags, "--checkpoint_steps", "2", out="resumed")[0] != 0
    code, resumed = finetune_here("--resume", out="resumed", bert=False)
    assert code == 0
    for name in ("model.params", "dev_predictions.tsv", "dev_mistakes.tsv", "config.json"):
        assert (complete / name).read_bytes() == (resumed / name).read_bytes()
    return complete


def test_an_interrupted_run_ends_with_the_same_bytes(finetune_here, tmp_path, monkeypatch):
    train = write_topics(tmp_path / "a.csv", 60, 0)
    flags = (*SMALL, "--train_file", train, "--dev_fraction", "0.3", "--lr", "1e-3")
    check_resuming(flags, finetune_here, monkeypatch)


@pytest.mark.parametrize("part", ["embeddings", "1", "all"])
def test_several_labels_are_learned_behind_a_frozen_part(
    part, finetune_here, tmp_path, tiny_bert, monkeypatch, capsys
):
    """With the kept outputs, and without them: MXNet's own operators keep none."""
    train = write_topics(tmp_path / "a.csv", 120, 0)
    flags = (*SMALL, "--train_file", train, "--dev_fraction", "0.3", "--freeze", part)
    flags += ("--calibrate", "--lr", "1e-3")
    out = check_resuming(flags, finetune_here, monkeypatch)
    epochs = json.loads((out / "metrics.json").read_text())["epochs"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    start, found = load_file(tiny_bert / "model.safetensors"), read_params(out / "model.params")
    words = "bert.word_embed.0.weight"
    (name,) = (name for name in start if name.endswith("word_embeddings.weight"))
    np.testing.assert_array_equal(found[words], start[name])
    config = json.loads((out / "config.json").read_text())
    thresholds = config["calibration"]["thresholds"]
    capsys.readouterr()
    argv = ("--model_dir", out, "--input", train, "--keep_columns", "topics")
    assert predict.main([str(text) for text in argv]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 120
    for answer in answers:
        above = [x for x in LABELS if answer["probabilities"][x] >= thresholds[x]]
        assert answer["labels"] == above

    flags = (*flags, "--dropout", "0", "--epochs", "1")
    losses = []
    for native in ((), ("--no_native",)):
        code, again = finetune_here(*flags, *native, out=f"again{len(native)}")
        assert code == 0
        losses.append(json.loads((again / "metrics.json").read_text())["best"]["dev"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("format", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_columns_are_kept_beside_several_labels(ending, format, run_folder, tmp_path, capsysbinary):
    """Also the column of the labels, which the answer's column of another name stands beside."""
    source = write_topics(tmp_path / f"new.{ending}", 20, 3)
    with source.open("a") as file:
        file.write("" if ending == "csv" else '{"text": "", "topics": ["a\\nb"]}\n')
        file.write(',"a\nb"\n' if ending == "csv" else "")
    argv = ["--model_dir", run_folder, "--input", source, "--keep_columns", "topics,text"]
    argv += ["--format", format, "--skip_bad_rows", "--top_k", "2"]
    assert predict.main([str(text) for text in argv]) == 0
    text = capsysbinary.readouterr().out.decode()
    if format == "jsonl":
        answers = [json.loads(line) for line in text.splitlines()]
    else:
        file = io.StringIO(text, newline="")
        answers = [*csv.DictReader(file, delimiter="," if format == "csv" else "\t")]
    assert [str(answer["index"]) for answer in answers] == [str(i) for i in range(21)]
    assert list(answers[0])[:4] == ["index", "topics", "text", "labels"]
    expected = truth(source)
    kept = [answer["topics"] for answer in answers]
    if ending == "csv":
        kept = [topics.split("|") if topics else [] for topics in kept]
    elif format != "jsonl":
        kept = [json.loads(topics) for topics in kept]
    assert kept == expected
    assert answers[-1]["error"] and not answers[-1].get("labels")


def test_a_column_named_as_the_answers_is_refused(run_folder, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("text,labels,label\na,b,c\n")
    argv = ["--model_dir", run_folder, "--input", tmp_path / "new.csv", "--keep_columns"]
    assert predict.main([str(text) for text in (*argv, "labels")]) == 2
    assert "--keep_columns labels: the output has a column 'labels'" in capsys.readouterr().err
    assert predict.main([str(text) for text in (*argv, "label")]) == 0


def test_folds_seeds_and_only_inference(finetune_here, run_folder, tmp_path):
    train = tmp_path / "b.csv"
    flags = (*SMALL, "--train_file", train, "--epochs", "1")
    code, out = finetune_here(*flags, "--folds", "3", out="folds")
    assert code == 0 and len(json.loads((out / "metrics.json").read_text())["folds"]) == 3
    more = ("--seeds", "1,2", "--dev_fraction", "0.2", "--early_stop", "1")
    code, out = finetune_here(*flags, *more, out="seeds")
    assert code == 0
    assert "micro_f1" in json.loads((out / "metrics.json").read_text())["mean"]
    again = ("--only_inference", "--model_parameters", run_folder, "--dev_file", train)
    code, out = finetune_here(*again, out="again", bert=False)
    assert code == 0
    scores = json.loads((out / "eval_metrics.json").read_text())
    best = json.loads((run_folder / "metrics.json").read_text())["best"]
    assert scores["dev"] == best["dev"] and scores["per_class"] == best["per_class"]
    further = ("--model_parameters", run_folder, "--train_file", train, "--dev_fraction", "0.2")
    code, out = finetune_here(*further, "--epochs", "1", out="further", bert=False)
    assert code == 0
    config = json.loads((out / "config.json").read_text())
    assert config["label_separator"] == "|" and list(config["label2id"]) == list(LABELS)


def test_pictures_and_model_card_show_each_label(run_folder, tmp_path):
    assert plot_runs.main([str(run_folder), "--output_dir", str(tmp_path / "pictures")]) == 0
    names = {path.stem for path in (tmp_path / "pictures").glob("*.png")}
    assert {"label_f1", "reliability"} <= names and "confusion" not in names
    page = (tmp_path / "pictures/index.html").read_text()
    assert "F1 of each label" in page and all(f">{name}</text>" in page for name in LABELS)
    card = (run_folder / "README.md").read_text()
    config = json.loads((run_folder / "config.json").read_text())
    assert "any of 3 labels (`topics`)" in card and "micro_f1" in card
    for name, value in config["calibration"]["thresholds"].items():
        assert f"| threshold of `{name}` | {value:.4f} |" in card


@pytest.mark.parametrize("format", ["gluon", "huggingface", "onnx"])
def test_exports_are_checked_and_say_what_the_outputs_are(run_folder, tmp_path, capsys, format):
    out = tmp_path / format
    argv = ["--model_dir", str(run_folder), "--format", format, "--output_dir", str(out)]
    assert export_classifier.main(argv) == 0
    printed = capsys.readouterr().out
    assert "micro_f1" in printed and "all labels right" in printed and "labels changed" in printed
    config = json.loads((out / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["calibration"]["thresholds"]) == list(LABELS)
    assert "the sigmoid of each" in (out / "README.md").read_text()


def test_what_does_not_go_with_several_labels_is_refused(
    finetune_here, tmp_path, capsys, run_folder
):
    train = write_topics(tmp_path / "a.csv", 40, 0)
    files = ("--train_file", train, "--dev_fraction", "0.2")
    for flag in (("--regression",), ("--class_weights", "balanced")):
        with pytest.raises(SystemExit) as exit_:
            finetune_here(*SMALL, *files, *flag, out="refused")
        assert exit_.value.code == 2 and "--multi_label" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        finetune_here("--multi_label", out="refused")
    flags = ("--model_parameters", run_folder, *files, "--class_weights", "balanced")
    assert finetune_here(*flags, out="refused", bert=False)[0] == 2
    assert "--class_weights" in capsys.readouterr().err


def test_a_separator_that_separates_nothing_is_noticed(finetune_here, tmp_path, capsys):
    train = write_topics(tmp_path / "a.csv", 60, 0)
    flags = (*FLAGS, "--label_column", "topics", "--multi_label", "--train_file", train)
    assert finetune_here(*flags, "--dev_fraction", "0.3", "--check")[0] == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "no training row has several labels separated by ','" in printed
    assert "should --multi_label be '|'?" in printed


def test_labels_may_be_separated_by_spaces(finetune_here, tmp_path):
    train = write_topics(tmp_path / "a.csv", 60, 0)
    train.write_text(train.read_text().replace("|", " "))
    flags = (*FLAGS, "--label_column", "topics", "--multi_label", "space", "--train_file", train)
    code, out = finetune_here(*flags, "--dev_fraction", "0.3", "--epochs", "1")
    assert code == 0
    assert list(json.loads((out / "config.json").read_text())["label2id"]) == list(LABELS)


def test_labels_without_anything_to_learn_are_called_chance(finetune_here, tmp_path, capsys):
    random = np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(['red', 'blue'], 5))},{x}" for x in "ab" * 60]
    random.shuffle(lines)
    (tmp_path / "a.csv").write_text("\n".join(["text,topics", *lines, "red,a|b"]) + "\n")
    flags = (*SMALL, "--train_file", tmp_path / "a.csv", "--dev_fraction", "0.4", "--epochs", "1")
    assert finetune_here(*flags)[0] == 0
    assert "no better than chance" in capsys.readouterr().out


def test_a_split_keeps_the_share_of_each_label():
    random = np.random.default_rng(0)
    label = (random.random((1000, 4)) < [0.5, 0.2, 0.1, 0.02]).astype(np.uint8)
    rest, dev = split_off(label, 0.2, 1, regression=False)
    assert sorted([*rest, *dev]) == list(range(1000)) and len(dev) == 200
    counts = label.sum(axis=0)
    assert (abs(label[dev].sum(axis=0) - counts / 5) <= np.maximum(2, counts / 25)).all()
    assert split_off(label, 0.2, 2, False)[1].tolist() != dev.tolist()
    parts = [part for _, part in folds(label, 5, 1, regression=False)]
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert all(abs(label[part][:, 3].sum() - counts[3] / 5) < 1 for part in parts)


@pytest.mark.parametrize(
    "label",
    [
        np.full((60, 3), 2, np.uint8),
        np.ones((60, 2), np.uint8),
        np.ones((60, 0), np.uint8),
        np.ones(60, np.uint8),
        np.ones(60, np.int32),
        np.ones((60, 3), np.int32),
    ],
)
def test_dev_examples_with_other_labels_are_refused(run_folder, tmp_path, capsys, label):
    arrays = read_params(run_folder / "dev_examples.params")
    assert arrays["label"].dtype == np.uint8 and arrays["label"].shape == (60, 3)
    write_params(run_folder / "dev_examples.params", {**arrays, "label": label})
    argv = ["--model_dir", str(run_folder), "--format", "gluon"]
    assert export_classifier.main([*argv, "--output_dir", str(tmp_path / "x")]) == 2
    assert "dev_examples.params" in capsys.readouterr().err
