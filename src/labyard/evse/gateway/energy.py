"""Energy counted by the gateway itself, from amps and volts: contract 5.1. Pure."""

from __future__ import annotations

from datetime import date
from typing import Any

# Each period of /status, and what of the date names it: when that changes, the next one has begun.
_PERIODS = {"day": "%Y-%m-%d", "week": "%G-%V", "month": "%Y-%m", "year": "%Y"}


class EnergyMeter:
    """`session` in Wh, all else in kWh; `switches` counts how often the relay closed."""

    def __init__(self) -> None:
        self.session = 0.0
        self.total = 0.0
        self.switches = 0
        self.periods = dict.fromkeys(_PERIODS, 0.0)
        self._period_of = dict.fromkeys(_PERIODS, "")

    def add(self, seconds: float, watts: float) -> None:
        wh = watts * seconds / 3600
        self.session += wh
        self.total += wh / 1000
        for name in self.periods:
            self.periods[name] += wh / 1000

    def new_session(self) -> None:
        self.session = 0.0

    def reset(self, total: float) -> None:
        """Begin anew with that total."""
        self.session = 0.0
        self.total = total
        self.periods = dict.fromkeys(_PERIODS, 0.0)

    def as_json(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "switches": self.switches,
            "periods": self.periods,
            "period_of": self._period_of,
        }

    def restore(self, kept: Any) -> None:
        """What `as_json` gave; ValueError, and nothing is changed, if it is not."""
        try:
            total, switches = float(kept["total"]), int(kept["switches"])
            periods = {name: float(kept["periods"][name]) for name in _PERIODS}
            period_of = {name: str(kept["period_of"][name]) for name in _PERIODS}
        except (TypeError, KeyError) as problem:
            raise ValueError(f"no stored energy: {problem!r}") from problem
        self.total, self.switches, self.periods, self._period_of = total, switches, periods, period_of

    def turn(self, today: date) -> None:
        """Begin the day, week, month and year that `today` is in."""
        for name, pattern in _PERIODS.items():
            if self._period_of[name] != (current := today.strftime(pattern)):
                self._period_of[name] = current
                self.periods[name] = 0.0
