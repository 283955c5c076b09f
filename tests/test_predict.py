"""predict.py: what it reads, computes and writes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil

import numpy as np
import pytest
from conftest import run_script
from helpers import interrupt, predict_here, write_sentences

from bert import load_classifier, runtime
from bert.run_config import config_text


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_predictions_are_those_of_the_evaluation(runs, finetune_here, tmp_path):
    test = write_sentences(tmp_path / "test.csv", 70, 7)
    inference = ("--model_parameters", runs / "single", "--only_inference", "--test_file", test)
    code, out = finetune_here(*inference, bert=False)
    assert code == 0
    rows = (out / "test_predictions.tsv").read_text().splitlines()[1:]
    expected = [row.split("\t")[2] for row in rows]
    assert len(set(expected)) == 2

    output = tmp_path / "predictions.jsonl"
    flags = ("--model_dir", runs / "single", "--input", test, "--output", output)
    assert predict_here(*flags, "--batch_size", "8") == 0
    predictions = lines_of(output)
    assert [row["index"] for row in predictions] == list(range(70))
    assert [row["label"] for row in predictions] == expected
    for row in predictions:
        assert list(row["probabilities"]) == ["cat", "dog"]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert max(row["probabilities"], key=row["probabilities"].get) == row["label"]


def probabilities_of(path):
    return np.array([list(row["probabilities"].values()) for row in lines_of(path)])


def test_bfloat16_is_float32_to_two_digits(runs, tmp_path):
    test = write_sentences(tmp_path / "test.csv", 70, 7)
    found = []
    for dtype in ("float32", "bfloat16"):
        output = tmp_path / f"{dtype}.jsonl"
        flags = ("--model_dir", runs / "single", "--input", test, "--output", output)
        assert predict_here(*flags, "--dtype", dtype) == 0
        found.append(probabilities_of(output))
    assert not np.array_equal(*found)
    np.testing.assert_allclose(*found, atol=5e-3)


def test_a_processor_without_bfloat16_is_said_to_emulate_it(runs, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: None)
    flags = ("--model_dir", runs / "single", "--text_a", "a dog", "--dtype", "bfloat16")
    assert predict_here(*flags) == 0
    assert "warning: this processor emulates bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize("units, taken", [(None, "float32"), ("AMX", "bfloat16")])
def test_auto_is_the_type_that_the_processor_is_faster_in(
    units, taken, runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(runtime, "bfloat16_units", lambda: units)
    test = write_sentences(tmp_path / "test.csv", 20, 7)
    found = []
    for dtype in ("auto", taken):
        output = tmp_path / f"{dtype}.jsonl"
        flags = ("--model_dir", runs / "single", "--input", test, "--output", output)
        assert predict_here(*flags, "--dtype", dtype) == 0
        found.append((output.read_bytes(), capsys.readouterr().err))
        answers = load_classifier(runs / "single", dtype=dtype)(["the dog", "a cat"])
        found[-1] += (answers,)
    assert found[0][0] == found[1][0] and found[0][2] == found[1][2]
    assert f"note: --dtype auto takes {taken}" in found[0][1]
    assert "--dtype auto" not in found[1][1]


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 5e-3)])
def test_without_a_compiler_mxnets_operators_give_the_same(dtype, tolerance, runs, tmp_path):
    test = write_sentences(tmp_path / "test.csv", 40, 7)
    found = []
    for compiler in (None, "false"):
        output = tmp_path / f"{compiler}.jsonl"
        files = ("--model_dir", runs / "single", "--input", test, "--output", output)
        environment = {**os.environ, "CXX": compiler} if compiler else None
        run = run_script("predict.py", *files, "--dtype", dtype, env=environment)
        assert run.returncode == 0, run.stderr
        assert ("fused operators unavailable" in run.stderr) == (compiler is not None)
        found.append(probabilities_of(output))
    np.testing.assert_allclose(*found, atol=tolerance)


@pytest.mark.usefixtures("native_library")
def test_predicting_on_a_cpu_does_not_load_mxnet(runs):
    """Which would take longer than everything else."""
    code = f"""
