"""A user's own files: every format, every foreseeable mistake, and whole runs on them."""

from __future__ import annotations

import gzip
import json
from math import inf

import numpy as np
import pytest
from conftest import run_script
from helpers import FLAGS, write_sentences

from bert.errors import UserError
from finetuning.data.reading import read_own, read_own_training_file
from finetuning.data.splits import folds, parse_class_weights, split_off
from finetuning.data.tables import BadRows
from finetuning.data.tasks import own_task
from finetuning.training.losses import WeightedCrossEntropy

SINGLE = own_task("text", None, "label", regression=False)
PAIR = own_task("a", "b", "label", regression=False)
SCORES = own_task("text", None, "label", regression=True)


def read(path, content, task=SINGLE, bad=None):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if task.labels or task.regression:
        return task, read_own(path, task, bad or BadRows())
    return read_own_training_file(path, task, bad or BadRows())


FORMATS = {
    "plain.tsv": "label\tid\ta\tb\nno\t1\tone\ttwo\nyes\t2\tthree\tfour\n",
    "bom-and-crlf.csv": "\ufefflabel,a,b\r\nno,one,two\r\nyes,three,four\r\n",
    "quoted.csv": '"b","label","a"\n"two","no","one"\n"four","yes","three"\n',
    "blank-lines.tsv": "\nlabel\ta\tb\n\nno\tone\ttwo\n\nyes\tthree\tfour\n\n",
    "objects.jsonl": '{"label":"no","a":"one","b":"two"}\n\n{"b":"four","a":"three","label":"yes"}',
    "UPPER.TSV": "label\ta\tb\nno\tone\ttwo\nyes\tthree\tfour",
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("zipped", [False, True], ids=["", "gz"])
def test_a_format_is_read(name, zipped, tmp_path):
    content = FORMATS[name].encode()
    path = tmp_path / (f"{name}.gz" if zipped else name)
    task, examples = read(path, gzip.compress(content) if zipped else content, PAIR)
    assert task.labels == ("no", "yes") and examples.label.tolist() == [0, 1]
    assert examples.text_a[:] == ["one", "three"] and examples.text_b[:] == ["two", "four"]


def test_tabs_line_ends_and_quotes_inside_quotes_are_text(tmp_path):
    content = 'text\tlabel\n"a\tb\r\nc ""d"" \u2028e"\tno\nf "g" h\tyes\n'
    _, examples = read(tmp_path / "train.tsv", content)
    assert examples.text_a[:] == ['a\tb\r\nc "d" \u2028e', 'f "g" h']


def test_labels_are_sorted_whatever_their_order_in_the_file(tmp_path):
    task, examples = read(tmp_path / "t.csv", "text,label\na,z\nb,é\nc,m\nd,z\n")
    assert task.labels == ("m", "z", "é") and examples.label.tolist() == [1, 2, 0, 1]


def test_labels_of_json_may_be_numbers_and_truth_values(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "1"}, {"text": "c", "label": True}]
    task, examples = read(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert task.labels == ("1", "true") and examples.label.tolist() == [0, 0, 1]


GOOD = "text,label\nfirst,no\nsecond,yes\n"
MISTAKES = {
    "an unknown column": ("t.csv", "txt,label\na,no\n", SINGLE, "line 1: .*'text'.*txt, label"),
    "an unknown key": ("t.jsonl", '{"txt":"a"}\n', SINGLE, "line 1: .*'text'.*txt"),
    "a column twice": ("t.csv", "text,label,text\na,no,b\n", SINGLE, "line 1: .*'text' is .*twice"),
    "a missing field": ("t.csv", GOOD + "third\n", SINGLE, "line 4: 1 fields.* has 2"),
    "a field too many": ("t.csv", GOOD + "a,b,no\n", SINGLE, "line 4: 3 fields.* has 2"),
    "an empty text": ("t.csv", GOOD + " ,no\n", SINGLE, "line 4: the text is empty"),
    "an empty second text": ("t.csv", "a,b,label\nx,,no\n", PAIR, "line 2: the second text"),
    "an empty label": ("t.csv", GOOD + "third,\n", SINGLE, "line 4: the label is empty"),
    "a label with a tab": ("t.csv", GOOD + 'x,"a\tb"\n', SINGLE, "line 4: .*tab"),
    "no number": ("t.csv", "text,label\na,1\nb,high\n", SCORES, "line 3: 'high'.*not a number"),
    "an infinite number": ("t.csv", "text,label\na,1e39\n", SCORES, "line 2: '1e39'"),
    "one class": ("t.csv", "text,label\na,no\nb,no\n", SINGLE, "every row has the label 'no'"),
    "a NUL byte": ("t.csv", GOOD + "a\0b,no\n", SINGLE, "line 4: byte 2 is NUL"),
    "a NUL byte in JSON": ("t.jsonl", '{"text":"a\0"}', SINGLE, "line 1: byte 11 is NUL"),
    "a long line": ("t.csv", GOOD + "x" * 10_000_000 + ",no\n", SINGLE, "line 4: .*longer than"),
    "a long line of JSON": ("t.jsonl", '"' + "x" * 10_000_000, SINGLE, "line 1: .*longer than"),
    "bytes that are no UTF-8": ("t.csv", GOOD.encode() + b"\xff,no\n", SINGLE, "line 4: byte 1"),
    "UTF-16": ("t.csv", GOOD.encode("utf-16"), SINGLE, "line 1: byte 1 is not UTF-8"),
    "an open quote": ("t.csv", GOOD + '"third,no\nx,y\n', SINGLE, "line 4: a quote .*never closed"),
    "text after a quote": ("t.csv", GOOD + '"a" b,no\n', SINGLE, "line 4: quotes"),
    "a lone carriage return": ("t.csv", GOOD + "a\rb,no\n", SINGLE, "line 4: a carriage return"),
    "no JSON": ("t.jsonl", "{'text': 1}\n", SINGLE, "line 1: not JSON"),
    "deep JSON": ("t.jsonl", "[" * 100_000, SINGLE, "line 1: not JSON"),
    "a list": ("t.jsonl", "[1]\n", SINGLE, "line 1: not a JSON object"),
    "a text that is a list": ("t.jsonl", '{"text":[],"label":1}', SINGLE, "line 1: 'text'"),
    "a text that is null": ("t.jsonl", '{"text":null,"label":1}', SINGLE, "line 1: .*no 'text'"),
    "half a character": ("t.jsonl", '{"text":"\\ud800","label":1}', SINGLE, "line 1: .*surrogate"),
    "nothing": ("t.csv", "", SINGLE, "line 1: the file is empty"),
    "nothing in JSON": ("t.jsonl", "\n", SINGLE, "line 1: the file is empty"),
    "only a header": ("t.csv", "text,label\n", SINGLE, "no rows"),
    "an unknown ending": ("t.xlsx", GOOD, SINGLE, r"none of \.tsv, \.csv, \.jsonl"),
    "damaged gzip": ("t.csv.gz", gzip.compress(GOOD.encode())[:-9], SINGLE, "damaged"),
    "no gzip at all": ("t.csv.gz", GOOD, SINGLE, "damaged"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_is_refused_in_one_sentence_with_file_and_line(mistake, tmp_path):
    name, content, task, complaint = MISTAKES[mistake]
    with pytest.raises(UserError, match=complaint) as error:
        read(tmp_path / name, content, task)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_the_line_of_a_quoted_row_is_where_it_begins(tmp_path):
    with pytest.raises(UserError, match="line 5: 1 fields"):
        read(tmp_path / "t.csv", 'text,label\n"one\ntwo\nthree",no\n"four\nfive"\nsix,yes\n')


@pytest.mark.parametrize("missing", [True, False])
def test_a_path_that_is_no_file_is_refused(missing, tmp_path):
    path = tmp_path / "t.csv"
    if not missing:
        path.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*t\.csv: (No such file|Is a directory)"):
        read_own(path, SINGLE, BadRows())


def test_bad_rows_are_skipped_and_listed_and_the_others_kept(tmp_path):
    bad = BadRows(inf)
    content = (
        'text,label\nfirst,no\n ,no\nsecond,yes\nx\0,no\n"third,no\nstill the third",yes\n'
        '"a" b,no\n' + '"' + "y" * 2_000_000 + "\nlong,no\n" + '",yes\nlast,no\n'
    )
    _, examples = read(tmp_path / "t.csv", content, SINGLE, bad)
    assert examples.text_a[:] == ["first", "second", "third,no\nstill the third", "last"]
    assert [line for _, line, _ in bad.rows] == [3, 5, 8, 9]


def test_a_test_file_needs_no_labels(tmp_path):
    task = own_task("text", None, "label", False, ("no", "yes"))
    (tmp_path / "test.csv").write_text("text\none\n")
    examples = read_own(tmp_path / "test.csv", task, BadRows(), labelled=False)
    assert not examples.labelled and examples.text_a[:] == ["one"]
    with pytest.raises(UserError, match="'label'"):
        read_own(tmp_path / "test.csv", task, BadRows())


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
    files = ("--train_file", train, "--dev_file", train, "--test_file", test)
    # So small steps change no answer: the first epoch stays the best, but not the same.
    _, out = finetune_here(*FLAGS, *files, "--lr", "1e-5")
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


def test_a_label_only_in_dev_is_refused_with_its_line(finetune_here, tmp_path, capsys):
    train = write_sentences(tmp_path / "train.csv", 20, 0)
    (tmp_path / "dev.csv").write_text("text,label\nthe cat,cat\nthe bird,bird\n")
    files = ("--train_file", train, "--dev_file", tmp_path / "dev.csv")
    assert finetune_here(*FLAGS, *files)[0] == 2
    sentence = capsys.readouterr().err
    assert "dev.csv, line 3: 'bird' is not a label" in sentence and "cat, dog" in sentence


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


def test_class_weights_weigh_the_loss_of_their_labels():
    import mxnet as mx

    task = own_task("text", None, "label", False, ("a", "b=c"))
    label = np.array([0, 0, 0, 1])
    assert parse_class_weights("balanced", task, label).tolist() == [
        pytest.approx(4 / 6),
        pytest.approx(4 / 2),
    ]
    assert parse_class_weights("b=c=2.5", task, label).tolist() == [1.0, 2.5]
    for wrong in ("d=1", "a=x", "a=-1", "a", "a=inf"):
        with pytest.raises(UserError, match="--class_weights"):
            parse_class_weights(wrong, task, label)
    logits = mx.nd.array([[0.0, 0.0], [0.0, 0.0]])
    loss = WeightedCrossEntropy(np.array([1.0, 3.0]))(logits, mx.nd.array([0, 1], dtype="int32"))
    assert loss.asnumpy().tolist() == pytest.approx([np.log(2), 3 * np.log(2)], rel=1e-5)


def test_class_weights_move_what_is_learned(finetune_here, tmp_path):
    train = write_sentences(tmp_path / "train.csv", 60, 0)
    files = ("--train_file", train, "--dev_fraction", "0.3", "--epochs", "2")
    recalls = []
    for weights in ("cat=100", "dog=100"):
        code, out = finetune_here(
            *FLAGS, *files, "--class_weights", weights, "--lr", "1e-3", "--overwrite"
        )
        assert code == 0
        best = json.loads((out / "metrics.json").read_text())["best"]["per_class"]
        recalls.append((best["cat"]["recall"], best["dog"]["recall"]))
    assert recalls[0][0] == 1 and recalls[1][1] == 1


def test_check_reports_and_leaves_nothing(finetune_here, tmp_path, capsys):
    train = write_sentences(tmp_path / "train.csv", 40, 0)
    first = train.read_text().splitlines()[1].split(",")
    train.write_text(train.read_text() + f"{first[0]},bird\n{first[0].upper()},{first[1]}\n")
    dev = tmp_path / "dev.csv"
    dev.write_text(f"text,label\n{','.join(first)}\n{'the cat ' * 40},cat\n")
    code, out = finetune_here(*FLAGS, "--train_file", train, "--dev_file", dev, "--check")
    assert code == 0 and not out.exists()
    text = capsys.readouterr().out
    for expected in (
        "columns   text 'text', label 'label'",
        "bird: 1 (2.4%)",
        "dev bird: 0 (0.0%), cat: ",
        "--max_len 32 truncates 1",
        "2 rows in train, 1 with another label",
        "1 of dev are in train too",
        "segment 0: [CLS] " + first[0],
        f"label '{first[1]}'",
        "the longest batch (16 examples",
        "min for 5 epochs",
    ):
        assert expected in text, expected


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (("--train_file", "t.csv"), "--dev_fraction"),
        (("--train_file", "t.csv", "--dev_fraction", "1"), "--dev_fraction"),
        (("--train_file", "t.csv", "--folds", "1"), "--folds"),
        (("--train_file", "t.csv", "--folds", "2", "--dev_fraction", "0.1"), "one of"),
        (("--train_file", "t.csv", "--dev_file", "d.csv", "--task_name", "RTE"), "--task_name"),
        (("--dev_file", "d.csv"), "--train_file"),
        (("--folds", "2"), "--train_file"),
        (("--regression",), "--regression"),
        (("--text_a_column", "x"), "--text_a_column"),
        (
            ("--train_file", "t", "--folds", "2", "--regression", "--class_weights", "balanced"),
            "--class_weights",
        ),
        (
            ("--train_file", "t", "--folds", "2", "--text_a_column", "x", "--label_column", "x"),
            "must be different",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_flags_that_do_not_go_together_are_refused(flags, complaint, capsys):
    from finetuning.options import parse

    with pytest.raises(SystemExit) as error:
        parse("", list(flags))
    assert error.value.code == 2 and complaint in capsys.readouterr().err


def test_a_wrong_file_ends_the_script_with_2(tiny_bert, tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n,no\n")
    run = run_script(
        *("finetune_classifier.py", "--pretrained_bert_parameters", tiny_bert, *FLAGS),
        *("--train_file", tmp_path / "t.csv", "--dev_fraction", "0.5"),
        *("--output_dir", tmp_path / "out"),
    )
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "t.csv, line 2: the text is empty" in run.stderr
