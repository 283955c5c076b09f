"""Rows in are rows out: whatever a file holds, each row is answered under its own index."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.errors import UserError
from finetuning.data.tasks import TASKS, own_task
from finetuning.results.inference import Writer
from finetuning.results.predictions import OutputFormat
from finetuning.results.texts import file_rows, line_rows

SINGLE = own_task("text", None, "label", regression=False, labels=("no", "yes"))
PAIRS = replace(SINGLE, text_b_column="other")
FORMATS = ("jsonl", "tsv", "csv")
YES = {"label": "yes", "probabilities": {"no": 0.25, "yes": 0.75}}
# Of every kind that files have trouble with; surrogates are no text.
TEXT = st.text(
    st.one_of(
        st.sampled_from('a "\t,\u2028\x85\u202e\x1b'), st.characters(exclude_categories=["Cs"])
    ),
    max_size=8,
)
ONE_LINE = TEXT.map(lambda text: "".join(text.split("\n")).replace("\r", "").replace("\0", ""))


def answers(rows, format="jsonl", errors=True, chunk=3, task=SINGLE) -> tuple[list[dict], list]:
    """Predict with a stand-in for the model; returns the output's rows and the texts predicted."""
    seen = []

    def predictor(texts):
        seen.extend(texts)
        return [YES for _ in texts]

    file = io.BytesIO()
    Writer(predictor, OutputFormat(format, task, errors), chunk).write(file, rows)
    text = file.getvalue().decode()
    if format == "jsonl":
        return [json.loads(line) for line in text.splitlines(keepends=True)], seen
    dialect = {"delimiter": "\t"} if format == "tsv" else {}
    return list(csv.DictReader(io.StringIO(text, newline=""), **dialect)), seen


def read(name, content, task=SINGLE, skip=True, **options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        return answers(file_rows(path, task, skip), task=task, **options)


@given(st.binary() | st.lists(ONE_LINE).map(lambda lines: "\n".join(lines).encode()))
@settings(max_examples=300, deadline=None)
def test_every_line_of_standard_input_is_answered(content):
    for task in (SINGLE, PAIRS):
        found, seen = answers(line_rows(io.BytesIO(content), task))
        lines = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
        assert [row["index"] for row in found] == list(range(lines))
        bad = [row for row in found if "error" in row]
        assert len(seen) + len(bad) == lines
        assert all(row["error"].startswith(f"line {row['index'] + 1}: ") for row in bad)


@given(st.lists(st.tuples(ONE_LINE, ONE_LINE), min_size=1), st.sampled_from(FORMATS))
@settings(max_examples=300, deadline=None)
def test_every_row_of_a_table_is_answered_under_its_index(rows, format):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("text", "other"), *rows])
    found, seen = read("in.csv", text.getvalue().encode(), PAIRS, format=format)
    check(rows, found, seen)
    content = "".join(json.dumps({"text": a, "other": b}) + "\n" for a, b in rows).encode()
    found, seen = read("in.jsonl", content, PAIRS, format=format)
    check(rows, found, seen)


def check(rows, found, seen):
    assert [int(row["index"]) for row in found] == list(range(len(rows)))
    usable = [[a, b] for a, b in rows if a.strip() and b.strip()]
    assert [list(texts) for texts in seen] == usable
    for (a, b), row in zip(rows, found, strict=True):
        good = bool(a.strip() and b.strip())
        assert bool(row.get("error")) is not good and (row.get("label") == "yes") is good


@given(st.lists(st.tuples(ONE_LINE.filter(lambda text: "\t" not in text), st.integers(0, 2))))
@settings(max_examples=100, deadline=None)
def test_every_line_of_tsv_is_answered_under_its_index(rows):
    # Of two columns: blank lines are no rows, and quotes are text.
    lines = ["text\tid", *("\n" * blank + f"{text}\t1" for text, blank in rows)]
    found, seen = read("in.tsv", "\n".join(lines).encode())
    assert [row["index"] for row in found] == list(range(len(rows)))
    assert [text for text, _ in seen] == [text for text, _ in rows if text.strip()]
    # Of one column: each line is a row.
    lines = ["text", *("\n" * blank + text for text, blank in rows)]
    found, seen = read("in.tsv", ("\n".join(lines) + "\n").encode())
    assert [row["index"] for row in found] == list(range(sum(1 + blank for _, blank in rows)))
    assert [text for text, _ in seen] == [text for text, _ in rows if text.strip()]
    bad = [int(re.match(r"line (\d+): ", row["error"])[1]) for row in found if "error" in row]
    expected = [i + 1 for i, line in enumerate("\n".join(lines).split("\n")) if not line.strip()]
    assert bad == expected


