"""Files that are written atomically, and JSON that is none."""

from __future__ import annotations

import os

import pytest

from bert.errors import UserError
from bert.files import (
    SaveError,
    open_own,
    read_bytes,
    read_json,
    read_text,
    replacing,
    write_json,
    write_text,
)


def test_text_and_json_are_written_and_replace_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old\r\n")
    assert path.read_bytes() == b"old\r\n"
    write_json(path, {"b": "é", "a": [1]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": "é",\n  "a": [\n    1\n  ]\n}\n'
    assert read_json(path) == {"b": "é", "a": [1]}
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_the_name_of_a_file_that_is_not_utf_8(tmp_path):
    name = os.fsdecode(b"tr\xe9.tsv")
    write_json(tmp_path / "a.json", {"b": [name, "é"]})
    assert read_json(tmp_path / "a.json") == {"b": [name, "é"]}


def test_a_folder_of_files_appears_at_once(tmp_path):
    with replacing(tmp_path / "new") as folder:
        folder.mkdir()
        (folder / "file").write_text("content")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new/file").read_text() == "content"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_what_was_there(kind, tmp_path):
    path = tmp_path / "kept"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        if kind == "folder":
            temporary.mkdir()
            (temporary / "half").write_text("half")
        else:
            temporary.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "none/file"
    with pytest.raises(SaveError, match=f"cannot write {path}: No such file or directory; what"):
        write_text(path, "text")


@pytest.mark.parametrize(
    "content, complaint",
    [
        (None, "cannot read .*No such file"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "more than 50 levels"),
    ],
)
def test_what_is_not_a_json_object_is_refused(content, complaint, tmp_path):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"a\r\nb")
    link.symlink_to(path)
    assert read_bytes(link, 4) == b"a\r\nb" and read_text(link) == "a\nb"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "zero", "."):
        with pytest.raises(UserError, match="not a regular file"):
            read_bytes(tmp_path / name)
    with pytest.raises(UserError, match="it has 4 bytes, more than 3"):
        read_bytes(path, 3)
    with pytest.raises(UserError, match="No such file"):
        read_text(tmp_path / "missing")
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        read_text(path)


def test_what_is_written_in_place_goes_nowhere_else(tmp_path):
    with open_own(tmp_path / "log", "a") as file:
        file.write("one")
    with open_own(tmp_path / "log", "a") as file:
        file.write("two")
    assert (tmp_path / "log").read_text() == "onetwo"
    (tmp_path / "link").symlink_to("log")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("link", "dangling", "fifo", "folder"):
        with pytest.raises(UserError, match="move it away"):
            open_own(tmp_path / name)
    os.link(tmp_path / "log", tmp_path / "hard link")
    with pytest.raises(UserError, match="is a link to another file"):
        open_own(tmp_path / "hard link")
    assert (tmp_path / "log").read_text() == "onetwo" and not (tmp_path / "nothing").exists()


def test_a_link_with_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(tmp_path / "mine")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "file").read_text() == "new"


def test_text_that_is_not_unicode_is_written_as_escapes(tmp_path):
    for text in ("grün", "by\udcffte"):
        write_json(tmp_path / "file.json", {"argv": [text]})
        assert read_json(tmp_path / "file.json") == {"argv": [text]}
