"""The downloader against a real server on this machine."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import stat
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

from bert.errors import RunError, UserError
from finetuning.data import download
from finetuning.data.download import Download, Downloader, Task, download_tasks
from finetuning.data.tasks import TASKS

FILES = {"train.tsv": b"h\n" + b"a row\n" * 3, "dev.tsv": b"h\n1\n2\n", "test.tsv": b"h\n1\n"}


def archive(files=FILES, folder="RTE/", compression=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as zipped:
        for name, content in files.items():
            zipped.writestr(folder + name, content)
    return buffer.getvalue()


def task_of(body: bytes | None = None, name="RTE", **checksums) -> Task:
    """A task whose archive has the files FILES, and this MD5 if a body is given."""
    if body:
        checksums["md5"] = hashlib.md5(body).hexdigest()
    downloads = (Download(f"http://127.0.0.1:9/{name}.zip", **checksums),)
    rows = {"train.tsv": 3, "dev.tsv": 2, "test.tsv": 1}
    return replace(TASKS["RTE"], name=name, rows=rows, downloads=downloads)


@pytest.fixture
def server():
    """A server of ``body``; ``answers`` are what it does with the next requests, else serve it.

    An answer is a status code, or a number of bytes after which the connection is cut (given as
    ``("cut", bytes)``). ``requests`` are the headers of the requests that came; ``wait`` is called
    before a body is sent.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(dict(self.headers))
            answer = server.answers.pop(0) if server.answers else None
            if isinstance(answer, int):
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                if answer == 429:
                    self.send_header("Retry-After", "1")
                self.end_headers()
                return
            server.wait()
            body, start = server.body, 0
            wanted = self.headers.get("Range", "")
            if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", server.etag)
            self.end_headers()
            end = start + answer[1] if answer else len(body)
            for at in range(start, end, server.chunk):
                self.wfile.write(body[at : min(at + server.chunk, end)])
                self.wfile.flush()
                time.sleep(server.delay)
            if answer:
                self.close_connection = True

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.answers, server.requests = archive(), [], []
    server.ranges, server.etag, server.chunk, server.delay = True, '"1"', 1 << 20, 0
    server.wait = lambda: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def downloader(server, tmp_path):
    return Downloader(tmp_path / "glue", f"http://127.0.0.1:{server.server_port}", pause=0.01)


def laid_out(downloader) -> dict[str, bytes]:
    folder = downloader.data_dir / "RTE"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def nothing_is_there(downloader) -> bool:
    return not (downloader.data_dir / "RTE").exists()


def test_a_task_is_fetched_verified_and_laid_out(server, downloader, capsys):
    downloader.get(task_of(server.body))
    assert "RTE: train.tsv 3" in capsys.readouterr().out
    assert laid_out(downloader) == FILES
    assert not list((downloader.data_dir / ".download").glob("*.zip"))


def test_a_complete_task_is_not_fetched_again(server, downloader, capsys):
    downloader.get(task_of())
    downloader.get(task_of())
    assert "RTE: already complete" in capsys.readouterr().out
    assert len(server.requests) == 1
    (downloader.data_dir / "RTE" / "dev.tsv").write_bytes(b"h\n1\n")
    downloader.get(task_of())
    assert len(server.requests) == 2 and laid_out(downloader) == FILES


def test_a_cut_download_continues_where_it_stopped(server, downloader):
    server.body = archive({**FILES, "noise": os.urandom(300_000)})
    server.answers = [("cut", 200_000)]
    downloader.get(task_of(server.body))
    assert [r.get("Range") for r in server.requests] == [None, "bytes=196608-"]
    assert laid_out(downloader) == FILES


def test_a_later_command_continues_an_earlier_ones_download(server, downloader):
    server.body = archive({**FILES, "noise": os.urandom(300_000)})
    server.answers = [("cut", 100_000), 403]
    with pytest.raises(RunError, match="403"):
        downloader.get(task_of(server.body))
    downloader.get(task_of(server.body))
    assert server.requests[-1]["Range"] == "bytes=65536-"