import sys, predict
assert predict.main(["--model_dir", {str(runs / "single")!r}, "--text_a", "a dog"]) == 0
sys.exit(" ".join({{"mxnet", "scipy", "pandas", "pyarrow"}} & set(sys.modules)) or 0)
"""
    run = run_script("-c", code)
    assert run.returncode == 0 and '"label"' in run.stdout, run.stderr


PAIR_FILES = {
    "pairs.tsv": "two\tid\tone\nthe cat\t1\ta dog\na house\t2\tthe road\n",
    "pairs.csv": '"text_b","text_a"\r\n"the cat","a dog"\r\na house,the road\r\n',
    "pairs.jsonl": '{"one":"a dog","two":"the cat"}\n{"two":"a house","one":"the road"}\n',
}


def test_every_format_gives_the_same_rows(runs, tmp_path):
    found = []
    for name, content in PAIR_FILES.items():
        for zipped in (False, True):
            path = tmp_path / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
            output = tmp_path / "out.jsonl"
            flags = ("--model_dir", runs / "pairs", "--input", path, "--output", output)
            assert predict_here(*flags, "--overwrite") == 0
            found.append(output.read_text())
    assert len(set(found)) == 1 and found[0].count("\n") == 2


@pytest.mark.parametrize(
    "name, flags, delimiter",
    [
        ("out.tsv", (), "\t"),
        ("out.csv", (), ","),
        ("out.CSV", (), ","),
        ("out", ("--format", "csv"), ","),
        ("out.jsonl", ("--format", "tsv"), "\t"),
    ],
)
def test_a_table_has_a_column_for_each_probability(name, flags, delimiter, runs, tmp_path):
    test = write_sentences(tmp_path / "test.csv", 5, 1)
    output = tmp_path / name
    files = ("--input", test, "--output", output)
    assert predict_here("--model_dir", runs / "single", *files, *flags) == 0
    rows = list(csv.reader(io.StringIO(output.read_text()), delimiter=delimiter))
    assert rows[0] == ["index", "label", "probability_cat", "probability_dog"]
    assert [row[0] for row in rows[1:]] == list("01234")
    assert all(row[1] == ("cat" if float(row[2]) > 0.5 else "dog") for row in rows[1:])


def test_csv_quotes_what_has_to_be_quoted(runs, tmp_path, monkeypatch):
    shutil.copytree(runs / "single", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    labels = {"0": 'the "cat", a', "1": "dog"}
    changes = {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}}
    text = config_text(config | changes, (tmp_path / "run" / "vocab.txt").read_text())
    (tmp_path / "run" / "config.json").write_text(text)
    test = write_sentences(tmp_path / "test.csv", 70, 7)
    output = tmp_path / "out.csv"
    flags = ("--model_dir", tmp_path / "run", "--input", test, "--output", output)
    assert predict_here(*flags) == 0
    header, *rows = csv.reader(io.StringIO(output.read_text()))
    assert header[2] == 'probability_the "cat", a'
    assert {row[1] for row in rows} == set(labels.values()) and len(rows) == 70
    whole = output.read_bytes()
    output.unlink()
    interrupt(monkeypatch, flags, after=2)
    assert predict_here(*flags, "--resume") == 0 and output.read_bytes() == whole


@pytest.mark.parametrize("format", ["tsv", "csv", "jsonl"])
def test_a_stream_is_read_as_the_format_that_is_named(format, runs, tmp_path):
    content = PAIR_FILES[f"pairs.{format}"]
    (tmp_path / f"t.{format}").write_bytes(content.encode())
    (tmp_path / "named").write_bytes(content.encode())
    model = ("predict.py", "--model_dir", runs / "pairs")
    expected = run_script(*model, "--input", tmp_path / f"t.{format}")
    assert expected.stdout.count("\n") == 2, expected.stderr
    for source in ("-", tmp_path / "named"):
        flags = ("--input", source, "--input_format", format)
        run = run_script(*model, *flags, input=content)
        assert run.returncode == 0 and run.stdout == expected.stdout, run.stderr


def test_a_stream_without_a_format_is_refused(runs, capsys):
    for flags in (("--input", "-"), ("--input_format", "csv")):
        with pytest.raises(SystemExit):
            predict_here("--model_dir", runs / "pairs", *flags)
        assert "--input_format" in capsys.readouterr().err


def test_a_config_with_one_column_for_text_and_label_is_refused(runs, tmp_path, capsys):
    shutil.copytree(runs / "single", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["text_a_column"] = config["label_column"]
    text = config_text(config, (tmp_path / "run" / "vocab.txt").read_text())
    (tmp_path / "run" / "config.json").write_text(text)
    (tmp_path / "t.csv").write_text("text,label\na,cat\n")
    flags = ("--model_dir", tmp_path / "run", "--input", tmp_path / "t.csv")
    assert predict_here(*flags) == 2
    assert "different ones: 'label'" in capsys.readouterr().err


def test_a_run_on_quoted_tsv_is_predicted_alike(finetune_here, tmp_path, capsys):
    lines = ["text\tlabel", *['"the ""cat""\tsat\non it"\tcat', "a dog\tdog"] * 6]
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    data = ("--train_file", tmp_path / "t.tsv", "--dev_fraction", "0.3", "--quoted_tsv")
    code, out = finetune_here("--text_a_column", "text", *data, "--epochs", "1")
    assert code == 0 and json.loads((out / "config.json").read_text())["quoted_tsv"] is True
    assert "TSV has CSV's quotes" in capsys.readouterr().out
    assert predict_here("--model_dir", out, "--input", tmp_path / "t.tsv") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "{"]
    assert [row["index"] for row in rows] == list(range(12))


def test_a_regression_gives_scores(runs, tmp_path):
    test = write_sentences(tmp_path / "test.csv", 5, 1, regression=True)
    output = tmp_path / "out.jsonl"
    assert predict_here("--model_dir", runs / "scores", "--input", test, "--output", output) == 0
    assert all(list(row) == ["index", "score"] for row in lines_of(output))
    assert len({row["score"] for row in lines_of(output)}) > 1


def test_standard_input_takes_text_tabs_and_json(runs):
    text = (
        "a dog\tthe cat\n"
        '{"two": "the cat", "one": "a dog"}\n'
        '{"text_a":"a dog","text_b":"the cat"}\r\n'
    )
    run = run_script("predict.py", "--model_dir", runs / "pairs", input=text)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert rows[0]["probabilities"] == rows[1]["probabilities"] == rows[2]["probabilities"]
    one = run_script(
        *("predict.py", "--model_dir", runs / "pairs", "--text_a", "a dog", "--text_b", "the cat")
    )
    alone = json.loads(one.stdout)["probabilities"]
    assert alone == pytest.approx(rows[0]["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    "run, text, complaint",
    [
        ("pairs", "a dog\n", "line 1: the model takes two texts"),
        ("single", "a dog\nthe cat\ta\n", "line 2: the model takes one text"),
        ("single", "a dog\n\n", "line 2: the text is empty"),
        ("pairs", "\n", "line 1: the first text is empty"),
        ("single", "a dog\n{text}\n", "line 2: not JSON"),
        ("pairs", '{"one": "a"}\n', "line 1: the object has no 'two' or 'text_b'"),
        ("single", "a\0b\n", "line 1: byte 2 is NUL"),
    ],
)
def test_a_line_that_cannot_be_used_is_answered(run, text, complaint, runs, monkeypatch, capsys):
    good = "a dog\n" if run == "single" else "a dog\tthe cat\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((text + good).encode())))
    assert predict_here("--model_dir", runs / run) == 0
    out, err = capsys.readouterr()
    *before, bad, last = map(json.loads, out.splitlines())
    assert bad["error"].startswith(complaint) and list(bad) == ["index", "error"]
    assert all("label" in row for row in [*before, last])
    assert [row["index"] for row in [*before, bad, last]] == list(range(len(before) + 2))
    assert err.startswith(f"warning: 1 of {len(before) + 2} rows") and err.count("\n") == 1


def test_mistakes_end_in_one_sentence(runs, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("txt\nthe cat\n")
    (tmp_path / "empty.csv").write_text('text\n"the\ncat"\n" "\n')
    for flags, complaint in {
        ("--input", tmp_path / "t.csv"): "line 1: no column 'text' or 'text_a'; columns found: ",
        ("--input", tmp_path / "empty.csv"): "line 4: the text is empty",
        ("--input", tmp_path): "unknown file type",
        ("--text_a", "a", "--text_b", "b"): "leave out --text_b",
    }.items():
        assert predict_here("--model_dir", runs / "single", *flags) == 2
        error = capsys.readouterr().err
        assert complaint in error and error.count("\n") == 1
    assert predict_here("--model_dir", tmp_path, "--text_a", "a") == 2
    output = ("--input", runs / "train.csv", "--output", tmp_path / "none" / "out.jsonl")
    assert predict_here("--model_dir", runs / "single", *output) == 1
    assert "out.jsonl: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"max_len": "long"}, "max_len is 'long'"),
        ({"max_len": 500}, "max_len is 500"),
        ({"text_a_column": None}, "text_a_column is None"),
        ({"id2label": {"0": "a", "2": "b"}}, "do not number the same labels"),
        ({"task_name": "MRPC"}, "MRPC has the labels 0, 1"),
        ({"task_name": "SQuAD"}, "unknown task 'SQuAD'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(changes, complaint, runs, tmp_path, capsys):
    shutil.copytree(runs / "single", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    text = config_text(config | changes, (tmp_path / "run" / "vocab.txt").read_text())
    (tmp_path / "run" / "config.json").write_text(text)
    assert predict_here("--model_dir", tmp_path / "run", "--text_a", "a") == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_a_glue_model_with_another_label_order_keeps_its_own(runs, tmp_path, capsys):
    shutil.copytree(runs / "single", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    answers = []
    for labels in (["0", "1"], ["1", "0"]):
        changes = {"task_name": "CoLA", "id2label": dict(zip("01", labels, strict=True))}
        changes["label2id"] = dict(zip(labels, (0, 1), strict=True))
        text = config_text(config | changes, (tmp_path / "run" / "vocab.txt").read_text())
        (tmp_path / "run" / "config.json").write_text(text)
        assert predict_here("--model_dir", tmp_path / "run", "--text_a", "the dog") == 0
        answers.append(json.loads(capsys.readouterr().out)["label"])
    assert set(answers) == {"0", "1"}


def test_the_model_may_be_named_as_in_finetuning(runs, capsys):
    answers = []
    for model in (("--model_dir", runs / "single"), ("--model_parameters", runs / "single")):
        assert predict_here(*model, "--text_a", "the dog") == 0
        answers.append(capsys.readouterr().out)
    parameters = runs / "single" / "model.params"
    assert predict_here(f"--model_parameters={parameters}", "--text_a", "the dog") == 0
    assert {*answers, capsys.readouterr().out} == {answers[0]}
