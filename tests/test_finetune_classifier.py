"""The whole script, as a user runs it, with a tiny random BERT."""

from __future__ import annotations

import json

import mxnet as mx
import pytest
from conftest import run_script, write_mrpc
from helpers import FLAGS, write_sentences


def finetune(tiny_bert, *flags, **options):
    return run_script(
        "finetune_classifier.py",
        *("--pretrained_bert_parameters", tiny_bert, "--max_len", "32", "--num_threads", "1"),
        *flags,
        **options,
    )


def test_a_run_leaves_what_is_needed_to_load_it_again(tiny_bert, glue_dir, tmp_path):
    out = tmp_path / "out"
    flags = ("--data_dir", glue_dir, "--epochs", "2", "--lr", "1e-3", "--output_dir", out)
    run = finetune(tiny_bert, *flags)
    assert run.returncode == 0, run.stderr
    assert {p.name for p in out.iterdir()} >= {
        "model.params",
        "config.json",
        "vocab.txt",
        "metrics.json",
        "dev_predictions.tsv",
        "train.log",
    }
    results = json.loads((out / "metrics.json").read_text())
    assert [row["epoch"] for row in results["epochs"]] == [1, 2]
    assert set(results["best"]["dev"]) == {"accuracy", "f1", "loss"}
    rows = (out / "dev_predictions.tsv").read_text().splitlines()
    assert rows[0] == "index\tlabel\tprediction\tlogit_0\tlogit_1"
    assert len(rows) == 31
    right = sum(row.split("\t")[1] == row.split("\t")[2] for row in rows[1:])
    assert right / 30 == results["best"]["dev"]["accuracy"]

    before = {p: p.read_bytes() for p in out.iterdir()}
    again = run_script(
        "finetune_classifier.py",
        *("--model_parameters", out, "--only_inference", "--data_dir", glue_dir),
        *("--output_dir", tmp_path / "evaluation"),
    )
    assert again.returncode == 0, again.stderr
    evaluated = json.loads((tmp_path / "evaluation" / "eval_metrics.json").read_text())
    assert evaluated["dev"]["accuracy"] == results["best"]["dev"]["accuracy"]
    assert evaluated["dev"]["loss"] == pytest.approx(results["best"]["dev"]["loss"], rel=1e-6)
    assert {p: p.read_bytes() for p in out.iterdir()} == before


def test_the_same_seed_gives_the_same_bytes(tiny_bert, glue_dir, tmp_path):
    for name in ("one", "two"):
        flags = ("--data_dir", glue_dir, "--epochs", "1", "--output_dir", tmp_path / name)
        assert finetune(tiny_bert, *flags).returncode == 0
    assert (tmp_path / "one/model.params").read_bytes() == (
        tmp_path / "two/model.params"
    ).read_bytes()


def test_a_training_set_smaller_than_a_batch_trains_on_a_short_batch(tiny_bert, tmp_path):
    glue_dir = write_mrpc(tmp_path / "glue", train=3, dev=2)
    flags = ("--data_dir", glue_dir, "--epochs", "2", "--output_dir", tmp_path / "out")
    run = finetune(tiny_bert, *flags)
    assert run.returncode == 0, run.stderr
    assert "update 2/2" in run.stdout


def test_single_sentences_are_learned_better_than_by_majority(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 160, 0)
    dev = write_sentences(tmp_path / "dev.csv", 60, 1)
    test = write_sentences(tmp_path / "test.csv", 40, 2)
    files = ("--train_file", train, "--dev_file", dev, "--test_file", test)
    code, out = finetune_here(*FLAGS, *files)
    assert code == 0
    results = json.loads((out / "metrics.json").read_text())
    assert list(results["best"]["dev"]) == ["accuracy", "macro_f1", "loss"]
    assert results["best"]["dev"]["accuracy"] > 0.9
    assert results["test"]["accuracy"] > 0.9
    rows = (out / "test_predictions.tsv").read_text().splitlines()
    assert rows[0] == "index\tlabel\tprediction\tlogit_cat\tlogit_dog" and len(rows) == 41

    inference = ("--model_parameters", out, "--only_inference", "--dev_file", test)
    code, again = finetune_here(*inference, out="again", bert=False)
    assert code == 0
    evaluated = json.loads((again / "eval_metrics.json").read_text())["dev"]
    assert evaluated["accuracy"] == results["test"]["accuracy"]

    more = write_sentences(tmp_path / "more.csv", 5, 3)
    more.write_text(more.read_text() + "a bird,bird\n")
    inference = ("--model_parameters", out, "--only_inference", "--dev_file", more)
    assert finetune_here(*inference, out="again", bert=False)[0] == 2


def test_the_test_predictions_are_the_best_epochs_not_the_last(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 40, 0)
    test = write_sentences(tmp_path / "test.csv", 9, 2)
    # What is learned is wrong on the dev set: the first epoch is the best.
    swapped = {"cat": "dog", "dog": "cat"}
    rows = [row.rsplit(",", 1) for row in train.read_text().splitlines()]
    dev = tmp_path / "dev.csv"
    dev.write_text("".join(f"{text},{swapped.get(label, label)}\n" for text, label in rows))
    files = ("--train_file", train, "--dev_file", dev, "--test_file", test)
    _, out = finetune_here(*FLAGS, *files, "--lr", "1e-3")
    assert json.loads((out / "metrics.json").read_text())["best"]["epoch"] == 1
    inference = ("--model_parameters", out, "--only_inference", "--test_file", test)
    _, again = finetune_here(*inference, out="again", bert=False)
    name = "test_predictions.tsv"
    assert (again / name).read_bytes() == (out / name).read_bytes()


