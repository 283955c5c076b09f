"""What is printed: other people's text made visible, and printing that cannot end a program."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import BinaryIO, NoReturn, TextIO

from bert.errors import UserError

_MOST = 2000  # characters of one message


def shown(text: object, most: int = _MOST, keep: str = "") -> str:
    """Return text as a terminal, a log or a picture may show it.

    Text from files, flags, models and servers can contain what moves the cursor, turns the reading
    direction or forges a line of the log. Such characters (all for which ``str.isprintable`` is
    False) become Python's escapes; printable characters are not changed.

    Parameters
    ----------
    text : object
        What is not a string is converted.
    most : int
        Longer text loses its middle to an ellipsis.
    keep : str
        Characters that stay as they are; ``"\\n"`` for a text of several lines.
    """
    text = str(text)
    if len(text) > 2 * most:  # escapes only lengthen it
        text = text[:most] + text[-most:]
    visible = "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )
    if len(visible) <= most:
        return visible
    end = (most - 1) // 2
    return visible[: most - 1 - end] + "…" + visible[len(visible) - end :]


def say(text: str, file: TextIO | None = None) -> None:
    """Print on standard output or ``file``, above a progress bar; never fails."""
    write = sys.modules["tqdm"].tqdm.write if "tqdm" in sys.modules else print
    # No reader, a full disk, a stream that is closed, or one that there never was.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        file = file or sys.stdout
        write(text, file=file)
        file.flush()


_CURSOR_UP = "\x1b[A"  # what tqdm writes between several bars


class _Stream(io.TextIOWrapper):
    """Shows what other libraries print, too, as text."""

    def write(self, text: str) -> int:
        bar = not text.replace(_CURSOR_UP, "")
        super().write(text if bar else shown(text, 10 * len(text), keep="\n\r\t"))
        return len(text)


class _Unfailing(io.FileIO):
    """A file to which nobody needs to have been able to write."""

    def write(self, data):
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(memoryview(data).cast("B"))


def open_streams() -> None:
    """Let neither this program nor a library fail by what it prints, for example a progress bar.

    A standard stream that was closed (``>&-``) becomes /dev/null, so that no other file gets its
    descriptor, to which libraries write. What cannot be written is lost, and what the encoding
    lacks is printed as an escape.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the missing one
            os.set_inheritable(descriptor, True)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
    os.environ.setdefault("PYTHON_COLORS", "0")  # argparse's, since Python 3.14
    sys.stdout, sys.stderr = _unfailing(sys.stdout), _unfailing(sys.stderr)


def _unfailing(stream: TextIO) -> TextIO:
    file = io.BufferedWriter(_Unfailing(stream.fileno(), "w", closefd=False))
    return _Stream(file, stream.encoding, "backslashreplace", line_buffering=True)


def data_output() -> BinaryIO:
    """Return standard output for what must not be lost: writing to it may fail."""
    if sys.__stdout__ is None:
        raise UserError("standard output is closed: pass --output")
    unfailing = isinstance(getattr(sys.stdout.buffer, "raw", None), _Unfailing)
    return (sys.__stdout__ if unfailing else sys.stdout).buffer


def start(main: Callable[[], int]) -> NoReturn:
    """Run a script's ``main`` as a process: neither printing nor Ctrl-C ends it in a traceback."""
    open_streams()
    sys.excepthook = _show_exception
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see finetuning.early
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = main()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _show_exception(kind, error, trace) -> None:
    lines = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n")
    say(shown(lines, 10 * _MOST, keep="\n"), sys.stderr)
