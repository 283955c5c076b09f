"""Archives that are damaged, or larger than they should be."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_download import FILES, archive, laid_out, task_of

from bert.errors import RunError
from finetuning.data.download import Downloader

CENTRAL, END = b"PK\x01\x02", b"PK\x05\x06"


def get(tmp_path, body: bytes) -> Downloader:
    """Lay a task out from this archive, as if it had been downloaded."""
    downloader = Downloader(tmp_path / "glue")
    work = tmp_path / "glue" / ".download"
    work.mkdir(parents=True, exist_ok=True)
    (work / "RTE.zip").write_bytes(body)
    downloader.fetch = lambda download: work / "RTE.zip"
    downloader.get(task_of())
    return downloader


def changed(body: bytes, at: int, value: bytes) -> bytes:
    return body[:at] + value + body[at + len(value) :]


def encrypted() -> bytes:
    body = archive()
    return changed(changed(body, 6, b"\1"), body.index(CENTRAL) + 8, b"\1")


def undecodable_name() -> bytes:
    body = archive({**FILES, "€": b""})
    return body.replace("€".encode(), b"\xff\xfe\xfd")


def many_members() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for number in range(25_000):
            zipped.writestr(str(number), b"")
    return buffer.getvalue()


def long_name() -> bytes:
    return archive({**FILES, "n" * 65_000: b""})


def large_list() -> bytes:
    body = archive()
    return changed(body, body.index(END) + 12, struct.pack("<I", 0x7FFFFFFF))


def lying_size() -> bytes:
    body = archive({**FILES, "train.tsv": b"\n" * 10_000_000})
    return changed(body, body.index(CENTRAL) + 24, struct.pack("<I", 10))


@pytest.mark.parametrize(
    "body",
    [
        encrypted(),
        undecodable_name(),
        many_members(),
        large_list(),
        lying_size(),
        archive(compression=zipfile.ZIP_LZMA),
        archive(compression=zipfile.ZIP_BZIP2),
        changed(archive(), archive().index(CENTRAL) + 10, b"\x63"),
    ],
    ids="encrypted name members list lying lzma bzip2 unknown".split(),
)
def test_an_archive_that_is_not_glues_is_refused(tmp_path, body):
    with pytest.raises(RunError, match=r"RTE\.zip (is damaged|lacks)"):
        get(tmp_path, body)
    assert not (tmp_path / "glue" / "RTE").exists()


def test_other_members_do_no_harm(tmp_path):
    assert laid_out(get(tmp_path, long_name())) == FILES


def test_files_that_are_too_large_only_together_are_not_unpacked(tmp_path):
    zeros = b"\n" * 300_000_000
    with pytest.raises(RunError, match="unpacks to 600,000"):
        get(tmp_path, archive({**FILES, "train.tsv": zeros, "dev.tsv": zeros}))


def test_a_list_of_members_needs_no_memory_beyond_its_bound(tmp_path):
    body = many_members()
    tracemalloc.start()
    with pytest.raises(RunError):
        get(tmp_path, body)
    assert tracemalloc.get_traced_memory()[1] < len(body) + 2_000_000
    tracemalloc.stop()


@settings(max_examples=200, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.data())
def test_a_damaged_archive_is_refused_or_right(tmp_path, data):
    body = bytearray(archive())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            downloader = get(tmp_path, bytes(body[: data.draw(st.integers(1, len(body)))]))
        except RunError:
            return
    assert laid_out(downloader).keys() == FILES.keys()
