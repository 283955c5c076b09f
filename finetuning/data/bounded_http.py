"""An HTTP session whose answers have bounds, in bytes and in time.

requests reads headers, redirects and chunks of any length before it returns. So what comes from a
socket is counted where it comes from.
"""

from __future__ import annotations

import http.client
import io
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from bert.bounds import BoundError, Received

TIMEOUT_SECONDS = 30  # without a single byte
LARGEST_BYTES = 1 << 30  # of an answer, with all that is not its file
_MOST_REDIRECTS = 10


class _Counted(io.RawIOBase):
    """What a socket receives."""

    def __init__(self, socket: io.RawIOBase):
        self._socket = socket
        self._received = Received(LARGEST_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        size = self._socket.readinto(buffer)
        self._received.add(size or 0)
        return size

    def close(self) -> None:
        self._socket.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.fp = io.BufferedReader(_Counted(self.fp.detach()))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _use_bounds(manager: PoolManager) -> PoolManager:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments, **keywords):
        super().init_poolmanager(*arguments, **keywords)
        _use_bounds(self.poolmanager)

    def proxy_manager_for(self, *arguments, **keywords):
        return _use_bounds(super().proxy_manager_for(*arguments, **keywords))


class Session(requests.Session):
    """A session that follows redirects without reading their bodies, and not to plain HTTP."""

    def __init__(self):
        super().__init__()
        self.mount("http://", _Adapter())
        self.mount("https://", _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Say that no answer is a redirect: requests would read all of its body."""

    def open(self, address: str, headers: dict[str, str]) -> requests.Response:
        """Return the answer to a GET, of which the body is not read yet.

        Raises
        ------
        BoundError
            Also while the body is read.
        requests.RequestException
        """
        for _ in range(_MOST_REDIRECTS):
            response = self.get(address, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
            if not response.is_redirect:
                return response
            response.close()
            try:
                target = urljoin(address, response.headers["Location"])
            except ValueError:
                raise requests.exceptions.InvalidURL from None
            if address.startswith("https:") and not target.startswith("https:"):
                raise BoundError("the server redirects to an address without TLS")
            address = target
        raise requests.TooManyRedirects
