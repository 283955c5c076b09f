"""Bounds of what a server sends: in bytes, and in time by a lowest rate.

A time-out for each read of a socket bounds neither: with a byte a second, a file never ends.
"""

from __future__ import annotations

import time

# Each time of RATE_SECONDS must have this rate: 500 MB then take a day.
SLOWEST_BYTES_PER_SECOND = 5000
RATE_SECONDS = 60


class BoundError(Exception):
    """An answer is too long or too slow; the message is half a sentence."""


class Received:
    """Counts what a server sends.

    Parameters
    ----------
    most : int
        Bytes.
    """

    def __init__(self, most: int):
        self._most = most
        self._total = self._recent = 0
        self._since = time.monotonic()

    def add(self, size: int) -> None:
        """Count bytes that have just come; raises BoundError if they are too many or too few."""
        self._total += size
        self._recent += size
        if self._total > self._most:
            raise BoundError(f"the server sends more than {self._most:,} bytes")
        seconds = time.monotonic() - self._since
        if seconds > RATE_SECONDS:
            if self._recent < seconds * SLOWEST_BYTES_PER_SECOND:
                raise BoundError(
                    f"the server sends less than {SLOWEST_BYTES_PER_SECOND:,} bytes per second"
                )
            self._recent, self._since = 0, time.monotonic()
