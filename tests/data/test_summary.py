"""What is printed about the data before training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import FLAGS, write_sentences

from dataset import TokenizedExamples
from finetuning import console
from finetuning.data.splits import Dataset
from finetuning.data.summary import log_data
from finetuning.data.tasks import TASKS, own_task


def test_skipped_rows_are_listed_in_a_file(finetune_here, tmp_path, capsys):
    train = write_sentences(tmp_path / "train.csv", 20, 0)
    train.write_text(train.read_text() + ",cat\n")
    files = ("--train_file", train, "--dev_fraction", "0.2", "--training_steps", "1")
    assert finetune_here(*FLAGS, *files)[0] == 2
    code, out = finetune_here(*FLAGS, *files, "--skip_bad_rows")
    assert code == 0
    listed = (out / "skipped_rows.tsv").read_text().splitlines()
    assert listed == ["file\tline\tproblem", f"{train}\t22\tthe text is empty"]
    assert "1 skipped" in capsys.readouterr().out


def test_check_reports_and_leaves_nothing(finetune_here, tmp_path, capsys):
    train = write_sentences(tmp_path / "train.csv", 40, 0)
    first = train.read_text().splitlines()[1].split(",")
    train.write_text(train.read_text() + f"{first[0]},bird\n{first[0].upper()},{first[1]}\n")
    dev = tmp_path / "dev.csv"
    dev.write_text(f"text,label\n{','.join(first)}\n{'the cat ' * 40},cat\n")
    code, out = finetune_here(*FLAGS, "--train_file", train, "--dev_file", dev, "--check")
    assert code == 0 and not out.exists()
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "columns text 'text'; label 'label'",
        "bird: 1 (2.4%)",
        "labels dev: bird: 0 (0.0%), cat: ",
        "tokens train: mean ",
        "max 32; 1 truncated at --max_len 32",
        "repeated 2 rows in train, 1 with conflicting labels",
        "warning 1 rows of dev are also in train: dev scores will be optimistic",
        "segment 0: [CLS] " + first[0],
        f"label '{first[1]}'",
        "the longest batch (16 examples",
        "s for 5 epochs",
    ):
        assert expected in text, expected


def test_the_header_fits_a_terminal_and_warns_of_test_rows_in_train(capsys):
    task = own_task("a long name of a column with texts", "another long name", "label", False)
    task = replace(task, labels=tuple(f"label number {i}" for i in range(20)))
    label = np.arange(20, dtype=np.int32)
    part = TokenizedExamples(label, np.arange(21), label * 0 + 1, label, 8, label < 0)
    data = Dataset(task, part, {"": part.take(label[:3])}, {"test": part.take(label[2:4])})
    console.start_logging(None)
    log_data(data, unknown=-1)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "task own data: 20 train, 3 dev, 2 test" in text
    assert "repeated 1 rows of test are also in dev" in text
    assert "warning 2 rows of test are also in train: test scores will be optimistic" in text


def test_the_header_of_unrepeated_rows_has_no_warning(capsys):
    label = np.arange(4, dtype=np.int32)
    part = TokenizedExamples(label, np.arange(5), label * 0 + 1, label % 2, 8, label < 0)
    data = Dataset(TASKS["MRPC"], part.take(label[:2]), {"": part.take(label[2:])})
    console.start_logging(None)
    log_data(data, unknown=-1)
    text = capsys.readouterr().out
    assert "repeated  none" in text and "warning" not in text


@pytest.mark.parametrize("last, repeated", [(4, "repeated 1 rows in dev"), (5, "repeated none")])
def test_examples_of_several_windows_are_repeated_if_all_windows_are(capsys, last, repeated):
    ids = np.array([1, 2, 3, 4, 1, 2, 3, last, 9], np.int32)  # windows of two tokens, then of one
    offsets, first = np.array([0, 2, 4, 6, 8, 9]), np.full(5, 1, np.int32)
    label, truncated = np.array([0, 0, 1], np.int32), np.zeros(3, bool)
    windows, seen = np.array([0, 2, 4, 5]), np.array([[4, 4], [4, 4], [1, 1]])
    part = TokenizedExamples(ids, offsets, first, label, 2, truncated, None, windows, seen)
    console.start_logging(None)
    log_data(Dataset(TASKS["MRPC"], None, {"": part}), unknown=-1)
    text = " ".join(capsys.readouterr().out.split())
    assert "dev: 0: 2 (66.7%), 1: 1 (33.3%)" in text and repeated in text
    assert "2 longer than --max_len 2, in 4 windows; the model sees 100.0% of the tokens" in text


def test_labels_that_look_alike_and_texts_that_the_model_does_not_know_are_warned_of(
    finetune_here, tmp_path, capsys
):
    train = tmp_path / "train.csv"
    train.write_text("text,label\n" + "猫 猫,pos\n犬 犬,pos \n鳥,1\n\u200b,1.0\n" * 4)
    flags = (*FLAGS, "--train_file", train, "--dev_file", train, "--check")
    assert finetune_here(*flags)[0] == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "the labels 'pos' and 'pos ' are two classes" in text
    assert "the labels '1' and '1.0' are two classes" in text
    assert "of the tokens of train are [UNK]" in text
    assert "4 examples of dev have a text without any token" in text
    assert "'pos ': 4 (25.0%)" in text
