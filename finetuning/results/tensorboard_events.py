"""TensorBoard event files: the curves of a run while it trains.

Only TensorBoard's record format is used, not tensorboardX: its writer thread ends on a full disk
(2.6.5), and training then waits forever for its queue.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

from bert.files import open_own

_PREFIX = "events.out.tfevents."


class EventFile:
    """Appends scalars to a new event file in a folder.

    In a resumed run TensorBoard is told to discard the points after the last checkpoint. A full
    disk ends the curves, not the run. Use as a context manager.

    Parameters
    ----------
    folder : Path, optional
        None: nothing is written.
    wanted : bool, optional
        Whether to write a file. Default: if tensorboard is installed.
    updates : int
        Updates done so far.
    warn : function of str
    """

    def __init__(self, folder: Path | None, wanted: bool | None, updates: int, warn: Callable):
        self._warn = warn
        self.name: str | None = None  # of the file that is written
        self._file = None
        if wanted is None:
            wanted = importlib.util.find_spec("tensorboard") is not None
        if not (wanted and folder):
            return
        # Imported only where it is wanted: it takes a fifth of a second.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        name = f"{_PREFIX}{int(time.time()):010d}.{os.getpid()}.{updates}"
        self.name = name
        try:
            self._file = open_own(folder / name, buffering=0)
        except OSError as error:
            self._give_up(error)
            return
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if updates:
            restart = SessionLog(status=SessionLog.START)
            self._write(step=updates + 1, session_log=restart)

    def __enter__(self) -> EventFile:
        return self

    def __exit__(self, *exception) -> None:
        if self._file:
            self._file.close()

    def add(self, update: int, scalars: dict[str, float]) -> None:
        """Append values at an update, by name (e.g. ``train/loss``)."""
        if self._file:
            values = [
                self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()
            ]
            self._write(step=update, summary=self._summary(value=values))

    def _write(self, **content) -> None:
        event = self._event(wall_time=time.time(), **content)
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._warn(f"warning: the TensorBoard event file ends here: {error.strerror}")
        self._file = None
