"""What counts as too much: contract 8.1. Shared by simulator and monitor."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

TOLERANCE = 0.1  # A
LOWERED_GRACE = 5.0  # s after the budget was lowered
JOIN_GRACE = 10.0  # s after a member joined
OVERDRAW = 0.5  # A above the offer


@dataclass
class Account:
    """Follows a group's sum over time; currents in A. While a grace lasts, what the sum was allowed before counts.
    `scale` is how fast the time of the chargers goes: the graces are theirs."""

    scale: float = 1.0
    over_ampere_seconds: float = 0.0
    graced_ampere_seconds: float = 0.0
    violations: int = 0  # times that it went over
    worst: float = 0.0  # A over, outside of a grace
    _budgets: deque[tuple[float, float]] = field(default_factory=deque)  # until when a former, higher one counts
    _join_until: float = float("-inf")
    _budget: float | None = None
    _over: bool = False

    def joined(self, now: float) -> None:
        self._join_until = now + JOIN_GRACE / self.scale

    def add(self, now: float, seconds: float, total: float, budget: float) -> float:
        """The sum was `total` for `seconds`. Returns by how much it is a violation, A."""
        if self._budget is not None and budget < self._budget:
            self._budgets.append((now + LOWERED_GRACE / self.scale, self._budget))
        self._budget = budget
        while self._budgets and self._budgets[0][0] < now:
            self._budgets.popleft()
        over = total - budget if total > budget + TOLERANCE else 0.0
        graced = now <= self._join_until or total <= max((old for _, old in self._budgets), default=0.0) + TOLERANCE
        if over and graced:
            self.graced_ampere_seconds += over * seconds
            over = 0.0
        self.over_ampere_seconds += over * seconds
        self.violations += bool(over) and not self._over
        self._over = bool(over)
        self.worst = max(self.worst, over)
        return over
