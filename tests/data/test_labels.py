"""Cells with any number of labels, and their text in files of predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import read
from hypothesis import given
from hypothesis import strategies as st

from bert.errors import UserError
from finetuning.data.labels import join_labels, label_text, split_labels
from finetuning.data.reading import read_own
from finetuning.data.rows import BadRows
from finetuning.data.tasks import own_task, task_from_config, task_to_config

SETS = own_task("text", None, "topics", False, separator=",")
COLUMNS = own_task("text", None, "toxic, rude", False, separator=",")


@pytest.mark.parametrize(
    "cell, separator, names",
    [
        ("", ",", []),
        ("  ", "|", []),
        ("a", ",", ["a"]),
        ("a, b ,c,,", ",", ["a", "b", "c"]),
        ("a,b|c", "|", ["a,b", "c"]),
        ("a b  c", " ", ["a", "b", "c"]),
        ("a::b", "::", ["a", "b"]),
        ("[]", ",", []),
        (' ["a, b", "c|d"]', ",", ["a, b", "c|d"]),
        ('[1, true, "x"]', ",", ["1", "true", "x"]),
        ("[draft], final", ",", ["[draft]", "final"]),
    ],
)
def test_a_cell_is_a_json_list_or_names_with_the_separator_between_them(cell, separator, names):
    assert split_labels(cell, separator) == names


@pytest.mark.parametrize(
    "cell, sentence",
    [
        ("['a', 'b']", "is not a JSON list"),
        ("['a' 'b']", "is not a JSON list"),
        ('[["a"]]', "holds other things"),
        ("[null]", "holds other things"),
        ('[{"a": 1}]', "holds other things"),
        ('["\\ud800"]', "surrogate"),
        ("[" * 100_000 + "]" * 100_000, "is not a JSON list"),
    ],
)
def test_a_list_that_is_not_one_of_names_is_refused(cell, sentence):
    with pytest.raises(ValueError, match=sentence):
        split_labels(cell, ",")


NAMES = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=4)


@given(NAMES, st.text(st.characters(codec="utf-8"), min_size=1, max_size=3))
def test_labels_are_read_back_from_their_text(names, separator):
    assert split_labels(join_labels(names, separator), separator) == names


def test_labels_of_a_training_file_are_learned_and_an_empty_cell_is_no_label(tmp_path):
    content = 'text,topics\none,"b, a"\ntwo,\nthree,a\nfour,"[""c""]"\nfive,"a,a"\n'
    task, examples = read(tmp_path / "train.csv", content, SETS)
    assert task.labels == ("a", "b", "c")
    assert examples.label.dtype == np.uint8
    assert examples.label.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert [label_text(task, row) for row in examples.label] == ["a,b", "", "a", "c", "a"]


def test_json_lines_may_have_lists_null_and_text(tmp_path):
    rows = [["b", "a"], [], None, "a", [7, True]]
    content = "".join(json.dumps({"text": "x", "topics": row}) + "\n" for row in rows)
    task, examples = read(tmp_path / "train.jsonl", content, SETS)
    assert task.labels == ("7", "a", "b", "true")
    names = [[task.labels[i] for i in np.flatnonzero(row)] for row in examples.label]
    assert names == [["a", "b"], [], [], ["a"], ["7", "true"]]


@pytest.mark.parametrize("value", [[["a"]], [{"a": 1}], {"a": 1}])
def test_other_json_values_are_no_labels(tmp_path, value):
    content = json.dumps({"text": "x", "topics": value}) + "\n"
    with pytest.raises(UserError, match="line 1: 'topics' is neither text nor a number"):
        read(tmp_path / "train.jsonl", content, SETS)


def test_a_column_for_each_label_holds_0_or_1(tmp_path):
    content = "text,rude,toxic\na,0,1\nb,1.0,TRUE\nc,,false\n"
    task, examples = read(tmp_path / "train.csv", content, COLUMNS)
    assert task.labels == ("toxic", "rude")  # as --label_column names them
    assert examples.label.tolist() == [[1, 0], [1, 1], [0, 0]]
    for cell in ("-1", "2", "x", "0.5"):
        with pytest.raises(UserError, match="line 2: the column 'rude' must be 0 or 1"):
            read(tmp_path / "train.csv", f"text,rude,toxic\na,{cell},1\n", COLUMNS)
    with pytest.raises(UserError, match="line 1: no column 'rude'"):
        read(tmp_path / "train.csv", "text,toxic\na,1\n", COLUMNS)


def test_labels_of_skipped_rows_are_not_learned(tmp_path):
    content = 'text,topics\na,"x,y"\n,z\nb,"w,[]"\nc,"[""v"", """"]"\n'
    bad = BadRows(skip=True)
    task, examples = read(tmp_path / "train.csv", content, SETS, bad)
    assert task.labels == ("[]", "w", "x", "y")
    assert (len(examples), bad.skipped) == (2, 2)


def test_training_rows_without_any_difference_are_refused(tmp_path):
    with pytest.raises(UserError, match="no row has a label in the column 'topics'"):
        read(tmp_path / "train.csv", "text,topics\na,\nb,\n", SETS)
    with pytest.raises(UserError, match="every row has the label 'x'"):
        read(tmp_path / "train.csv", "text,topics\na,x\nb,x\n", SETS)
    assert read(tmp_path / "train.csv", "text,topics\na,x\nb,\n", SETS)[0].labels == ("x",)


def test_a_column_of_other_things_is_refused_before_a_table_of_all_labels_is_made(tmp_path):
    rows = "".join(f"x,{i}\n" for i in range(300_000))  # 90 GB of labels
    with pytest.raises(UserError, match=r"300000 different values.*--multi_label"):
        read(tmp_path / "train.csv", "text,topics\n" + rows, SETS)


def test_rows_to_predict_are_scored_only_with_known_labels(tmp_path):
    task = own_task("text", None, "topics", False, ("a", "b"), separator=",")
    path = tmp_path / "test.csv"
    for cells, labelled in ((["a", ""], True), (["", ""], False), (["a", "x"], False)):
        path.write_text("text,topics\n" + "".join(f"t,{cell}\n" for cell in cells))
        assert read_own(path, task, BadRows(), labelled=False).labelled == labelled
    path.write_text("text\nt\n")
    assert not read_own(path, task, BadRows(), labelled=False).labelled
    with pytest.raises(UserError, match="'x' is not a label"):
        path.write_text("text,topics\nt,x\n")
        read_own(path, task, BadRows())


@pytest.mark.parametrize("label_column", ["topics", "a,b"])
def test_config_json_describes_the_task(label_column):
    task = own_task("text", None, label_column, False, ("a", "b"), separator=";")
    config = json.loads(json.dumps(task_to_config(task)))
    assert config["problem_type"] == "multi_label_classification"
    assert task_from_config(config) == task


def test_columns_of_labels_are_those_of_the_model():
    with pytest.raises(UserError, match="'a' is two of them"):
        own_task("a", None, "a,b", False, separator=",")
    with pytest.raises(UserError, match="are not the labels of the model"):
        own_task("text", None, "a,b,c", False, ("a", "b"), separator=",")
