"""Files that are written atomically, and JSON that is none."""

from __future__ import annotations

import os

import pytest

from bert.errors import UserError
from bert.files import SaveError, read_json, replacing, write_json, write_text


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
    ],
)
def test_what_is_not_a_json_object_is_refused(content, complaint, tmp_path):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        read_json(path)
    assert str(path) in str(error.value)
