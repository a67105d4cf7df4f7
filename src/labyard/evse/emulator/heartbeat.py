"""The charger's supervision of its gateway: without a pulse in time the pilot is limited ($SY, $GY)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Trigger(IntEnum):
    NEVER_MISSED = 0
    ACKNOWLEDGED = 1  # missed, then acknowledged
    MISSED = 2  # the pilot is limited


@dataclass
class Heartbeat:
    """Off while `interval` (s) is 0. `amps` is the limit after a miss."""

    interval: int = 0
    amps: int = 0
    trigger: Trigger = Trigger.NEVER_MISSED
    _last: float = 0.0

    @property
    def limit(self) -> int | None:
        return self.amps if self.interval and self.trigger is Trigger.MISSED else None

    def set(self, interval: int, amps: int, now: float) -> None:
        self.interval, self.amps, self._last = interval, amps, now

    def pulse(self, now: float) -> bool:
        """False: a miss is not yet acknowledged."""
        self.check(now)
        self._last = now
        return self.trigger is not Trigger.MISSED

    def acknowledge(self, now: float) -> None:
        if self.trigger is Trigger.MISSED:
            self.trigger = Trigger.ACKNOWLEDGED
        self._last = now

    def check(self, now: float) -> None:
        if self.interval and now - self._last > self.interval:
            self.trigger = Trigger.MISSED
