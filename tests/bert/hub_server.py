"""A server on loopback that answers as the Hugging Face Hub does, from folders."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" * 6 + "c0ff"


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer(ThreadingHTTPServer):
    """Serves ``repositories``, {name: folder}; HF_ENDPOINT is its ``url``.

    Attributes
    ----------
    requests : list of (method, repository, filename, headers)
    cuts : list of int
        The next downloads of model.safetensors end after so many bytes of what was asked for.
    altered : set of str
        Files that are sent with one bit changed.
    endless : dict of str to float
        Files of which a byte is sent again and again, after so many seconds.
    gated, failing : set of str
        Repositories that want a token ("secret"), and repositories that answer 500.
    """

    def __init__(self, repositories: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.requests, self.cuts = [], []
        self.endless: dict[str, float] = {}
        self.altered, self.gated, self.failing = set(), set(), set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commit = COMMIT
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def fetched(self) -> list[str]:
        """Return the names of the files that were downloaded."""
        return [filename for method, _, filename, _ in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _never_end(self, pause: float) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"{" * (1 if pause else 100_000))
                time.sleep(pause)

    def _answer(self) -> None:
        hub = self.server
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, filename = rest.partition("/")
        if not filename:  # a version check and the like
            return self._refuse(404, "RepoNotFound")
        hub.requests.append((self.command, repository, filename, self.headers))
        if repository in hub.failing:
            return self._refuse(500, "")
        if repository not in hub.repositories:
            return self._refuse(404, "RepoNotFound")
        if repository in hub.gated and self.headers.get("Authorization") != "Bearer secret":
            return self._refuse(401, "GatedRepo")
        if revision not in ("main", hub.commit):
            return self._refuse(404, "RevisionNotFound")
        path = hub.repositories[repository] / filename
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        if self.command == "GET" and filename in hub.endless:
            return self._never_end(hub.endless[filename])
        content = path.read_bytes()
        large = filename.endswith(".safetensors")
        etag = hashlib.sha256(content).hexdigest() if large else git_sha1(content)
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("ETag", '"the CDN\'s own"' if large else f'"{etag}"')
        if large:
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(content)))
        if wanted:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        if filename in hub.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if large and hub.cuts:
            content = content[: start + hub.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(content[start:])
        return None

    def log_message(self, *arguments):
        pass
