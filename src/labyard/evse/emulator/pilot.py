"""The current that the charger offers, and what limits it: contract 2.2, `$SC`."""

from __future__ import annotations

from labyard.evse.emulator.config import MAX_AMPS, MIN_AMPS
from labyard.evse.emulator.heartbeat import Heartbeat


class Pilot:
    """All in A. At most the stored maximum, which is at most the hardware's."""

    def __init__(self, stored_max: int, heartbeat: Heartbeat) -> None:
        self.hardware_max = MAX_AMPS
        self.stored_max = stored_max
        self._set = stored_max
        self._heartbeat = heartbeat
        self._hardware_max_given = False

    @property
    def amps(self) -> int:
        """As set, or less while heartbeats are missed."""
        limit = self._heartbeat.limit
        return self._set if limit is None else min(self._set, limit)

    def set(self, amps: int) -> None:
        """Until the next boot; cut at the stored maximum."""
        self._set = max(MIN_AMPS, min(amps, self.stored_max))

    def set_stored_max(self, amps: int) -> None:
        """Stored maximum and pilot; cut at the hardware's maximum."""
        self.stored_max = max(MIN_AMPS, min(amps, self.hardware_max))
        self.set(self.stored_max)

    def set_hardware_max(self, amps: int) -> bool:
        """Possible once. False: it was given before, or is out of range."""
        if self._hardware_max_given or not MIN_AMPS <= amps <= MAX_AMPS:
            return False
        self._hardware_max_given = True
        self.hardware_max = amps
        self.stored_max = min(self.stored_max, amps)
        self._set = min(self._set, amps)
        return True

    def boot(self) -> None:
        """Back to what is stored."""
        self._set = self.stored_max
