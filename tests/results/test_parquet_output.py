"""predict.py reads Parquet, and writes it, with the columns of its input as they were."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import predict
from bert.errors import UserError
from finetuning.data.parquet import column_types
from finetuning.data.tasks import own_task
from finetuning.results import inference
from finetuning.results.inference import Writer
from finetuning.results.parquet_output import ParquetFormat, refuse_bytes
from finetuning.results.predictions import OutputFormat
from finetuning.results.texts import file_rows

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: make setup")
import pyarrow.parquet as pq  # noqa: E402

TASK = own_task("text", None, "label", False, ("no", "perhaps", "yes"))
SETS = own_task("text", None, "label", False, ("a", "b,c"), separator=",")
SCORES = own_task("text", None, "label", True)
ANSWER = {"label": "yes", "probabilities": {"no": 0.2, "perhaps": 0.3, "yes": 0.5}}
SET = {"labels": ["a", "b,c"], "probabilities": {"a": 0.75, "b,c": 0.5}}


def written(rows, output, answer=ANSWER):
    file = io.BytesIO()
    Writer(lambda texts: [answer for _ in texts], output, 2).write(file, rows)
    return file.getvalue()


def table(rows, task=TASK, answer=ANSWER, errors=True, **options):
    content = written(rows, ParquetFormat(task, errors, **options), answer)
    return pq.read_table(io.BytesIO(content))


def predicted(path, keep=(), task=TASK, **options):
    types = column_types(path, keep) if path.suffix == ".parquet" else {}
    return table(file_rows(path, task, True, None, keep), task, keep=keep, types=types, **options)


UTC = datetime.timezone.utc
KEPT = {
    "int": pa.array([1, None, 2**62]),
    "byte": pa.array([1, None, 255], pa.uint8()),
    "float": pa.array([0.5, None, float("inf")], pa.float32()),
    "bool": pa.array([True, None, False]),
    "text": pa.array(["x", " ", "z"]),
    "large": pa.array(["é", None, ""], pa.large_string()),
    "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
    "when": pa.array([datetime.datetime(2024, 1, 31, tzinfo=UTC), None, None]),
    "day": pa.array([datetime.date(2024, 1, 31), None, datetime.date(1, 1, 1)]),
    "price": pa.array([decimal.Decimal("1.10"), None, None]),
    "list": pa.array([[1, None], None, []], pa.list_(pa.int16())),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    "bytes": pa.array([b"\x00\xff", None, b""]),
    "nothing": pa.nulls(3),
}


def test_columns_keep_their_types_and_values(tmp_path):
    pq.write_table(pa.table(KEPT), tmp_path / "in.parquet")
    found = predicted(tmp_path / "in.parquet", tuple(KEPT))
    assert found.column_names == [
        *("index", *KEPT, "label", "probability_no", "probability_perhaps", "probability_yes"),
        "error",
    ]
    for name, column in KEPT.items():
        assert found.schema.field(name).type == column.type, name
        assert found[name].to_pylist() == column.to_pylist(), name
    assert found["index"].to_pylist() == [0, 1, 2] and found["index"].type == pa.int64()
    assert found["label"].to_pylist() == ["yes", None, "yes"]
    assert found["probability_no"].to_pylist() == [0.2, None, 0.2]
    assert found["error"].to_pylist() == [None, "row 1: the text is empty", None]


def test_columns_of_parquet_are_json_and_cells(tmp_path):
    names = tuple(name for name in KEPT if name not in ("bytes", "text"))
    pq.write_table(pa.table(KEPT), tmp_path / "in.parquet")
    rows = [*file_rows(tmp_path / "in.parquet", TASK, True, None, names)]
    output = written(iter(rows), OutputFormat("jsonl", TASK, True, keep=names)).decode()
    first, second, third = (
        json.loads(line, parse_constant=lambda text: pytest.fail(text))
        for line in output.splitlines()
    )
    assert first["int"] == 1 and first["float"] == 0.5 and first["bool"] is True
    assert first["day"] == "2024-01-31" and first["price"] == "1.10" and first["kind"] == "a"
    assert first["list"] == [1, None] and first["struct"] == {"a": 1, "b": "x"}
    assert first["when"].startswith("2024-01-31 00:00:00")
    assert all(second[name] is None for name in names if name != "kind")
    assert third["float"] is None  # JSON has no infinity
    output = written(iter(rows), OutputFormat("csv", TASK, True, keep=names)).decode()
    first, second, third = csv.DictReader(io.StringIO(output, newline=""))
    assert (first["int"], first["float"], first["bool"]) == ("1", "0.5", "true")
    assert (first["day"], first["price"], first["list"]) == ("2024-01-31", "1.10", "[1, null]")
    assert all(second[name] == "" for name in names if name != "kind")
    with pytest.raises(UserError, match="--keep_columns bytes: the column holds bytes"):
        refuse_bytes(column_types(tmp_path / "in.parquet", ("int", "bytes")))


VALUES = st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=5)


@given(st.lists(st.tuples(VALUES, st.sampled_from(["a", " "])), min_size=1))
@settings(max_examples=50, deadline=None)
def test_columns_of_json_become_text(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "in.jsonl")
        path.write_text("".join(json.dumps({"id": x, "text": text}) + "\n" for x, text in rows))
        found = predicted(path, ("id",))
    expected = [x if x is None or isinstance(x, str) else json.dumps(x) for x, _ in rows]
    values = [x and x.encode(errors="backslashreplace").decode() for x in expected]
    assert found["id"].type == pa.string() and found["id"].to_pylist() == values
    assert [bool(x) for x in found["error"].to_pylist()] == [text == " " for _, text in rows]


def test_answers_have_the_columns_of_a_table(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("text\na\nb\nc\n")
    found = predicted(path, task=SETS, answer=SET, errors=False)
    assert found.to_pylist()[2] == {
        "index": 2,
        "labels": ["a", "b,c"],
        "probability_a": 0.75,
        "probability_b,c": 0.5,
    }
    found = predicted(path, task=SCORES, answer={"score": 0.25}, errors=False)
    assert found.to_pylist()[0] == {"index": 0, "score": 0.25}
    assert found.schema.types == [pa.int64(), pa.float64()]
    found = predicted(path, top_k=1, errors=False)
    assert found["probability_yes"].to_pylist() == [0.5] * 3
    assert found["probability_no"].null_count == 3
    path.write_text("text\n")
    found = predicted(path)
    assert found.num_rows == 0 and found.column_names[:2] == ["index", "label"]


def test_row_groups_hold_many_rows():
    output = ParquetFormat(TASK, errors=False)
    content = b"".join(output.encode([ANSWER] * 1000, i * 1000) for i in range(100)) + output.end()
    assert pq.read_metadata(io.BytesIO(content)).num_row_groups == 2
    assert pq.read_table(io.BytesIO(content))["index"].to_pylist() == [*range(100_000)]


def test_a_name_that_the_output_has_is_refused():
    ParquetFormat(TASK, errors=False, keep=("probabilities",))
    for name in ("index", "label", "error", "probability_no"):
        with pytest.raises(UserError, match=f"--keep_columns {name}: the output has a column"):
            ParquetFormat(TASK, errors=False, keep=("id", name))


@pytest.fixture
def model(finetune_here, tmp_path):
    texts = ["the cat", "a dog"] * 10
    pq.write_table(pa.table({"text": texts, "label": [1, 2] * 10}), tmp_path / "train.parquet")
    files = ("--train_file", tmp_path / "train.parquet", "--dev_fraction", "0.2")
    code, out = finetune_here("--text_a_column", "text", *files, "--epochs", "1")
    assert code == 0
    return "--model_dir", out, "--input", tmp_path / "train.parquet"


def run(*flags):
    return predict.main([str(flag) for flag in flags])


def test_the_command_reads_and_writes_parquet(model, tmp_path):
    output = tmp_path / "out.parquet"
    flags = (*model, "--keep_columns", "text")
    assert run(*flags, "--output", output) == 0
    assert run(*flags, "--output", tmp_path / "out.jsonl") == 0
    found = pq.read_table(output).to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["index"], row["text"], row["label"]) for row in found] == [
        (row["index"], row["text"], row["label"]) for row in lines
    ]
    for row, line in zip(found, lines, strict=True):
        probabilities = {label: row[f"probability_{label}"] for label in "12"}
        assert probabilities == line["probabilities"]
    named = tmp_path / "named"
    (tmp_path / "train.parquet").rename(named)
    more = ("--keep_columns", "text", "--input_format", "parquet")
    argv = ["predict.py", *model[:3], named, *more, "--format", "parquet"]
    piped = subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, stdout=subprocess.PIPE)
    assert piped.returncode == 0 and piped.stdout == output.read_bytes()


def test_an_interrupted_output_starts_again(model, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out.parquet"
    flags = (*model, "--output", output, "--batch_size", "4")
    assert run(*flags) == 0
    whole = output.read_bytes()
    output.unlink()
    monkeypatch.setattr(inference, "_BATCHES_PER_CHUNK", 1)
    before = set(tmp_path.iterdir())

    def fail(self, answers, first, kept=()):
        if first:
            raise UserError("stop")
        return encode(self, answers, first, kept)

    encode = ParquetFormat.encode
    monkeypatch.setattr(ParquetFormat, "encode", fail)
    assert run(*flags) == 2 and set(tmp_path.iterdir()) == before
    monkeypatch.setattr(ParquetFormat, "encode", encode)
    # As a killed process leaves it.
    partial, record = (tmp_path / f"out.parquet.predict.{end}" for end in ("partial", "json"))
    partial.write_bytes(whole[:50])
    record.write_text(json.dumps({"program": "predict.py", "origin": {}}))
    capsys.readouterr()
    assert run(*flags, "--resume") == 0
    assert f"note: the interrupted {partial} cannot be continued" in capsys.readouterr().err
    assert pq.read_table(output) == pq.read_table(io.BytesIO(whole))
    assert set(tmp_path.iterdir()) == before | {output}
    assert run(*flags, "--resume") == 2 and "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ("--input - --input_format parquet", "Parquet is read from its end: pass a file"),
        ("--text_a x --format parquet", "--format parquet is not for a terminal: pass --output"),
    ],
)
def test_what_cannot_be_parquet_is_refused(flags, complaint, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit):
        run("--model_dir", "x", *flags.split())
    assert complaint in capsys.readouterr().err


def test_without_pyarrow_the_output_is_refused(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "in.csv").write_text("text\na\n")
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    flags = ("--input", tmp_path / "in.csv", "--output", tmp_path / "out.parquet")
    assert run(*model[:2], *flags) == 2
    assert capsys.readouterr().err.endswith(": pip install pyarrow\n")
    assert not (tmp_path / "out.parquet").exists()
