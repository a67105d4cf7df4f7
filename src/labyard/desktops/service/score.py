"""The PoOT score (contract 8.3): seven measured factors, weighted. No reads or writes, decimal arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_EVEN, Decimal

WEIGHTS: Mapping[str, Decimal] = {
    "session_hours": Decimal("0.25"),
    "work_credits": Decimal("0.20"),
    "resource_utilization": Decimal("0.15"),
    "network_mbps": Decimal("0.10"),
    "uptime_percentage": Decimal("0.15"),
    "session_quality": Decimal("0.10"),
    "trust_score": Decimal("0.05"),
}
# What a unit of each input is worth in its factor, which ends at 100.
SCALE: Mapping[str, Decimal] = {
    "session_hours": Decimal(10),
    "work_credits": Decimal("0.01"),
    "resource_utilization": Decimal(100),
    "network_mbps": Decimal("0.1"),
    "uptime_percentage": Decimal(1),
    "session_quality": Decimal(100),
    "trust_score": Decimal(100),
}
NEW_TRUST = Decimal("0.5")
NO_HISTORY = 0.5  # confidence
LEAST_CONFIDENCE = 0.1
OFF_BY_A_FLAG = 0.1
_FOUR = Decimal("0.0001")
_ZERO, _HUNDRED = Decimal(0), Decimal(100)


@dataclass(frozen=True)
class Inputs:
    """Of the last 24 hours of a node. Nothing known is 0; utilization, quality and trust are 0 to 1."""

    session_hours: Decimal = _ZERO
    work_credits: Decimal = _ZERO
    resource_utilization: Decimal = _ZERO
    network_mbps: Decimal = _ZERO
    uptime_percentage: Decimal = _ZERO
    session_quality: Decimal = _ZERO
    trust_score: Decimal = NEW_TRUST


def factors(inputs: Inputs) -> dict[str, Decimal]:
    """Each 0 to 100."""
    return {name: _clamped(value * SCALE[name]) for name, value in asdict(inputs).items()}


def score(found: Mapping[str, Decimal]) -> Decimal:
    """0 to 100, four decimals, half to even."""
    total = sum((WEIGHTS[name] * value for name, value in found.items()), _ZERO)
    return _clamped(total).quantize(_FOUR, ROUND_HALF_EVEN)


def jumped(value: Decimal, day: Sequence[Decimal]) -> bool:
    """Whether a score is off the mean of the last 24 h by more than twice it. Without scores of that time: no."""
    if not day:
        return False
    mean = sum(day, _ZERO) / len(day)
    return abs(value - mean) > 2 * mean


def confidence(value: Decimal, week: Sequence[Decimal], flags: int) -> float:
    """0.1 to 1: how usual a score is for the node, over its scores of 168 h; each flag takes a tenth. Informational."""
    if not week:
        return NO_HISTORY
    numbers = [float(number) for number in week]
    mean, spread = statistics.fmean(numbers), statistics.pstdev(numbers)
    if len(set(week)) == 1:
        usual = 1.0 if value == week[0] else LEAST_CONFIDENCE
    else:
        usual = 1 - abs(float(value) - mean) / spread / 3
    return round(max(LEAST_CONFIDENCE, min(1.0, usual - OFF_BY_A_FLAG * flags)), 4)


def _clamped(value: Decimal) -> Decimal:
    return max(_ZERO, min(_HUNDRED, value))