@pytest.mark.parametrize("change", ["ranges", "etag"])
def test_a_server_that_cannot_continue_sends_the_complete_file_again(server, downloader, change):
    server.body = archive({**FILES, "noise": os.urandom(300_000)})
    server.answers = [("cut", 200_000), 403]
    with pytest.raises(RunError):
        downloader.get(task_of(server.body))
    if change == "ranges":
        server.ranges = False
    else:  # another version of the file is there now
        server.etag, server.body = '"2"', archive()
    downloader.get(task_of(server.body))
    assert laid_out(downloader) == FILES


def test_a_slow_server_is_waited_for(server, downloader):
    server.chunk, server.delay = 50, 0.05
    downloader.get(task_of(server.body))
    assert laid_out(downloader) == FILES


@pytest.mark.parametrize("answers", [[500], [503, 500, 502], [429]])
def test_a_busy_server_is_asked_again(server, downloader, answers):
    server.answers = list(answers)
    downloader.get(task_of(server.body))
    assert len(server.requests) == len(answers) + 1
    assert laid_out(downloader) == FILES


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(server, downloader, status):
    server.answers = [status]
    with pytest.raises(RunError, match=f"RTE.zip: the server answers {status}"):
        downloader.get(task_of(server.body))
    assert len(server.requests) == 1 and nothing_is_there(downloader)


def test_a_server_that_stays_broken_is_given_up(server, downloader):
    server.answers = [500] * 20
    with pytest.raises(RunError, match="500"):
        downloader.get(task_of(server.body))
    assert len(server.requests) == 5


def damaged(body: bytes) -> bytes:
    middle = body.index(b"RTE/train.tsv") + 14
    return body[:middle] + bytes([body[middle] ^ 255]) + body[middle + 1 :]


@pytest.mark.parametrize(
    "body, task, complaint",
    [
        (archive(), task_of(b"another file"), "its MD5 is not"),
        (archive(), task_of(sha256="0" * 64), "its SHA-256 is not 0000"),
        (archive()[:-60], task_of(), "damaged"),
        (damaged(archive()), task_of(), "damaged"),
        (b"<html>not a zip</html>", task_of(), "damaged"),
        (archive({"train.tsv": b"h\n"}), task_of(), "lacks dev.tsv, test.tsv"),
        (archive({**FILES, "dev.tsv": b"h\n1\n"}), task_of(), "dev.tsv has 1 rows and not 2"),
    ],
    ids=[
        *("wrong MD5", "wrong SHA-256", "truncated", "flipped byte", "not a zip"),
        *("files missing", "rows missing"),
    ],
)
def test_what_is_not_the_task_never_takes_its_place(server, downloader, body, task, complaint):
    old = downloader.data_dir / "RTE"
    old.mkdir(parents=True)
    (old / "train.tsv").write_bytes(b"mine\n")
    server.body = body
    with pytest.raises(RunError, match=complaint):
        downloader.get(task)
    assert laid_out(downloader) == {"train.tsv": b"mine\n"}
    server.body = archive()
    downloader.get(task_of())
    assert laid_out(downloader) == FILES


def test_no_member_of_a_zip_is_written_outside_of_the_folder(server, downloader, tmp_path):
    server.body = archive({**FILES, "../../../evil.tsv": b"x", "/tmp/evil-absolute.tsv": b"x"})
    downloader.get(task_of())
    assert laid_out(downloader) == FILES
    outside = [path.name for path in tmp_path.rglob("*") if "evil" in path.name]
    assert not outside and not os.path.exists("/tmp/evil-absolute.tsv")  # noqa: PTH110


def test_a_traversal_in_the_place_of_a_needed_file_is_refused(server, downloader):
    server.body = archive({"../../" + name: content for name, content in FILES.items()})
    with pytest.raises(RunError, match="lacks"):
        downloader.get(task_of())


