"""Which examples a run trains on, evaluates on and predicts."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers import FLAGS, write_sentences

from bert.errors import UserError
from finetuning.data.splits import folds, parse_class_weights, split_off
from finetuning.data.tasks import own_task


def test_a_label_only_in_dev_is_refused_with_its_line(finetune_here, tmp_path, capsys):
    train = write_sentences(tmp_path / "train.csv", 20, 0)
    (tmp_path / "dev.csv").write_text("text,label\nthe cat,cat\nthe bird,bird\n")
    files = ("--train_file", train, "--dev_file", tmp_path / "dev.csv")
    assert finetune_here(*FLAGS, *files)[0] == 2
    sentence = capsys.readouterr().err
    assert "dev.csv, line 3: 'bird' is not a label" in sentence and "cat, dog" in sentence


def test_a_split_off_dev_part_is_stratified_and_the_seeds():
    label = np.repeat([0, 1], [90, 10]).astype(np.int32)
    rest, dev = split_off(label, 0.2, 3, regression=False)
    assert np.bincount(label[dev]).tolist() == [18, 2]
    assert sorted([*rest, *dev]) == list(range(100))
    assert split_off(label, 0.2, 3, False)[1].tolist() == dev.tolist()
    assert split_off(label, 0.2, 4, False)[1].tolist() != dev.tolist()
    with pytest.raises(UserError, match="--dev_fraction"):
        split_off(np.array([0, 0, 0, 1]), 0.5, 1, regression=False)


def test_folds_use_every_row_once_to_evaluate():
    label = np.repeat([0, 1], [20, 10]).astype(np.int32)
    parts = list(folds(label, 5, 1, regression=False))
    assert sorted(np.concatenate([dev for _, dev in parts])) == list(range(30))
    for rest, dev in parts:
        assert np.bincount(label[dev]).tolist() == [4, 2]
        assert not set(rest) & set(dev)
    with pytest.raises(UserError, match="10 rows"):
        folds(label, 11, 1, regression=False)


def test_class_weights_are_balanced_or_named():
    task = own_task("text", None, "label", False, ("a", "b=c"))
    label = np.array([0, 0, 0, 1])
    assert parse_class_weights("balanced", task, label).tolist() == [
        pytest.approx(4 / 6),
        pytest.approx(4 / 2),
    ]
    assert parse_class_weights("b=c=2.5", task, label).tolist() == [1.0, 2.5]
    for wrong in ("d=1", "a=x", "a=-1", "a", "a=inf", "a=1e39", "a=1e-50"):
        with pytest.raises(UserError, match="--class_weights"):
            parse_class_weights(wrong, task, label)


def test_class_weights_take_spaces_and_labels_with_commas_and_no_label_twice():
    task = own_task("text", None, "label", False, ("a", "b,c"))
    label = np.array([0, 1])
    assert parse_class_weights("a=2, b,c=3", task, label).tolist() == [2, 3]
    for wrong, complaint in {"a=2,a=3": "'a' is there twice", "a=2,d=1": "'d' is not"}.items():
        with pytest.raises(UserError, match=complaint):
            parse_class_weights(wrong, task, label)


def test_a_label_with_one_row_cannot_be_split():
    with pytest.raises(UserError, match="1 of 2 labels have only one row"):
        split_off(np.array([0, 0, 0, 1]), 0.5, 1, regression=False)


def test_check_refuses_folds_that_cannot_be(finetune_here, tmp_path, capsys):
    train = write_sentences(tmp_path / "train.csv", 10, 0)
    code, _ = finetune_here(*FLAGS, "--train_file", train, "--folds", "9", "--check")
    assert code == 2 and "--folds 9: the rarest label has only" in capsys.readouterr().err


def test_a_stream_that_each_seed_would_read_again_is_refused(finetune_here, tmp_path, capsys):
    os.mkfifo(tmp_path / "t.csv")
    files = ("--train_file", tmp_path / "t.csv", "--dev_fraction", "0.5", "--seeds", "1,2")
    assert finetune_here(*FLAGS, *files)[0] == 2
    assert "no regular file" in capsys.readouterr().err
