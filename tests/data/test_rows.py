"""Rows in are rows out, or each difference is named with its line; and a row keeps its identity."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import FLAGS, PAIR, SINGLE, read, write_sentences
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert.errors import UserError
from finetuning.data.reading import read_glue, read_own
from finetuning.data.rows import BadRows
from finetuning.data.tables import FORMATS
from finetuning.data.tasks import TASKS, own_task

KNOWN = replace(SINGLE, labels=("no", "yes"))
# Of every kind that files have trouble with; surrogates are no text.
TEXT = st.text(
    st.one_of(
        st.sampled_from('a ",\t\n\r\u2028\x85\x1c'),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=8,
)
LABEL = st.sampled_from(["no", "yes", "", "maybe"])
ROWS = st.lists(st.tuples(TEXT, LABEL, st.integers(0, 2)), max_size=12)


def encoded(format: str, rows: list[tuple[str, str, int]], end: str) -> tuple[str, list[int]]:
    """Write rows, each after some blank lines; returns the file and the line of each row."""
    if format == "tsv":
        one_line = str.maketrans("\t\n\r", "   ")
        rows = [(text.translate(one_line), label, blank) for text, label, blank in rows]

    def written(text: str, label: str) -> str:
        if format == "jsonl":
            return json.dumps({"text": text, "label": label}) + end
        if format == "tsv":
            return f"{text}\t{label}{end}"
        file = io.StringIO()
        delimiter = "," if format == "csv" else "\t"
        # With "\n" alone, Python before 3.13 leaves a "\r" in a field unquoted.
        csv.writer(file, delimiter=delimiter, lineterminator="\r\n").writerow([text, label])
        return file.getvalue().removesuffix("\r\n") + end

    content = "" if format == "jsonl" else written("text", "label")
    lines = []
    for text, label, blank in rows:
        content += end * blank
        lines.append(content.count("\n") + 1)
        content += written(text, label)
    return content, lines


def read_bytes(format: str, content: bytes, labelled=True, skip=True, task=KNOWN):
    bad = BadRows(skip)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t." + format.removeprefix("quoted_"))
        path.write_bytes(content)
        task = replace(task, quoted_tsv=format == "quoted_tsv")
        return read_own(path, task, bad, labelled), bad


def number_of_lines(content: bytes) -> int:
    return content.count(b"\n") + (bool(content) and not content.endswith(b"\n"))


def check_counts(content: bytes, bad: BadRows) -> None:
    """Check that the numbers of the log add up to the lines of the file."""
    (file,) = bad.files
    total, parts = file.counts().split(" lines: ")
    parts = re.sub(r" \(.*?\)", "", parts)
    numbers = [re.findall(r"\d+", part)[-1] for part in parts.split(", ")]
    assert int(total) == sum(map(int, numbers)) == number_of_lines(content)


@pytest.mark.parametrize("format", FORMATS)
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), final=st.booleans(), mark=st.booleans())
@settings(max_examples=100, deadline=None)
@example(rows=[('"great film', "no", 0), ('it "', "yes", 0)], end="\n", final=True, mark=False)
def test_every_row_is_an_example_or_named_with_its_line(format, rows, end, final, mark):
    text, lines = encoded(format, rows, end)
    content = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    content = content if final else content.removesuffix(end.encode())
    good = [i for i, (text, label, _) in enumerate(rows) if text.strip() and label in KNOWN.labels]
    if not good:
        with pytest.raises(UserError):
            read_bytes(format, content)
        return
    examples, bad = read_bytes(format, content)
    assert examples.origin["row"].tolist() == good
    assert examples.origin["line"].tolist() == [lines[i] for i in good]
    if format != "tsv":
        assert examples.text_a[:] == [rows[i][0] for i in good]
    named = [int(line.split("\t")[1]) for line in list(bad.lines())[1:]]
    assert named == [line for i, line in enumerate(lines) if i not in good]
    assert bad.skipped == len(named)
    check_counts(content, bad)

    # To be predicted: all of them, with or without labels.
    examples, bad = read_bytes(format, content, labelled=False)
    assert examples.origin["row"].tolist() == list(range(len(rows))) and not bad.skipped
    assert examples.labelled is all(label in KNOWN.labels for _, label, _ in rows)
    check_counts(content, bad)


PIECES = [
    b'"',
    b'""',
    b",",
    b"\t",
    b"\n",
    b"\r",
    b"\n\n",
    b"a",
    b"\xff",
    b"\0",
    b"no",
    b"{}",
    b"[1]",
]
SOUP = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)


@pytest.mark.parametrize("format", FORMATS)
@given(soup=SOUP)
@settings(max_examples=150, deadline=None)
def test_whatever_a_file_holds_the_counts_add_up_to_its_lines(format, soup):
    first = b'{"text":"a","label":"no"}\n' if format == "jsonl" else b"text\tlabel\na\tno\n"
    content = (first.replace(b"\t", b",") if format == "csv" else first) + soup
    examples, bad = read_bytes(format, content)
    check_counts(content, bad)
    assert len(examples) == bad.files[0].rows and bad.files[0].skipped == bad.skipped
    lines = [int(line.split("\t")[1]) for line in list(bad.lines())[1:]]
    assert lines == sorted(set(lines)) and len(lines) == bad.skipped
    assert not set(lines) & set(examples.origin["line"].tolist())
    examples, bad = read_bytes(format, content, labelled=False)
    assert examples.origin["row"].tolist() == list(range(len(examples))) and bad.skipped == 0
    check_counts(content, bad)


FAULTS = ['"stray,no', '"a" b,no', "a,b,c", "alone", "x\0,no", '"', 'a,"no', ",no", "a,other"]


@given(
    st.lists(st.sampled_from([*FAULTS, 'a "b" c,no', '"a, ""b""",yes', "plain,yes"]), min_size=1)
)
@settings(max_examples=200, deadline=None)
def test_a_row_of_csv_at_fault_costs_its_own_line_only(lines):
    content = "text,label\nfirst,no\n" + "".join(line + "\n" for line in lines)
    examples, bad = read_bytes("csv", content.encode())
    expected = [i + 3 for i, line in enumerate(lines) if line in FAULTS]
    if 'a,"no' in lines or '"' in lines:  # such a quote can be closed where another is opened
        check_counts(content.encode(), bad)
        return
    assert [int(line.split("\t")[1]) for line in list(bad.lines())[1:]] == expected
    assert len(examples) == 1 + len(lines) - len(expected)


