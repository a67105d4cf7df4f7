"""Whose turn it is when there is not enough for all: contract 7, step 7."""

from __future__ import annotations


class Rotation:
    """Counts the rotation intervals that have passed. The first call only starts the clock."""

    def __init__(self, interval: float) -> None:
        """`interval` in seconds; 0 never turns."""
        self._interval = interval
        self._since: float | None = None
        self._offset = 0

    def set_interval(self, interval: float) -> None:
        """Whoever has the turn keeps it; a new interval begins at the next call."""
        if interval != self._interval:
            self._interval = interval
            self._since = None

    def offset(self, now: float) -> int:
        if self._interval <= 0:
            return self._offset
        if self._since is None:
            self._since = now
        passed = int((now - self._since) // self._interval)
        self._offset += passed
        self._since += passed * self._interval
        return self._offset
