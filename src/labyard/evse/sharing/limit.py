"""What a member lets its charger draw: contract 6.3. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import floor
from typing import Literal

from labyard.evse.sharing.allocator import EPSILON, FailsafeMode

LimitReason = Literal["none", "allocation", "group_cap", "controller_lost"]


@dataclass(frozen=True)
class Limit:
    """`current` in A as it was given; the pilot gets whole amperes. `off`: no charging at all."""

    current: float
    off: bool
    reason: LimitReason

    @property
    def amps(self) -> int:
        return max(0, floor(self.current + EPSILON))

    def pauses(self, minimum: float) -> bool:
        """Whether a charger with that minimum must not charge."""
        return self.off or self.current < minimum - EPSILON


@dataclass(frozen=True)
class Failsafe:
    """The options of a member that its failsafe depends on."""

    controller_host: str = ""
    heartbeat_timeout: float = 30.0
    mode: FailsafeMode = "safe_current"
    safe_current: float = 6.0

    @cached_property
    def limit(self) -> Limit:
        off = self.mode == "disable" or self.safe_current <= 0
        return Limit(0.0 if off else self.safe_current, off, "controller_lost")


class MemberLimit:
    """Begins in its failsafe: after a restart as well, and until the first allocation."""

    def __init__(self, failsafe: Failsafe) -> None:
        self.failsafe = failsafe
        self.ignored = 0  # allocations that came late, after a newer one
        self._limit: Limit | None = None
        self._at = 0.0
        self._seq: int | None = None

    @property
    def joining(self) -> bool:
        """Nothing was ever allocated to it."""
        return self._limit is None

    def configure(self, failsafe: Failsafe) -> None:
        """Counts at once. Another controller must allocate anew."""
        if failsafe.controller_host != self.failsafe.controller_host:
            self._limit = self._seq = None
        self.failsafe = failsafe

    def allocate(self, current: float, reason: str, now: float, seq: int | None = None) -> bool:
        """Take an allocation in. False: a newer one is in force (a controller without `seq` has no older ones)."""
        if seq is not None and self._seq is not None and seq < self._seq and not self.failsafe_active(now):
            self.ignored += 1
            return False
        self._seq = seq
        self._limit = Limit(current, reason == "failsafe_disabled", "allocation")
        self._at = now
        return True

    def failsafe_active(self, now: float) -> bool:
        lost = self._limit is None or now - self._at > self.failsafe.heartbeat_timeout
        return lost or not self.failsafe.controller_host

    def limit(self, now: float) -> Limit:
        if self._limit is None or self.failsafe_active(now):
            return self.failsafe.limit
        return self._limit