@given(
    st.lists(
        st.tuples(*[TEXT.map(lambda text: re.sub(r"[\t\n\r]", " ", text) + ".")] * 2), min_size=1
    )
)
@settings(max_examples=100, deadline=None)
def test_a_file_of_glue_is_read_alike_as_a_file_of_ones_own(pairs):
    lines = ["index\tsentence1\tsentence2\tlabel"]
    lines += [f"{i}\t{a}\t{b}\tentailment" for i, (a, b) in enumerate(pairs)]
    own = own_task("sentence1", "sentence2", "label", False, TASKS["RTE"].labels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.tsv")
        path.write_bytes("\n".join(lines).encode())
        for examples in (read_glue(path, TASKS["RTE"]), read_own(path, own, BadRows())):
            assert list(zip(examples.text_a, examples.text_b, strict=True)) == pairs
            assert examples.origin["line"].tolist() == list(range(2, len(lines) + 1))


def test_a_blank_line_of_one_column_is_a_row(tmp_path):
    for name in ("t.csv", "t.tsv"):
        path = tmp_path / name
        path.write_text("text\ngood\n\nbad\n\n")
        with pytest.raises(UserError, match="line 3: the text is empty"):
            read_own(path, KNOWN, BadRows(), labelled=False)
        examples = read_own(path, KNOWN, BadRows(skip=True), labelled=False)
        assert examples.text_a[:] == ["good", "", "bad", ""]


def test_a_carriage_return_in_the_only_column_may_be_the_end_of_a_row(tmp_path):
    (tmp_path / "t.tsv").write_bytes(b"text\ngood\rbad\n")
    with pytest.raises(UserError, match="line 2: a stray carriage return"):
        read_own(tmp_path / "t.tsv", KNOWN, BadRows(), labelled=False)
    (tmp_path / "t.tsv").write_bytes(b"text\rgood\rbad\r")
    with pytest.raises(UserError, match="tr "):
        read_own(tmp_path / "t.tsv", KNOWN, BadRows(), labelled=False)


def test_names_of_unwanted_columns_may_repeat_and_be_very_many(tmp_path):
    header = ",".join(["text", "label", *["", "note"] * 20_000])
    task, examples = read(tmp_path / "t.csv", f"{header}\na,no{',' * 40_000}\nb,yes{',' * 40_000}")
    assert len(examples) == 2 and task.labels == ("no", "yes")


def test_bad_rows_are_all_listed_and_few_kept_in_memory(tmp_path):
    content = "text,label\n" + "a,no\nb,yes\n" + ",no\n" * 50_000
    bad = BadRows(skip=True)
    read(tmp_path / "t.csv", content, SINGLE, bad)
    assert bad.skipped == 50_000 and len(bad.first) == 5
    lines = list(bad.lines())
    assert len(lines) == 50_001 and lines[-1].split("\t")[1:] == ["50003", "the text is empty\n"]


def test_a_part_knows_the_rows_and_lines_of_its_file(tmp_path):
    _, examples = read(
        tmp_path / "t.csv",
        'text,label\n"a\nb",no\nc,yes\n,no\nd,no\ne,yes\n',
        bad=(BadRows(skip=True)),
    )
    assert examples.origin.tolist() == [(0, 2), (1, 4), (3, 6), (4, 7)]
    assert examples.take(np.array([3, 1])).origin.tolist() == [(4, 7), (1, 4)]
    assert set(examples.sample(2, 1).origin["line"]) < {2, 4, 6, 7}


@pytest.mark.parametrize("label", ["-1", "?", "", None])
def test_labels_of_rows_to_predict_are_not_demanded(label, tmp_path):
    rows = [{"text": "a", "label": "no"}, {"text": "b", "label": label}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    bad = BadRows()
    examples = read_own(tmp_path / "t.jsonl", KNOWN, bad, labelled=False)
    assert len(examples) == 2 and not examples.labelled and bad.files[0].unlabelled == 1
    (tmp_path / "t.jsonl").write_text(json.dumps(rows[0]))
    assert read_own(tmp_path / "t.jsonl", KNOWN, BadRows(), labelled=False).labelled


def test_quoted_tsv_is_recognised_and_the_flag_named(tmp_path):
    (tmp_path / "t.tsv").write_text('text\tlabel\n"he said ""no"""\tno\nb\tyes\n')
    bad = BadRows()
    read_own(tmp_path / "t.tsv", KNOWN, bad)
    assert bad.files[0].looks_quoted == 2 and "--quoted_tsv" in bad.files[0].quoted_advice
    for content in ('"text"\t"label"\n"a"\t"no"\n', 'text\tlabel\n"two\nlines"\tno\n'):
        (tmp_path / "t.tsv").write_text(content)
        with pytest.raises(UserError, match="--quoted_tsv"):
            read_own(tmp_path / "t.tsv", KNOWN, BadRows())


MISTAKES = {
    "a key twice": ("t.jsonl", '{"text":"a","text":"b"}', "line 1: 'text' is in the object twice"),
    "NaN": ("t.jsonl", '{"text":NaN}', "line 1: 'text' is nan"),
    "null": ("t.jsonl", '{"text":null}', "line 1: 'text' is null"),
    "an array": ("t.json", '[{"text":"a"}]', "line 1: .*each line must be"),
    "a pretty array": ("t.json", '[\n{"text":"a"}]', "line 1: .*each line must be"),
    "a space in a name": ("t.csv", "a, text\nb,c\n", "found: a, ' text'"),
    "another ending": ("t.txt", "text\na\n", "rename"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_is_refused_in_a_sentence_that_helps(mistake, tmp_path):
    name, content, complaint = MISTAKES[mistake]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_own(tmp_path / name, KNOWN, BadRows(), labelled=False)


def test_a_number_is_written_with_ascii_digits_and_within_the_tasks_range(tmp_path):
    scores = own_task("text", None, "label", True)
    for number in ("1_000", "\u0661", "nan", "1e999", "3,5"):
        (tmp_path / "t.tsv").write_text(f"text\tlabel\na\t{number}\n")
        with pytest.raises(UserError, match=r"line 2: .* is not a number"):
            read_own(tmp_path / "t.tsv", scores, BadRows())
    (tmp_path / "dev.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t55\n")
    with pytest.raises(UserError, match=r"'55'.* not a number from 0 to 5"):
        read_glue(tmp_path / "dev.tsv", TASKS["STS-B"])


@pytest.mark.parametrize("columns", [("a", "a", "b"), ("a", "b", "a"), ("a", "b", "b")])
def test_the_columns_of_texts_and_label_are_different_ones(columns):
    with pytest.raises(UserError, match="different"):
        own_task(*columns, regression=False)


def test_files_keep_their_rows_through_a_run(finetune_here, tmp_path, capsys):
    train = write_sentences(tmp_path / "train.tsv", 20, 0)
    lines = train.read_text().replace(",", "\t").splitlines()
    train.write_text("\n".join([*lines[:3], 'the "cat', "", *lines[3:]]) + "\n")
    test = tmp_path / "test.tsv"
    test.write_text("text\tlabel\nthe cat\tcat\n\tdog\nthe dog\t?\nalone\n")
    files = ("--train_file", train, "--dev_fraction", "0.3", "--test_file", test)
    code, out = finetune_here(*FLAGS, *files, "--skip_bad_rows", "--training_steps", "2")
    printed = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert "train.tsv: 23 lines: 1 header, 20 rows, 1 skipped, 1 blank" in printed
    assert "test.tsv: 5 lines: 1 header, 4 rows" in printed
    assert "2 of 4 rows have no label that the model knows (the first: line 4: '?')" in printed
    assert "bad rows 1 skipped, 2 kept" in printed

    def indices(name):
        with (out / name).open(newline="") as file:
            return [int(row["index"]) for row in csv.DictReader(file, delimiter="\t")]

    assert indices("test_predictions.tsv") == [0, 1, 2, 3]
    dev = indices("dev_predictions.tsv")
    assert len(dev) == 6 and dev == sorted(dev) and 2 not in dev and max(dev) > 6
    assert set(indices("dev_mistakes.tsv")) <= set(dev)
    listed = (out / "skipped_rows.tsv").read_text().splitlines()
    assert [line.split("\t")[1] for line in listed[1:]] == ["4", "3", "5"]


def test_an_update_that_is_not_finite_names_lines_of_the_training_file(
    finetune_here, tmp_path, capsys
):
    train = write_sentences(tmp_path / "train.csv", 40, 0)
    train.write_text(train.read_text().replace("\n", "\n\n", 1))
    flags = ("--train_file", train, "--dev_file", train, "--max_train_samples", "8")
    flags += ("--lr", "1e30", "--warmup_ratio", "0", "--batch_size", "4")
    code, _ = finetune_here(*FLAGS, *flags)
    assert code == 1
    lines = re.search(r"lines of the training file ([\d, ]+)", capsys.readouterr().err)[1]
    numbers = [int(number) for number in lines.split(", ")]
    assert len(numbers) == 4 and numbers == sorted(numbers)
    drawn = np.sort(np.random.default_rng(2).permutation(40)[:8]) + 3
    assert set(numbers) < set(drawn.tolist())


def test_pairs_of_one_column_are_refused_in_prediction_too(tmp_path):
    from finetuning.results.texts import file_rows

    task = replace(PAIR, text_a_column="text_b", text_b_column="other")
    (tmp_path / "t.csv").write_text("text_b\nthe same\n")
    with pytest.raises(UserError, match="no column 'other'"):
        list(file_rows(tmp_path / "t.csv", task, skip_bad_rows=False))
