"""predict.py carries columns of its input over, and writes only the largest probabilities."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import predict
from bert.errors import UserError
from finetuning.data.tasks import TASKS, own_task
from finetuning.results.inference import Writer, resume_at
from finetuning.results.predictions import OutputFormat
from finetuning.results.texts import file_rows, line_rows

TASK = own_task("text", None, "label", False, ("no", "perhaps", "yes"))
ANSWER = {"label": "yes", "probabilities": {"no": 0.2, "perhaps": 0.3, "yes": 0.5}}
KEEP = ("id", "source")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # With halves of surrogate pairs.
    | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=5)


def written(rows, format="jsonl", keep=KEEP, task=TASK, **options):
    file = io.BytesIO()
    output = OutputFormat(format, task, errors=True, keep=keep, **options)
    Writer(lambda texts: [ANSWER for _ in texts], output, 2).write(file, rows)
    text = file.getvalue().decode()
    if format == "jsonl":
        return [json.loads(line) for line in text.splitlines(keepends=True)]
    delimiter = "\t" if format == "tsv" else ","
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))


def from_file(name, content, format="jsonl", task=TASK, **options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        rows = file_rows(path, task, True, None, options.get("keep", KEEP))
        return written(rows, format, task=task, **options)


@given(st.lists(st.tuples(VALUES, VALUES, st.sampled_from(["a", " "])), min_size=1))
@settings(max_examples=200, deadline=None)
def test_values_of_json_come_out_as_they_went_in(rows):
    objects = [{"source": b, "text": text, "id": a, "more": 1} for a, b, text in rows]
    content = "".join(json.dumps(row) + "\n" for row in objects).encode()
    for found in (
        from_file("in.jsonl", content),
        written(line_rows(io.BytesIO(content), TASK, KEEP)),
    ):
        assert [(row["id"], row["source"]) for row in found] == [row[:2] for row in rows]
        # A row that cannot be predicted can still be told by its id.
        assert ["error" in row for row in found] == [row[2] == " " for row in rows]
        assert list(found[0])[:3] == ["index", "id", "source"]


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1), st.sampled_from(["jsonl", "csv", "tsv"]))
@settings(max_examples=200, deadline=None)
def test_cells_of_a_table_come_out_as_they_went_in(rows, format):
    text = io.StringIO()
    csv.writer(text).writerows([("id", "text", "source"), *((a, "x", b) for a, b in rows)])
    found = from_file("in.csv", text.getvalue().encode(), format)
    assert [(row["id"], row["source"]) for row in found] == rows
    assert {row["label"] for row in found} == {"yes"}


def test_values_that_are_no_text_are_json_in_a_table():
    content = (
        b'{"text": "a", "id": [1, "x"], "source": null}\n{"text": "b", "id": "1", "source": 2.5}\n'
    )
    found = from_file("in.jsonl", content, "csv")
    assert [(row["id"], row["source"]) for row in found] == [('[1, "x"]', ""), ("1", "2.5")]
    assert list(found[0])[:4] == ["index", "id", "source", "label"]


def test_a_row_that_cannot_be_read_has_empty_columns():
    lines = b'{"text": "a", "id": 1, "source": 2}\n{\n{"text": "b", "id": 3}\n'
    found = from_file("in.jsonl", lines)
    assert [(row["id"], row["source"]) for row in found] == [(1, 2), (None, None), (3, None)]
    assert found[2]["error"] == "line 3: the object has no 'source'; it has: text, id"
    found = from_file("in.csv", b"id,text,source\n1,a\n2,b,c,d\n3,e,f\n", "csv")
    assert [(row["id"], row["label"]) for row in found] == [("1", ""), ("", ""), ("3", "yes")]


@given(st.lists(CELLS, min_size=1), st.data())
@settings(max_examples=100, deadline=None)
def test_an_interrupted_table_is_resumed_at_a_complete_chunk(cells, data):
    """Cells may have line breaks and quotes."""
    format = data.draw(st.sampled_from(["csv", "tsv"]))
    output = OutputFormat(format, TASK, errors=False, keep=("a\nb",))
    rows = [output.encode([ANSWER], i, [[cell]]) for i, cell in enumerate(cells)]
    text = output.header + b"".join(rows)
    cut = data.draw(st.integers(0, len(text)))
    file = io.BytesIO(text[:cut])
    done = resume_at(file, Path("x"), Writer(None, output, 2))
    whole = [i for i in range(len(rows) + 1) if len(output.header + b"".join(rows[:i])) <= cut]
    assert done == whole[-1] // 2 * 2 if whole else done == 0
    assert file.getvalue() == (output.header + b"".join(rows[:done]) if done else b"")


def test_columns_of_a_glue_file_are_kept_too():
    content = b"id\tquestion1\tquestion2\n17\ta\tb\n"
    (row,) = from_file("test.tsv", content, keep=("id",), task=TASKS["QQP"])
    assert row["id"] == "17"
    (row,) = from_file("dev.tsv", b"gj04\t1\t\ta\n", keep=("source",), task=TASKS["CoLA"])
    assert row["source"] == "gj04"


def test_a_missing_column_is_said_before_anything_is_predicted():
    with pytest.raises(UserError, match="line 1: no column 'source'; columns found: id, text"):
        from_file("in.csv", b"id,text\n1,a\n")


@pytest.mark.parametrize(
    "format, name", [("jsonl", "label"), ("jsonl", "probabilities"), ("csv", "probability_no")]
)
def test_a_name_that_the_output_has_is_refused(format, name):
    with pytest.raises(UserError, match=f"--keep_columns {name}: the output has a column"):
        OutputFormat(format, TASK, errors=False, keep=("id", name))


def test_a_line_of_text_has_nothing_to_keep():
    (row,) = written(line_rows(io.BytesIO(b"a text\n"), TASK, KEEP))
    assert row["error"] == "line 1: not a JSON object, of which --keep_columns could keep values"


def test_the_largest_probabilities_are_written_and_the_label_is_the_same():
    row = written(line_rows(io.BytesIO(b"a\n"), TASK), keep=(), top_k=2)[0]
    assert row == {"index": 0, "label": "yes", "probabilities": {"yes": 0.5, "perhaps": 0.3}}
    assert list(row["probabilities"]) == ["yes", "perhaps"]
    row = written(line_rows(io.BytesIO(b"a\n"), TASK), "csv", keep=(), top_k=1)[0]
    assert [row[f"probability_{name}"] for name in TASK.labels] == ["", "", "0.5"]
    assert (
        written(line_rows(io.BytesIO(b"a\n"), TASK), keep=(), top_k=9)[0]["probabilities"]
        == (ANSWER["probabilities"])
    )


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ("--keep_columns id,id", "--keep_columns must be different names of columns"),
        ("--keep_columns id,", "--keep_columns must be different names of columns"),
        ("--keep_columns id --text_a x", "--text_a has no columns: leave out --keep_columns"),
        ("--top_k 0", "--top_k must be at least 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, complaint, capsys):
    with pytest.raises(SystemExit):
        predict.main(["--model_dir", "x", *flags.split()])
    assert complaint in capsys.readouterr().err
