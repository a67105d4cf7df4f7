"""A node's reputation (contract 8.3): what its scores and its misconduct make of it. No reads or writes."""

from __future__ import annotations

from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal

WEIGHT = Decimal("0.2")
PENALTY = Decimal(10)
DECAY_A_DAY = Decimal(1)
START = Decimal(50)
_MICRO = Decimal("0.000001")
_DAY = Decimal(86400)


def averaged(average: Decimal | None, score: Decimal) -> Decimal:
    """The moving average with one more validated score; it begins at 0."""
    return ((1 - WEIGHT) * (average or Decimal(0)) + WEIGHT * score).quantize(_MICRO, ROUND_HALF_EVEN)


def penalty_left(penalty: Decimal, since: datetime | None, moment: datetime) -> Decimal:
    """What is left of a penalty: it wanes by 1 a day."""
    if since is None:
        return Decimal(0)
    days = Decimal(max(0.0, (moment - since).total_seconds())) / _DAY
    return max(Decimal(0), penalty - DECAY_A_DAY * days).quantize(_MICRO, ROUND_HALF_EVEN)


def penalised(penalty: Decimal, since: datetime | None, moment: datetime) -> Decimal:
    """The penalty after one more misconduct at `moment`."""
    return penalty_left(penalty, since, moment) + PENALTY


def reputation(average: Decimal | None, penalty: Decimal) -> Decimal:
    """0 to 100; `penalty` is what is left of it. 50 for a new node."""
    return max(Decimal(0), min(Decimal(100), START + (average or Decimal(0)) / 2 - penalty))
