"""Runs with --long_text, from texts that are too long to predictions, exports and model cards."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import WORDS, write_bert_directory
from helpers import resumed_after_kill, write_sentences
from test_other_models import write_model

import export_classifier
import finetune_classifier
import plot_runs
import predict
from bert.classifier import load_classifier
from bert.parameters import read_params
from bert.run_config import LONG_TEXT, config_text
from finetuning.results import inference
from finetuning.results.texts import InputRow

FILLERS = [word for word in WORDS if word.isalpha() and word not in ("cat", "dog")]
# A short training of texts of 40 to 90 words at 32 tokens.
SHORT = ("--text_a_column", "text", "--epochs", "2", "--batch_size", "8", "--lr", "1e-3")


def write_endings(path, count, seed, words=(1400, 100)):
    """Write texts of fillers, at whose end the answer stands: cat or dog, many times."""
    random = np.random.default_rng(seed)
    rows = ["text,label"]
    for i in range(count):
        answer = ("cat", "dog")[i % 2]
        rows.append(
            f"{' '.join([*random.choice(FILLERS, words[0]), *[answer] * words[1]])},{answer}"
        )
    path.write_text("\n".join(rows) + "\n")
    return path


def write_long(path, count, seed, label="label", pairs=False):
    """Write texts of 5 to 90 words, the last of which is the label."""
    random = np.random.default_rng(seed)
    rows = [f"text,{label}"]
    if pairs:
        rows = [f"text,other,{label}"]
    for i in range(count):
        answer = ("cat", "dog")[i % 2]
        columns = [
            " ".join([*random.choice(FILLERS, random.integers(4, 90)), answer])
            for _ in range(1 + pairs)
        ]
        rows.append(",".join([*columns, answer if label == "label" else f"{len(columns[0]) / 99}"]))
    path.write_text("\n".join(rows) + "\n")
    return path


def predictions_of(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def answers_of(run, path, *flags):
    """Return what predict.py answers to the rows of a file."""
    out = run / "answers.jsonl"
    argv = ["--model_dir", run, "--input", path, "--output", out, "--overwrite", *flags]
    assert predict.main([str(text) for text in argv]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture(scope="module")
def endings(tiny_config, tmp_path_factory):
    """Runs on texts of 1,500 tokens with 512 positions, by --long_text; test.csv is beside them."""
    folder = tmp_path_factory.mktemp("endings")
    model = write_bert_directory(folder / "bert", replace(tiny_config, max_length=512))
    train, dev = (
        write_endings(folder / "train.csv", 80, 0),
        write_endings(folder / "dev.csv", 40, 1),
    )
    test = write_endings(folder / "test.csv", 20, 2)
    for long_text in LONG_TEXT:
        argv = ["--pretrained_bert_parameters", model, "--max_len", "512", "--train_file", train]
        argv += ["--dev_file", dev, "--test_file", test, "--text_a_column", "text"]
        argv += ["--epochs", "5", "--batch_size", "16", "--lr", "3e-3", "--dropout", "0"]
        argv += ["--long_text", long_text, "--output_dir", folder / long_text]
        assert finetune_classifier.main([str(text) for text in argv]) == 0
    return folder


@pytest.mark.parametrize(
    "long_text, accuracy, seen",
    [
        ("head", 0.5, "80 truncated at --max_len 512; the model sees 34.1% of the tokens"),
        ("head_tail", 1.0, "80 truncated at --max_len 512; the model sees 34.1% of the tokens"),
        (
            "windows",
            1.0,
            "80 longer than --max_len 512, in 320 windows; the model sees 100.0% of the tokens",
        ),
    ],
)
def test_an_answer_at_the_end_of_1500_tokens_is_seen_by_head_tail_and_windows(
    endings, long_text, accuracy, seen
):
    run = endings / long_text
    results = json.loads((run / "metrics.json").read_text())
    assert results["best"]["dev"]["accuracy"] == results["test"]["accuracy"] == accuracy
    assert results["data"]["train"]["examples"] == 80
    assert json.loads((run / "config.json").read_text())["long_text"] == long_text
    header = " ".join((run / "train.log").read_text().split())
    assert f"max 512; {seen} " in header
    assert len(predictions_of(run / "dev_predictions.tsv")) == 40
    card = (run / "README.md").read_text()
    assert ("Of a longer text the model sees the beginning" in card) == (long_text == "head_tail")
    assert ("A longer text is divided into overlapping windows" in card) == (long_text == "windows")


@pytest.mark.parametrize("long_text", LONG_TEXT)
def test_predict_and_python_answer_as_the_run_predicted_its_test_file(endings, long_text):
    run, test = endings / long_text, endings / "test.csv"
    found = answers_of(run, test, "--batch_size", "3")
    logits = np.array(
        [
            [float(row["logit_cat"]), float(row["logit_dog"])]
            for row in predictions_of(run / "test_predictions.tsv")
        ]
    )
    powers = np.exp(logits)
    expected = powers / powers.sum(axis=1, keepdims=True)
    probabilities = [list(row["probabilities"].values()) for row in found]
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    texts = [row["text"] for row in csv.DictReader(test.open())]
    answers = [{name: x for name, x in row.items() if name != "index"} for row in found]
    assert load_classifier(run)(texts) == answers  # to the last digit
    classifier = load_classifier(run)
    assert classifier.net is not None  # by the network's own operators
    for answer, row in zip(classifier(texts[:3]), found, strict=False):
        assert answer["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)


def test_a_killed_run_of_windows_resumes_to_the_same_bytes(tiny_bert, tmp_path):
    train = write_long(tmp_path / "train.csv", 120, 0)
    flags = ["--pretrained_bert_parameters", tiny_bert, "--max_len", "32", "--train_file", train]
    flags += [*SHORT, "--dev_fraction", "0.2", "--long_text", "windows", "--accumulate", "2"]
    flags += ["--checkpoint_steps", "7"]
    folders = resumed_after_kill(flags, tmp_path)
    for name in ("model.params", "dev_predictions.tsv", "dev_examples.params", "dev_mistakes.tsv"):
        first, second = (folder / name for folder in folders)
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.parametrize("frozen", ["embeddings", "1", "all"])
def test_outputs_of_frozen_layers_are_kept_for_each_window(finetune_here, tmp_path, frozen):
    files = ("--train_file", write_long(tmp_path / "train.csv", 40, 0))
    dev = write_long(tmp_path / "dev.csv", 20, 1)
    files += ("--dev_file", dev, "--test_file", dev, "--long_text", "windows")
    code, run = finetune_here(*SHORT, *files, "--freeze", frozen)
    assert code == 0
    kept, computed = (  # the frozen part computes the test examples anew
        [[float(row["logit_cat"]), float(row["logit_dog"])] for row in predictions_of(run / name)]
        for name in ("dev_predictions.tsv", "test_predictions.tsv")
    )
    np.testing.assert_allclose(kept, computed, atol=1e-5)
    # With MXNet's own operators nothing is kept.
    code, stock = finetune_here(
        *SHORT, *files, "--freeze", frozen, "--dropout", "0", "--no_native", out="stock"
    )
    code_, run = finetune_here(*SHORT, *files, "--freeze", frozen, "--dropout", "0", out="fused")
    assert code == code_ == 0
    found, expected = (read_params(out / "model.params") for out in (run, stock))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=2e-4, err_msg=name)


@pytest.mark.parametrize(
    "flags, columns",
    [
        (("--regression", "--label_column", "score"), ("score",)),
        (("--multi_label", "--calibrate"), ("labels", "probabilities")),
        (("--class_weights", "balanced", "--calibrate"), ("label", "probabilities")),
    ],
)
def test_every_kind_of_task_has_one_row_per_example(finetune_here, tmp_path, flags, columns):
    label = "score" if "--regression" in flags else "label"
    train, dev = (write_long(tmp_path / f"{i}.csv", 40 - 20 * i, i, label) for i in range(2))
    files = ("--train_file", train, "--dev_file", dev, "--test_file", dev)
    code, run = finetune_here(*SHORT, *flags, *files, "--long_text", "windows")
    assert code == 0
    rows = predictions_of(run / "dev_predictions.tsv")
    assert [row["index"] for row in rows] == [str(i) for i in range(20)]
    assert rows == predictions_of(run / "test_predictions.tsv")
    assert len(read_params(run / "dev_examples.params")["windows"]) == 21
    answers = answers_of(run, dev)
    assert [tuple(row) for row in answers] == [("index", *columns)] * 20
    if label == "score":
        expected = [float(row["prediction"]) for row in rows]
        np.testing.assert_allclose([row["score"] for row in answers], expected, rtol=1e-5)
    texts = [row["text"] for row in csv.DictReader(dev.open())]
    assert [{"index": i} | row for i, row in enumerate(load_classifier(run)(texts))] == answers
    assert plot_runs.main([str(run), "--output_dir", str(tmp_path / "pictures")]) == 0
    assert "| dev | 20 |" in (run / "README.md").read_text()


def test_folds_seeds_and_samples_are_of_examples(finetune_here, tmp_path, capsys):
    train = write_long(tmp_path / "train.csv", 60, 0)
    flags = (*SHORT, "--train_file", train, "--long_text", "windows", "--epochs", "1")
    code, run = finetune_here(*flags, "--folds", "3", out="folds")
    assert code == 0
    rows = [predictions_of(run / f"fold_{i}/dev_predictions.tsv") for i in (1, 2, 3)]
    assert sorted(int(row["index"]) for part in rows for row in part) == list(range(60))
    more = ("--dev_fraction", "0.25", "--max_train_samples", "20")
    code, run = finetune_here(*flags, *more, "--seeds", "1,2", out="seeds")
    assert code == 0
    for seed in (1, 2):
        data = json.loads((run / f"seed-{seed}/metrics.json").read_text())["data"]
        assert data["train"]["examples"] == 20 and data["dev"]["examples"] == 15
    code, alone = finetune_here(*flags, *more, "--seed", "2", out="alone")
    assert code == 0
    first, second = (out / "model.params" for out in (run / "seed-2", alone))
    assert first.read_bytes() == second.read_bytes()
    capsys.readouterr()
    assert finetune_here(*flags, "--folds", "3", "--check")[0] == 0
    printed = capsys.readouterr().out
    assert " windows\n  segment 0: [CLS]" in printed and "the longest batch (8 examples" in printed


def test_pairs_of_roberta_are_windows_with_its_special_tokens(
    tiny_config, finetune_here, tmp_path, capsys
):
    model = write_model(tmp_path / "model", tiny_config, "roberta")
    train = write_long(tmp_path / "train.csv", 40, 0, pairs=True)
    flags = ("--pretrained_bert_parameters", model, "--max_len", "32", "--text_b_column", "other")
    files = ("--train_file", train, "--dev_fraction", "0.3", "--long_text", "windows")
    code, run = finetune_here(*SHORT, *flags, *files, bert=False)
    assert code == 0
    dev = read_params(run / "dev_examples.params")
    for start, end in zip(dev["offsets"][:-1], dev["offsets"][1:], strict=True):
        ids = dev["input_ids"][start:end].tolist()
        assert ids[0] == 0 and ids[-1] == 2 and ids.count(2) == 3 and len(ids) <= 32
    rows = list(csv.DictReader(train.open()))
    found = answers_of(run, train)
    answers = load_classifier(run)([row["text"] for row in rows], [row["other"] for row in rows])
    assert [{"index": i} | row for i, row in enumerate(answers)] == found
    logits = {int(r["index"]): r for r in predictions_of(run / "dev_predictions.tsv")}
    for index, row in logits.items():
        odds = float(row["logit_dog"]) - float(row["logit_cat"])
        assert found[index]["probabilities"]["dog"] == pytest.approx(
            1 / (1 + np.exp(-odds)), abs=1e-5
        )


@pytest.mark.parametrize(
    "long_text, sentence",
    [
        ("head", "at most 32 tokens per example: truncate longer texts."),
        ("head_tail", "pass the first quarter of the tokens that there is room for"),
        ("windows", "divide a longer text into windows of 32 tokens"),
    ],
)
def test_an_export_says_what_its_caller_must_do(
    finetune_here, tmp_path, capsys, long_text, sentence
):
    train = write_long(tmp_path / "train.csv", 40, 0)
    files = ("--train_file", train, "--dev_fraction", "0.3", "--long_text", long_text)
    code, run = finetune_here(*SHORT, *files, "--epochs", "1")
    assert code == 0
    for format in ("gluon", "huggingface", "onnx"):
        if format == "onnx":
            pytest.importorskip("onnxruntime")
        capsys.readouterr()
        argv = ["--model_dir", str(run), "--format", format, "--output_dir", str(tmp_path / format)]
        assert export_classifier.main(argv) == 0  # compares the logits of 12 examples
        printed = capsys.readouterr().out
        assert "12 dev examples" in printed
        assert (f"note: for the results of --long_text {long_text}" in printed) == (
            long_text != "head"
        )
        assert sentence in (tmp_path / format / "README.md").read_text()


def test_a_model_is_used_and_trained_further_as_it_was_trained(
    endings, finetune_here, tmp_path, capsys
):
    model = ("--model_parameters", endings / "windows", "--dev_file", endings / "dev.csv")
    code, run = finetune_here(*model, "--only_inference", bert=False)
    assert code == 0
    best = json.loads((endings / "windows/metrics.json").read_text())["best"]
    assert json.loads((run / "eval_metrics.json").read_text())["dev"] == best["dev"]
    flags = (*model, "--only_inference", "--long_text", "head")
    assert finetune_here(*flags, out="other", bert=False)[0] == 2
    sentence = "--long_text head: --model_parameters was trained with windows"
    assert sentence in capsys.readouterr().err


def test_a_run_of_an_earlier_version_sees_the_head(endings, tmp_path, finetune_here, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("model.params", "vocab.txt"):
        (run / name).write_bytes((endings / "windows" / name).read_bytes())
    config = json.loads((endings / "windows/config.json").read_text())
    vocabulary = (run / "vocab.txt").read_text()

    def write(**changes):
        del config["long_text"]
        config.update(changes)
        (run / "config.json").write_text(config_text(config, vocabulary))

    texts = [row["text"] for row in csv.DictReader((endings / "test.csv").open())][:4]
    write(long_text="head")
    expected = load_classifier(run)(texts)
    assert expected != load_classifier(endings / "windows")(texts)
    write()
    assert load_classifier(run)(texts) == expected
    model = ("--model_parameters", run, "--dev_file", endings / "dev.csv", "--only_inference")
    assert finetune_here(*model, "--long_text", "windows", bert=False)[0] == 2
    assert "was trained with head" in capsys.readouterr().err
    assert finetune_here(*model, "--long_text", "head", bert=False)[0] == 0
    config["long_text"] = ""
    write(long_text="tail")
    capsys.readouterr()
    assert predict.main(["--model_dir", str(run), "--text_a", "a cat"]) == 2
    assert "long_text is 'tail', but must be one of head, head_tail, windows" in (
        capsys.readouterr().err
    )


def test_long_rows_are_predicted_in_short_chunks_that_end_where_a_run_is_resumed(monkeypatch):
    monkeypatch.setattr(inference, "_CHARACTERS", 10)
    lengths = [1, 2, 12, 1, 1, 1, 9, 6, 6, 1, 1, 1]
    rows = [InputRow(["x" * length, None]) for length in lengths]

    def sizes(rows):
        return [len(chunk) for chunk in inference._chunks(iter(rows), 4)]

    assert sizes(rows) == [3, 1, 3, 1, 4] and sizes(rows[4:]) == [3, 1, 4]


def test_short_texts_train_the_same_model_whatever_long_text_is(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 60, 0)
    models = []
    for long_text in LONG_TEXT:
        files = ("--train_file", train, "--dev_fraction", "0.3", "--long_text", long_text)
        code, run = finetune_here(*SHORT, *files, out=long_text)
        assert code == 0
        names = ("model.params", "dev_examples.params", "dev_predictions.tsv")
        models.append([(run / name).read_bytes() for name in names])
    assert models[0] == models[1] == models[2]
