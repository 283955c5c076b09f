"""Lines of text files; what is not UTF-8 text is named, with what helps."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.errors import UserError
from finetuning.data.lines import not_text, read_lines

TEXT = "text_a\tlabel\ngood café\tpos\nbad film\tneg\n"


def sqlite(path) -> bytes:
    database = sqlite3.connect(path)
    database.execute("create table t (a)")
    database.commit()
    database.close()
    return path.read_bytes()


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, TEXT)
    return file.getvalue()


KINDS = {
    "UTF-16 as Excel writes it": (TEXT.encode("utf-16"), "UTF-16 text"),
    "UTF-16 from the other end": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16 text"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), "UTF-16 text"),
    "UTF-16 from the other end without a mark": (TEXT.encode("utf-16-be"), "UTF-16 text"),
    "UTF-32": (TEXT.encode("utf-32"), "UTF-32 text"),
    "UTF-32 without a mark": (TEXT.encode("utf-32-be"), "UTF-32 text"),
    "gzip": (gzip.compress(TEXT.encode()), "gzip"),
    "bzip2": (bz2.compress(TEXT.encode()), "bzip2"),
    "xz": (lzma.compress(TEXT.encode()), "xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\x24" + bytes(20), "zstd"),
    "zip": (zipped("t.tsv"), "zip"),
    "xlsx": (zipped("[Content_Types].xml"), "Excel"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(60), "Excel"),
    "Parquet": (b"PAR1\x15\x04\x15", "Parquet"),
    "PDF": (b"%PDF-1.7\n%", "PDF"),
}


@pytest.mark.parametrize("kind", [*KINDS, "SQLite"])
@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz"])
def test_a_file_that_is_not_text_is_named_with_what_helps(kind, name, tmp_path):
    content, what = KINDS.get(kind) or (sqlite(tmp_path / "t.db"), "SQLite")
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError) as error:
        list(read_lines(path))
    sentence = str(error.value)
    assert str(path) in sentence and what in sentence and "\n" not in sentence


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("UTF")])
def test_the_command_for_an_encoding_gives_the_text(kind, tmp_path):
    path = tmp_path / "a file.tsv"
    path.write_bytes(KINDS[kind][0])
    with pytest.raises(UserError) as error:
        list(read_lines(path))
    command = str(error.value).split("convert it with ")[1]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert "".join(line for _, line, _ in read_lines(tmp_path / "new.tsv")) == TEXT


def test_a_byte_of_latin_1_is_named_with_its_line_and_the_command(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(TEXT.encode("latin-1"))
    problems = [(line, problem) for line, _, problem in read_lines(path) if problem]
    assert len(problems) == 1 and problems[0][0] == 2
    assert problems[0][1].startswith("byte 9 (0xE9) is not UTF-8 text")
    assert "iconv -f WINDOWS-1252 -t UTF-8" in problems[0][1]


def test_the_ending_of_gzip_may_be_in_capitals(tmp_path):
    (tmp_path / "t.TSV.GZ").write_bytes(gzip.compress(TEXT.encode()))
    assert [line for line, _, _ in read_lines(tmp_path / "t.TSV.GZ")] == [1, 2, 3]


@given(st.text(max_size=80).map(str.encode))
def test_no_text_is_taken_for_something_else(start):
    if start.count(b"\0") < 2:
        assert not_text(Path("t.tsv"), start[:64]) is None