def test_a_link_in_a_zip_is_not_followed(server, downloader, tmp_path):
    (tmp_path / "secret").write_bytes(FILES["dev.tsv"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, content in FILES.items():
            member = zipfile.ZipInfo("RTE/" + name)
            if name == "dev.tsv":
                member.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = str(tmp_path / "secret").encode()
            zipped.writestr(member, content)
    server.body = buffer.getvalue()
    with pytest.raises(RunError, match=r"dev\.tsv has 0 rows"):
        downloader.get(task_of())


def test_a_zip_bomb_is_not_unpacked(server, downloader):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in FILES:
            with zipped.open("RTE/" + name, "w", force_zip64=True) as member:
                for _ in range(600 if name == "dev.tsv" else 1):
                    member.write(bytes(1_000_000))
    server.body = buffer.getvalue()
    with pytest.raises(RunError, match="602,000,000 bytes"):
        downloader.get(task_of())


def test_several_tasks_are_fetched_side_by_side(server, downloader):
    names = ("RTE", "WNLI", "QNLI", "STS-B")
    server.wait = threading.Barrier(len(names), timeout=60).wait
    tasks = [task_of(server.body, name) for name in names]
    assert download_tasks("name", tasks, downloader) == 0
    folders = {path.name for path in downloader.data_dir.iterdir() if path.name[0] != "."}
    assert folders == set(names)


def test_one_task_that_fails_leaves_the_others(server, downloader, capsys):
    assert download_tasks("name", [task_of(b"other"), task_of(name="WNLI")], downloader) == 1
    assert (downloader.data_dir / "WNLI" / "train.tsv").is_file() and nothing_is_there(downloader)
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("name: http://127.0.0.1:")
    assert "RTE.zip does not match the published file" in sentence


def test_too_little_room_is_noticed_before_anything_is_written(server, downloader, monkeypatch):
    usage = download.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RunError, match="10 are free"):
        downloader.get(task_of())
    assert nothing_is_there(downloader)


def test_a_disk_that_fills_up_leaves_nothing_half_written(server, tmp_path):
    server.body = archive({**FILES, "noise": os.urandom(300_000)}, compression=zipfile.ZIP_STORED)
    script = (
        "import pathlib, sys; sys.path.append('tests/data'); sys.path.append('tests')\n"
        "from test_download import Downloader, download_tasks, task_of\n"
        f"d = Downloader(pathlib.Path({str(tmp_path / 'glue')!r}), sys.argv[1], pause=0.01)\n"
        "sys.exit(download_tasks('name', [task_of()], d))\n"
    )
    command = [sys.executable, "-c", script, f"http://127.0.0.1:{server.server_port}"]

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    run = subprocess.run(command, cwd=ROOT, preexec_fn=limit_files, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert "cannot write" in run.stderr and "Traceback" not in run.stderr
    assert not (tmp_path / "glue" / "RTE").exists()
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_ctrl_c_ends_it_without_a_traceback(server, tmp_path):
    server.chunk, server.delay = 10, 0.2
    command = [
        sys.executable,
        "download_glue_data.py",
        "--data_dir",
        str(tmp_path),
        "--tasks",
        "RTE",
    ]
    mirror = f"http://127.0.0.1:{server.server_port}"
    process = subprocess.Popen(
        [*command, "--mirror", mirror],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not server.requests:
        time.sleep(0.05)
    process.send_signal(2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors


@pytest.mark.parametrize(
    "proxy, reason",
    [("", "the server cannot be reached"), ("http://127.0.0.1:9", "the proxy cannot be reached")],
)
def test_without_a_network_one_sentence_says_what_to_do(proxy, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    mirror = "http://nowhere.invalid" if proxy else "http://127.0.0.1:9"
    with pytest.raises(RunError) as error:
        Downloader(tmp_path / "glue", mirror, pause=0).get(TASKS["MRPC"])
    sentence = str(error.value)
    assert sentence.startswith(f"cannot download {mirror}/msr_paraphrase_train.txt: {reason}; ")
    for advice in ("check the network", "HTTPS_PROXY", "--mirror URL", "--path_to_mrpc DIR"):
        assert advice in sentence
    assert "\n" not in sentence and "object at 0x" not in sentence and "Pool" not in sentence
    assert not (tmp_path / "glue" / "MRPC").exists()


def test_raw_files_of_mrpc_are_known_by_two_checksums():
    assert all(raw.md5 and len(raw.sha256) == 64 for raw in TASKS["MRPC"].downloads)


def test_altered_or_missing_raw_files_are_refused(tmp_path):
    downloader = Downloader(tmp_path / "glue", path_to_mrpc=tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*msr_paraphrase_train\.txt"):
        downloader.get(TASKS["MRPC"])
    (tmp_path / "msr_paraphrase_train.txt").write_text("Quality\n")
    with pytest.raises(UserError, match="does not match the published file"):
        downloader.get(TASKS["MRPC"])
    assert not (tmp_path / "glue" / "MRPC").exists()
