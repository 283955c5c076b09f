"""The downloader against a real server on loopback, and on the real MRPC where it is at hand."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from conftest import run_script

import download_glue_data as glue
from bert.errors import UserError


@pytest.fixture
def server():
    """A server whose ``files`` {path: (status, body, announced length)} a test fills."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body, announced = self.server.files.get(self.path, (404, b"", None))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if announced is None else announced))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.files = {}
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def address(server) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def test_the_raw_files_are_fetched_and_verified(server, monkeypatch):
    for name in glue.MRPC_FILES:
        server.files["/" + name] = (200, name.encode() * 1000, None)
    digests = {n: hashlib.md5(n.encode() * 1000).hexdigest() for n in glue.MRPC_FILES}
    with pytest.raises(UserError, match="not the published file"):
        glue.raw_mrpc(None, address(server))
    monkeypatch.setattr(glue, "MRPC_FILES", digests)
    files = glue.raw_mrpc(None, address(server))
    assert files == {name: name.encode() * 1000 for name in digests}


@pytest.mark.parametrize("answer", [(403, b"", None), (404, b"", None), (200, b"half", 8)])
def test_an_answer_that_is_not_the_whole_file_is_an_error(server, answer):
    server.files["/msr_paraphrase_train.txt"] = answer
    with pytest.raises(requests.RequestException):
        glue.fetch(address(server) + "msr_paraphrase_train.txt")


def test_without_a_network_it_says_so_and_exits_with_1(tmp_path):
    run = run_script(
        "download_glue_data.py",
        *("--data_dir", tmp_path / "glue"),
        env={"HTTPS_PROXY": "http://127.0.0.1:9", "PATH": "/usr/bin"},
    )
    assert run.returncode == 1
    assert "--path_to_mrpc" in run.stderr and run.stderr.count("\n") == 1
    assert not (tmp_path / "glue").exists()


def test_the_real_mrpc_becomes_glues_three_files(mrpc_raw, tmp_path):
    run = run_script(
        "download_glue_data.py",
        "--data_dir",
        tmp_path,
        "--tasks",
        "mrpc",
        "--path_to_mrpc",
        mrpc_raw,
    )
    assert run.returncode == 0, run.stderr
    rows = {
        split: (tmp_path / "MRPC" / f"{split}.tsv").read_text(encoding="utf-8").split("\n")[:-1]
        for split in ("train", "dev", "test")
    }
    assert {split: len(lines) - 1 for split, lines in rows.items()} == glue.MRPC_ROWS
    published = set((mrpc_raw / "dev_ids.tsv").read_text().splitlines())
    assert {"\t".join(line.split("\t")[1:3]) for line in rows["dev"][1:]} == published
    assert rows["train"][0] == "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    assert rows["test"][0] == "index\t#1 ID\t#2 ID\t#1 String\t#2 String"
    assert all(len(line.split("\t")) == 5 for lines in rows.values() for line in lines)
    assert [line.split("\t")[0] for line in rows["test"][1:4]] == ["0", "1", "2"]


def test_altered_or_missing_raw_files_are_refused(tmp_path):
    flags = ("--data_dir", tmp_path / "glue", "--path_to_mrpc", tmp_path)
    run = run_script("download_glue_data.py", *flags)
    assert run.returncode == 2 and "msr_paraphrase_train.txt" in run.stderr
    (tmp_path / "msr_paraphrase_train.txt").write_text("Quality\n")
    run = run_script("download_glue_data.py", *flags)
    assert run.returncode == 2 and "not the published file" in run.stderr
    assert not (tmp_path / "glue").exists()


def test_an_unknown_task_is_answered_with_the_known_ones():
    run = run_script("download_glue_data.py", "--tasks", "SQuAD")
    assert run.returncode == 2 and "SQuAD" in run.stderr and "MRPC" in run.stderr
