"""TSV, CSV and JSON Lines files: every format, and every mistake in one."""

from __future__ import annotations

import gzip
from dataclasses import replace

import pytest
from helpers import PAIR, SINGLE, read

from bert.errors import UserError
from finetuning.data.reading import read_own
from finetuning.data.rows import BadRows

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
    _, examples = read(tmp_path / "train.tsv", content, replace(SINGLE, quoted_tsv=True))
    assert examples.text_a[:] == ['a\tb\r\nc "d" \u2028e', 'f "g" h']


def test_in_tsv_a_line_is_a_row_and_quotes_are_text(tmp_path):
    content = 'text\tlabel\n"great film\tno\na "b" ""\tyes\nhe called it "\tno\n"\tyes\n'
    _, examples = read(tmp_path / "train.tsv", content)
    assert examples.text_a[:] == ['"great film', 'a "b" ""', 'he called it "', '"']
    assert examples.origin.tolist() == [(i, i + 2) for i in range(4)]


GOOD = "text,label\nfirst,no\nsecond,yes\n"
MISTAKES = {
    "an unknown column": (
        "t.csv",
        "txt,label\na,no\n",
        SINGLE,
        "line 1: .*'text'.*txt, label; --text",
    ),
    "an unknown key": ("t.jsonl", '{"txt":"a"}\n', SINGLE, "line 1: .*'text'.*txt"),
    "a column twice": ("t.csv", "text,label,text\na,no,b\n", SINGLE, "line 1: .*'text' is .*twice"),
    "a missing field": ("t.csv", GOOD + "third\n", SINGLE, "line 4: 1 fields.* has 2"),
    "a field too many": ("t.csv", GOOD + "a,b,no\n", SINGLE, "line 4: 3 fields.* has 2"),
    "a NUL byte": ("t.csv", GOOD + "a\0b,no\n", SINGLE, "line 4: byte 2 is NUL"),
    "a NUL byte in JSON": ("t.jsonl", '{"text":"a\0"}', SINGLE, "line 1: byte 11 is NUL"),
    "a long line": ("t.csv", GOOD + "x" * 10_000_000 + ",no\n", SINGLE, "line 4: .*longer than"),
    "a long line of JSON": ("t.jsonl", '"' + "x" * 10_000_000, SINGLE, "line 1: .*longer than"),
    "bytes that are no UTF-8": (
        "t.csv",
        GOOD.encode() + b"\xff,no\n",
        SINGLE,
        "line 4: byte 1 .*iconv -f WIN",
    ),
    "UTF-16": ("t.csv", GOOD.encode("utf-16"), SINGLE, "is UTF-16 text.* iconv -f UTF-16 "),
    "an open quote": ("t.csv", GOOD + '"third,no\nx,y\n', SINGLE, "line 4: a quote .*never closed"),
    "text after a quote": ("t.csv", GOOD + '"a" b,no\n', SINGLE, "line 4: quotes"),
    "a lone carriage return": (
        "t.csv",
        GOOD + "a\rb,no\n",
        SINGLE,
        "line 4: a stray carriage return",
    ),
    "no JSON": ("t.jsonl", "{'text': 1}\n", SINGLE, "line 1: not JSON"),
    "deep JSON": ("t.jsonl", "[" * 100_000, SINGLE, "line 1: not JSON"),
    "a list": ("t.jsonl", "[1]\n", SINGLE, "line 1: not a JSON object"),
    "a text that is a list": ("t.jsonl", '{"text":[],"label":1}', SINGLE, "line 1: 'text'"),
    "a text that is null": ("t.jsonl", '{"text":null,"label":1}', SINGLE, "line 1: 'text' is null"),
    "half a character": ("t.jsonl", '{"text":"\\ud800","label":1}', SINGLE, "line 1: .*surrogate"),
    "nothing": ("t.csv", "", SINGLE, "line 1: the file is empty"),
    "nothing in JSON": ("t.jsonl", "\n", SINGLE, "line 1: the file is empty"),
    "only a header": ("t.csv", "text,label\n", SINGLE, "no usable rows"),
    "an unknown ending": ("t.xlsx", GOOD, SINGLE, r"use one of \.tsv, \.csv, \.jsonl"),
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