@given(
    st.lists(
        st.sampled_from(
            [b'{"text": "a"}', b"{", b"[]", b'{"text": ""}', b"\xff", b"x", b'{"a": 1}']
        ),
        min_size=1,
    )
)
@settings(max_examples=100, deadline=None)
def test_a_bad_row_of_json_costs_itself_alone(lines):
    found, seen = read("in.jsonl", b"\n".join(lines))
    assert [row["index"] for row in found] == list(range(len(lines)))
    good = [line.startswith(b'{"text": "') and b'""' not in line for line in lines]
    assert ["label" in row for row in found] == good and len(seen) == sum(good)


def test_a_stray_quote_of_csv_costs_its_own_row():
    content = 'text,id\na,1\n"stray,2\nb,3\nc "d",4\n"e, ""f""",5\n"g"h,6\ni,7\n'
    found, seen = read("in.csv", content.encode())
    assert ["error" in row for row in found] == [False, True, False, False, False, True, False]
    assert [text for text, _ in seen] == ["a", "b", 'c "d"', 'e, "f"', "i"]
    with pytest.raises(UserError, match=r"in\.csv, line 3: "):
        read("in.csv", content.encode(), skip=False)


def test_rows_over_several_lines_and_quotes_of_tsv_are_said(capsys):
    read("in.csv", b'text,id\n"a\nb",1\nc,2\n')
    assert "4 lines: 1 header, 2 rows in 3 lines (line breaks in quotes" in capsys.readouterr().err
    read("in.tsv", b'text\tid\n"say ""a"""\t1\n')
    assert "quotes of line 2 are read as text; if" in capsys.readouterr().err


def test_tsv_is_read_as_in_training_or_as_asked(tmp_path):
    quoted = replace(SINGLE, quoted_tsv=True)
    path = tmp_path / "in.tsv"
    path.write_text('text\n"say ""a"""\n')
    for task, format, text in (
        (SINGLE, None, '"say ""a"""'),
        (quoted, None, 'say "a"'),
        (quoted, "tsv", '"say ""a"""'),
        (SINGLE, "quoted_tsv", 'say "a"'),
    ):
        (row,) = file_rows(path, task, False, format)
        assert row.texts[0] == text


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_rows_before_a_bad_one_are_written_before_the_run_ends(chunk, tmp_path):
    (tmp_path / "in.csv").write_text("text\n" + "a\n" * 7 + '" "\na\n')
    file = io.BytesIO()
    writer = Writer(
        lambda texts: [YES for _ in texts],
        OutputFormat("jsonl", SINGLE, errors=False),
        chunk,
    )
    with pytest.raises(UserError, match="line 9: the text is empty"):
        writer.write(file, file_rows(tmp_path / "in.csv", SINGLE, skip_bad_rows=False))
    assert [json.loads(line)["index"] for line in file.getvalue().splitlines()] == list(range(7))


GLUE_TEXT = '"quoted" text, it\'s "open'


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_model_of_a_glue_task_reads_the_tasks_own_files(task, labelled, tmp_path):
    columns = ["index", task.text_a_column, *filter(None, [task.text_b_column])]
    columns += [task.label_column] if labelled else []
    header = labelled and task.train_header
    columns = list(header or columns)
    texts = {task.text_a_column: GLUE_TEXT, task.text_b_column: '"'}
    row = [texts.get(column, "1") for column in columns]
    lines = ["\t".join(row)] * 3 if header else ["\t".join(columns), *["\t".join(row)] * 3]
    rows = list_rows(tmp_path / "dev.tsv", lines, task)
    assert rows == [[GLUE_TEXT, '"' if task.text_b_column else None]] * 3
    own = ["text_a\ttext_b", "a\tb"] if task.text_b_column else ["text_a", "a"]
    assert list_rows(tmp_path / "own.tsv", own, task) == [
        ["a", "b" if task.text_b_column else None]
    ]


def list_rows(path, lines, task):
    path.write_text("\n".join(lines) + "\n")
    return [row.texts for row in file_rows(path, task, skip_bad_rows=False)]
