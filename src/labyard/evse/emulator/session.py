"""What is counted, and limited, from plug to plug."""

from __future__ import annotations

from dataclasses import dataclass

TIME_LIMIT_UNIT = 15 * 60.0  # s


@dataclass
class Session:
    """`time_limit` is in TIME_LIMIT_UNIT. A limit of 0 is none."""

    watt_seconds: float = 0.0
    seconds: float = 0.0  # of charging
    charge_limit_kwh: int = 0
    time_limit: int = 0

    @property
    def is_over(self) -> bool:
        """A limit is reached."""
        energy = self.charge_limit_kwh > 0 and self.watt_seconds >= self.charge_limit_kwh * 3_600_000
        duration = self.time_limit > 0 and self.seconds >= self.time_limit * TIME_LIMIT_UNIT
        return energy or duration