def test_a_regression_is_learned(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 160, 0, regression=True)
    dev = write_sentences(tmp_path / "dev.csv", 60, 1, regression=True)
    files = ("--train_file", train, "--dev_file", dev, "--regression")
    code, out = finetune_here(*FLAGS, *files, "--batch_size", "8", "--lr", "1e-3", "--epochs", "8")
    assert code == 0
    best = json.loads((out / "metrics.json").read_text())["best"]
    assert list(best["dev"]) == ["pearson", "spearman", "loss"]
    assert best["dev"]["pearson"] > 0.9
    assert best["dev"]["loss"] < 2  # always saying the mean costs about 2.9
    config = json.loads((out / "config.json").read_text())
    assert config["problem_type"] == "regression" and config["label_column"] == "label"


# With which gluonnlp published its logs, word for word; in the last, --task_name is its default.
PUBLISHED = (
    "--task_name MRPC --batch_size 32 --lr 2e-5 --epochs 5 --seed 27 --warmup_ratio 0.1",
    "--task_name MRPC --batch_size 32 --lr 2e-5 --epochs 3",
    "--task_name RTE --batch_size 32 --lr 2e-5 --epochs 5 --seed 33 --warmup_ratio 0.1",
    "--task_name SST --batch_size 32 --lr 2e-5 --epochs 5 --seed 2 --warmup_ratio 0.1",
    "--task_name CoLA --batch_size 32 --lr 2e-5 --epochs 10 --optimizer bertadam",
    "--task_name STS-B --batch_size 32 --lr 2e-5 --epochs 5 --seed 24 --warmup_ratio 0.1",
    "--batch_size 32 --optimizer bertadam --epochs 2 --seed 2 --lr 6e-5",
)
# A line of each of these tasks' files, by label.
LINES = {
    "RTE": ("0\ta dog ran\tthe cat\t{}", ("entailment", "not_entailment")),
    "SST-2": ("a dog ran \t{}", "01"),
    "CoLA": ("gj04\t{}\t\tA dog ran.", "01"),
    "STS-B": ("0\tmain\tMSRvid\t2012\t1\tnone\tnone\ta dog\tthe cat\t{}", ("0.000", "4.500")),
}
HEADERS = {
    "RTE": "index\tsentence1\tsentence2\tlabel",
    "SST-2": "sentence\tlabel",
    "STS-B": "\t".join(
        "index genre filename year old_index source1 source2 sentence1 sentence2 score".split()
    ),
}


def write_glue(folder):
    """Write small files of the tasks that gluonnlp's logs are of, in their layouts."""
    write_mrpc(folder, train=12, dev=6)
    for name, (line, labels) in LINES.items():
        (folder / name).mkdir()
        rows = [line.format(label) for label in labels]
        header = [HEADERS[name]] if name in HEADERS else []
        for split in ("train", "dev"):
            (folder / name / f"{split}.tsv").write_text("\n".join([*header, *rows * 6]) + "\n")
    return folder


@pytest.mark.parametrize("flags", PUBLISHED)
def test_the_commands_of_gluonnlps_logs_train_and_evaluate(flags, finetune_here, tmp_path, capsys):
    data = ("--data_dir", write_glue(tmp_path / "glue"))
    code, out = finetune_here(*flags.split(), "--pad", *data)
    output = capsys.readouterr()
    assert code == 0 and output.err.count("--pad is not needed") == 1
    assert output.err.count("\n") == 1
    results = json.loads((out / "metrics.json").read_text())
    assert len(results["epochs"]) == int(flags.partition("--epochs ")[2].split()[0])
    assert results["epochs"][0]["dev"].keys() >= {"loss"}
    again = ("--model_parameters", out, "--only_inference", "--pad", *flags.split())
    assert finetune_here(*again, *data, out="again", bert=False)[0] == 0
    scores = json.loads((tmp_path / "again" / "eval_metrics.json").read_text())["dev"]
    assert scores == pytest.approx(results["best"]["dev"], rel=1e-5)


@pytest.mark.parametrize("more", ["--gpu 0", "--gpu 0 --dtype float16", "--pad --gpu"])
def test_without_a_gpu_gluonnlps_flags_are_answered_in_one_sentence(
    more, finetune_here, tmp_path, capsys
):
    if mx.context.num_gpus():
        pytest.skip("this machine has a GPU")
    code, out = finetune_here(*PUBLISHED[0].split(), *more.split())
    *notes, sentence = capsys.readouterr().err.splitlines()
    assert code == 2 and sentence.endswith("or leave out --gpu") and not out.exists()
    assert ["--pad is not needed" in note for note in notes] == ["--pad" in more] * len(notes)


def test_a_regression_is_not_calibrated(finetune_here, tmp_path, capsys):
    """Whether the task says that it is one, or the model to start from."""
    data = ("--data_dir", write_glue(tmp_path / "glue"))
    code, _ = finetune_here("--task_name", "STS-B", *data, "--calibrate")
    assert code == 2 and "STS-B is a regression" in capsys.readouterr().err
    train = write_sentences(tmp_path / "train.csv", 20, 0, regression=True)
    files = ("--train_file", train, "--dev_fraction", "0.2", "--epochs", "1")
    code, model = finetune_here("--text_a_column", "text", *files, "--regression", out="scores")
    assert code == 0
    again = ("--model_parameters", model, *files, "--calibrate")
    code, _ = finetune_here(*again, bert=False)
    assert code == 2 and "own data is a regression" in capsys.readouterr().err
