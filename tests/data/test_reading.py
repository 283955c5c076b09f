"""The texts and labels of a user's own files."""

from __future__ import annotations

import json

import pytest
from helpers import PAIR, SCORES, SINGLE, read

from bert.errors import UserError
from finetuning.data.reading import read_own
from finetuning.data.rows import BadRows
from finetuning.data.tasks import own_task


def test_labels_are_sorted_whatever_their_order_in_the_file(tmp_path):
    task, examples = read(tmp_path / "t.csv", "text,label\na,z\nb,é\nc,m\nd,z\n")
    assert task.labels == ("m", "z", "é") and examples.label.tolist() == [1, 2, 0, 1]


def test_labels_of_json_may_be_numbers_and_truth_values(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "1"}, {"text": "c", "label": True}]
    task, examples = read(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert task.labels == ("1", "true") and examples.label.tolist() == [0, 0, 1]


GOOD = "text,label\nfirst,no\nsecond,yes\n"
MISTAKES = {
    "an empty text": ("t.csv", GOOD + " ,no\n", SINGLE, "line 4: the text is empty"),
    "an empty second text": ("t.csv", "a,b,label\nx,,no\n", PAIR, "line 2: the second text"),
    "an empty label": ("t.csv", GOOD + "third,\n", SINGLE, "line 4: the label is empty"),
    "a label with a tab": ("t.csv", GOOD + 'x,"a\tb"\n', SINGLE, "line 4: .*tab"),
    "no number": ("t.csv", "text,label\na,1\nb,high\n", SCORES, "line 3: 'high'.*not a number"),
    "an infinite number": ("t.csv", "text,label\na,1e39\n", SCORES, "line 2: '1e39'"),
    "one class": ("t.csv", "text,label\na,no\nb,no\n", SINGLE, "every row has the label 'no'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_is_refused_in_one_sentence_with_file_and_line(mistake, tmp_path):
    name, content, task, complaint = MISTAKES[mistake]
    with pytest.raises(UserError, match=complaint) as error:
        read(tmp_path / name, content, task)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_bad_rows_are_skipped_and_listed_and_the_others_kept(tmp_path):
    bad = BadRows(skip=True)
    content = (
        'text,label\nfirst,no\n ,no\nsecond,yes\nx\0,no\n"third,no\nstill the third",yes\n'
        '"a" b,no\n' + '"' + "y" * 2_000_000 + "\nlong,no\n" + '",yes\nlast,no\n'
    )
    _, examples = read(tmp_path / "t.csv", content, SINGLE, bad)
    assert examples.text_a[:] == ["first", "second", "third,no\nstill the third", "last"]
    assert [line for _, line, _ in bad.first] == [3, 5, 8, 9]


def test_a_test_file_needs_no_labels(tmp_path):
    task = own_task("text", None, "label", False, ("no", "yes"))
    (tmp_path / "test.csv").write_text("text\none\n")
    examples = read_own(tmp_path / "test.csv", task, BadRows(), labelled=False)
    assert not examples.labelled and examples.text_a[:] == ["one"]
    with pytest.raises(UserError, match="'label'"):
        read_own(tmp_path / "test.csv", task, BadRows())
