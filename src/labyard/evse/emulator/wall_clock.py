"""The charger's own date and time ($GT, $S1), and the delay timer that goes by it ($GD, $ST)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta

NEVER = time(0, 0)


class WallClock:
    def __init__(self, at: datetime, now: float) -> None:
        self._at, self._since = at, now

    def read(self, now: float) -> datetime:
        return self._at + timedelta(seconds=now - self._since)

    def set(self, at: datetime, now: float) -> None:
        self._at, self._since = at, now


@dataclass
class DelayTimer:
    """Charge from `start` to `stop` each day. Both 00:00: off."""

    start: time = NEVER
    stop: time = NEVER
    _was_inside: bool | None = None

    @property
    def on(self) -> bool:
        return (self.start, self.stop) != (NEVER, NEVER)

    def set(self, start: time, stop: time) -> None:
        self.start, self.stop, self._was_inside = start, stop, None

    def turned(self, at: time) -> bool | None:
        """True when its time has begun, False when it has ended, None when nothing has changed since the last call."""
        if not self.on:
            return None
        over_midnight = self.start > self.stop
        inside = (at >= self.start or at < self.stop) if over_midnight else self.start <= at < self.stop
        if inside == self._was_inside:
            return None
        self._was_inside = inside
        return inside
