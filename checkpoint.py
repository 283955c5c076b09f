"""Files that are whole or not there: written to a temporary name, flushed, renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mxnet as mx
from mxnet.gluon import Block

from bert.errors import UserError
from bert.parameters import parameters_of


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the place of ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # makes the new name itself durable
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: dict) -> None:
    """Write an indented JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def save_parameters(net: Block, path: Path) -> None:
    """Save a network's parameters in MXNet's ``.params`` format, atomically."""
    arrays = {name: parameter.data() for name, parameter in parameters_of(net).items()}
    with replacing(path) as temporary:
        mx.nd.save(str(temporary), arrays)


def prepare_output_dir(path: Path) -> None:
    """Make a run's folder and prove that it can be written; UserError says why not."""
    probe = path / f".probe.{os.getpid()}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to the output folder {path}: {error.strerror}") from None
