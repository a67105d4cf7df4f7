"""The monitor's judgement: pass by pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from labyard.evse.monitor.sample import Charger, Group, Reader
from labyard.evse.sharing.account import TOLERANCE, Account

Line = dict[str, Any]


class Watch:
    """`budget` in A, None: the controller's. Drawn and offered current are judged apart."""

    def __init__(self, budget: float | None, scale: float = 1.0) -> None:
        self.drawn = Account(scale)
        self.offered = Account(scale)
        self.passes = 0
        self.overdraws = 0  # passes in which a car drew more than its offer
        self.incomplete = 0  # passes in which a charger did not answer: what it drew is not in the sum
        self.last: Line = {}
        self._budget = budget
        self._members: int | None = None
        self._at: float | None = None

    @property
    def violations(self) -> int:
        return self.drawn.violations + self.offered.violations

    def needs_second_look(self, chargers: Mapping[str, Charger | None]) -> bool:
        """Whether a sum is over the budget. Chargers are not read in the same instant: current that has gone from one
        to the other may have been seen at both."""
        return self._budget is not None and max(_sums(chargers)) > self._budget + TOLERANCE

    def take_group(self, group: Group | None, now: float, follow_budget: bool) -> None:
        """What the controller says. More members than before: one has joined."""
        if group is None:
            return
        if follow_budget and group.budget > 0:
            self._budget = group.budget
        if self._members is not None and group.members > self._members:
            self.drawn.joined(now)
            self.offered.joined(now)
        self._members = group.members

    def take(self, chargers: Mapping[str, Charger | None], now: float, group: Group | None = None) -> Line:
        """One pass, as a line."""
        self.passes += 1
        seconds = 0.0 if self._at is None else now - self._at
        self._at = now
        drawn, offered = _sums(chargers)
        over = {"drawn": 0.0, "offered": 0.0}
        if self._budget is not None:
            over["drawn"] = self.drawn.add(now, seconds, drawn, self._budget)
            over["offered"] = self.offered.add(now, seconds, offered, self._budget)
        overdraw = [name for name, charger in chargers.items() if charger is not None and charger.overdraws]
        self.overdraws += bool(overdraw)
        self.incomplete += None in chargers.values()
        self.last = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "t": round(now, 3),
            "budget": self._budget,
            "drawn": round(drawn, 2),
            "offered": round(offered, 2),
            "committed": None if group is None else group.committed,
            "failsafe": None if group is None else group.failsafe,
            "over": {kind: round(amps, 2) for kind, amps in over.items()},
            "violation": any(over.values()),
            "overdraw": overdraw,
            "chargers": {name: None if one is None else one.as_json() for name, one in chargers.items()},
        }
        return self.last

    def summary(self) -> Line:
        return {
            "passes": self.passes,
            "violations": self.violations,
            "over_budget_ampere_seconds": round(self.drawn.over_ampere_seconds, 3),
            "offers_over_budget_ampere_seconds": round(self.offered.over_ampere_seconds, 3),
            "worst_over_a": round(max(self.drawn.worst, self.offered.worst), 2),
            "overdraw_passes": self.overdraws,
            "incomplete_passes": self.incomplete,
        }


async def look(watch: Watch, reader: Reader, follow_budget: bool, begun: float) -> Line:
    """One pass; `pass_ms` is how long it took to read all chargers once."""
    start = time.monotonic()
    group = await _look_at_group(watch, reader, follow_budget, begun)
    reading = time.monotonic()
    chargers = await reader.chargers()
    took = time.monotonic() - reading
    if watch.needs_second_look(chargers):  # or the budget was raised after it was read
        group = await _look_at_group(watch, reader, follow_budget, begun)
        chargers = await reader.chargers()
    line = watch.take(chargers, start - begun, group)
    line["pass_ms"] = round(took * 1000, 1)
    return line


async def _look_at_group(watch: Watch, reader: Reader, follow_budget: bool, begun: float) -> Group | None:
    group = await reader.group()
    watch.take_group(group, time.monotonic() - begun, follow_budget)
    return group


def _sums(chargers: Mapping[str, Charger | None]) -> tuple[float, float]:
    present = [charger for charger in chargers.values() if charger is not None]
    return sum(charger.drawn for charger in present), sum(charger.offered for charger in present)
