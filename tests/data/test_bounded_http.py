"""Servers that send too much, too slowly or nonsense, on this machine."""

from __future__ import annotations

import gzip
import itertools
import random
import socketserver
import threading
import time

import pytest
from test_download import FILES, archive, laid_out, task_of

from bert import bounds
from bert.errors import RunError
from finetuning.data import bounded_http, download
from finetuning.data.download import Downloader, download_tasks

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Return a function that starts a server of byte strings, and makes a downloader for it."""
    monkeypatch.setattr(bounds, "RATE_SECONDS", 0.5)
    monkeypatch.setattr(bounded_http, "TIMEOUT_SECONDS", 5)
    monkeypatch.setattr(bounded_http, "LARGEST_BYTES", 4_000_000)
    monkeypatch.setattr(download, "_LARGEST_FILE_BYTES", 2_000_000)
    servers = []

    def start(*chunks, delay=0.0):
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                server.count += 1
                while self.rfile.readline().strip():
                    pass
                try:
                    for chunk in itertools.chain.from_iterable(chunks):
                        self.wfile.write(chunk)
                        server.sent += len(chunk)
                        time.sleep(delay)
                except OSError:
                    pass

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads, server.count, server.sent = True, 0, 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        address = f"http://user:secret@127.0.0.1:{server.server_address[1]}"
        return Downloader(tmp_path / "glue", address, pause=0.01), server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


MEGABYTE = b"x" * 1_000_000
CHUNK = b"f4240\r\n" + MEGABYTE + b"\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "head, forever",
    [
        (CHUNKED, CHUNK),
        (HEAD + b"\r\n", MEGABYTE),
        (CHUNKED + b"1;", MEGABYTE),
        (CHUNKED + b"0\r\n", b"a: " + b"x" * 60_000 + b"\r\n"),
        (HEAD + b"Content-Length: 9" + b"0" * 17 + b"\r\n\r\n", MEGABYTE),
        (HEAD + b"Content-Length: 9" + b"0" * 5000 + b"\r\n\r\n", MEGABYTE),
        (HEAD + "Content-Length: ²\r\n\r\n".encode("latin-1"), MEGABYTE),
        (HEAD + b"Content-Length: -5\r\n\r\n", MEGABYTE),
        (HEAD, b"x: " + b"y" * 60_000 + b"\r\n"),
        (b"", MEGABYTE),
    ],
    ids=[
        *("chunks", "no length", "length of a chunk", "trailers", "large length", "huge length"),
        *("no number", "negative length", "headers", "first line"),
    ],
)
def test_what_never_ends_is_given_up(serve, head, forever):
    downloader, _ = serve([head], itertools.repeat(forever))
    began = time.monotonic()
    with pytest.raises(RunError, match=r"^cannot download http://127"):
        downloader.get(task_of())
    assert time.monotonic() - began < 20
    work = downloader.data_dir / ".download"
    assert sum(path.stat().st_size for path in work.iterdir()) <= 4_000_000


@pytest.mark.parametrize(
    "head",
    [HEAD + b"Content-Length: 100000\r\n\r\n", CHUNKED + b"ffff\r\n", CHUNKED, HEAD + b"x: ", b""],
    ids=["body", "chunk", "length of a chunk", "headers", "first line"],
)
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(serve, head):
    downloader, server = serve([head], itertools.repeat(b"1"), delay=0.1)
    began = time.monotonic()
    with pytest.raises(RunError, match="sends less than 5,000 bytes per second"):
        downloader.get(task_of())
    assert time.monotonic() - began < 5 and server.count == 1


def test_what_a_slow_server_has_sent_is_kept(serve):
    body = archive({**FILES, "noise": random.Random(0).randbytes(300_000)})
    head = HEAD + b'ETag: "1"\r\nContent-Length: ' + str(len(body)).encode() + b"\r\n\r\n"
    downloader, _ = serve([head, body[:100_000]], itertools.repeat(b"x"), delay=0.1)
    with pytest.raises(RunError, match="per second"):
        downloader.get(task_of())
    part = (downloader.data_dir / ".download" / "RTE.zip.part").read_bytes()
    assert len(part) > 30_000 and body.startswith(part)


@pytest.mark.parametrize("location", [b"/again", b"file:///etc/passwd", b"http://[", b"ftp://a"])
def test_a_redirect_to_nowhere_is_given_up_and_its_body_is_not_read(serve, location):
    head = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 900000000\r\n\r\n"
    downloader, _ = serve([head], itertools.repeat(MEGABYTE))
    began = time.monotonic()
    with pytest.raises(RunError, match="redirects"):
        downloader.get(task_of())
    assert time.monotonic() - began < 5


def test_an_answer_that_is_compressed_is_refused(serve):
    body = gzip.compress(bytes(50_000_000))
    downloader, server = serve([HEAD + b"Content-Encoding: gzip\r\n\r\n", body])
    with pytest.raises(RunError, match="compresses"):
        downloader.get(task_of())
    assert server.count == 1


@pytest.mark.parametrize("asked", ["²", "-1", "nan", "9" * 5000, "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_pause_that_is_no_number_is_not_waited_for(serve, asked, monkeypatch):
    monkeypatch.setattr(download, "_LONGEST_PAUSE_SECONDS", 0.01)
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n"
    downloader, server = serve([head.encode("latin-1")])
    with pytest.raises(RunError, match="answers 503"):
        downloader.get(task_of())
    assert server.count == 5


def test_a_length_that_is_too_short_leaves_nothing(serve, capsys):
    body = archive()
    head = HEAD + f"Content-Length: {len(body) - 50}\r\n\r\n".encode()
    downloader, _ = serve([head, body])
    assert download_tasks("name", [task_of()], downloader) == 1
    assert "is damaged" in (error := capsys.readouterr().err) and "secret" not in error
    assert not (downloader.data_dir / "RTE").exists()


def test_a_length_that_is_too_long_is_asked_for_again(serve):
    body = archive()
    head = HEAD + f"Content-Length: {len(body) + 50}\r\n\r\n".encode()
    downloader, server = serve([head, body])
    with pytest.raises(RunError, match="the connection was cut"):
        downloader.get(task_of())
    assert server.count == 5


def test_a_redirect_is_followed(serve):
    body = archive()
    head = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
    _, target = serve([head, body])
    there = f"http://127.0.0.1:{target.server_address[1]}/".encode()
    head = b"HTTP/1.1 301 Moved\r\nLocation: " + there + b"\r\nContent-Length: 0\r\n\r\n"
    downloader, _ = serve([head])
    downloader.get(task_of())
    assert laid_out(downloader) == FILES
