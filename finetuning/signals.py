"""Signals that ask a run to end: it ends where nothing is lost, or at once.

Python runs its signal handlers between two lines of Python, which can be minutes apart while MXNet
computes. So a thread of its own watches for the signals here. Nothing in this module needs MXNet:
it listens before MXNet is loaded.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Ctrl-C, kill, a closed terminal or ssh session, and Slurm's warning before a time limit.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_deferring = False
_received: int | None = None


class Interrupted(Exception):
    """A signal has asked the run to end.

    Attributes
    ----------
    exit_code : int
        128 and the signal's number, as shells have it: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, signum: int):
        name = signal.Signals(signum).name
        super().__init__(f"interrupted by {name}; the same command with --resume continues")
        self.exit_code = 128 + signum


def listen() -> None:
    """From now on a signal ends the process at once, with the exit code and without a trace."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for signum in _SIGNALS:
        # What is ignored at the start stays ignored: nohup, a shell's background jobs.
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)  # the byte that it writes is what counts
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


@contextmanager
def deferred() -> Iterator[None]:
    """Within this, the first signal only makes :func:`received` true; a second ends at once."""
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False


def received() -> bool:
    """Tell whether a signal has come."""
    return _received is not None


def stop() -> None:
    """Raise Interrupted: a signal has come, here or to another rank (then it was SIGTERM)."""
    raise Interrupted(_received or signal.SIGTERM)


def check() -> None:
    """Raise Interrupted if a signal has come."""
    if _received is not None:
        raise Interrupted(_received)


def _watch(reader: socket.socket) -> None:
    global _received
    while True:
        signum = reader.recv(1)[0]
        if not _deferring or _received is not None:
            os._exit(128 + signum)
        _received = signum
        name = signal.Signals(signum).name
        sentence = f"{name}: saving after this update (a second signal quits without saving)"
        with suppress(OSError):  # the terminal is gone
            os.write(2, f"\n{sentence}\n".encode())
