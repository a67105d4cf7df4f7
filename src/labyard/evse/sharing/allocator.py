"""Who may draw how much: contract 7, steps 1 to 10. Pure, and the same input gives the same output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal

Reason = Literal[
    "equal_share", "min_subset", "connected_min", "insufficient", "idle", "offline", "failsafe_disabled", "safe_current"
]
FailsafeMode = Literal["safe_current", "disable"]

# What is left below this is not shared out any more.
CRUMB = 0.01
# Sums of floats that are equal on paper may differ in their last digits.
EPSILON = 1e-9


@dataclass(frozen=True)
class Member:
    """One charger as the allocator sees it. `minimum` and `maximum` in A; a lower `priority` is served first."""

    id: str
    online: bool = True
    demanding: bool = True
    charging: bool = True
    minimum: float = 6.0
    maximum: float = 32.0
    priority: int = 0

    @property
    def least(self) -> float:
        """The smallest offer that is of use to it."""
        return min(self.minimum, self.maximum)


@dataclass(frozen=True)
class Rules:
    """The group's settings that the allocation depends on."""

    max_current: float
    safety_factor: float = 1.0
    failsafe_mode: FailsafeMode = "safe_current"
    assumed_current: float = 6.0
    connected_min_in_budget: bool = True
    subset_topup: bool = False

    @property
    def budget(self) -> float:
        return self.max_current * self.safety_factor


@dataclass(frozen=True)
class Allocation:
    id: str
    target_current: float
    reason: Reason


@dataclass(frozen=True)
class Result:
    """Every member once, in the order of the input. `order` is that in which those who want current were served."""

    allocations: tuple[Allocation, ...] = ()
    order: tuple[str, ...] = ()
    reserve: float = 0.0
    failsafe_active: bool = False


def allocate(
    members: Sequence[Member], rules: Rules, offset: int = 0, reserves: Mapping[str, float] | None = None
) -> Result:
    """Share the budget. `offset` turns each run of equal priority; `reserves` says for an offline member what it may be
    drawing, where that is not the assumed current."""
    if not members or rules.max_current <= 0:
        return Result()
    offline = [member for member in members if not member.online]
    if offline and rules.failsafe_mode == "disable":
        off = tuple(Allocation(member.id, 0.0, "failsafe_disabled") for member in members)
        return Result(off, failsafe_active=True)
    reserves = reserves or {}
    reserve = sum(reserves.get(member.id, rules.assumed_current) for member in offline)
    wanting = [member for member in members if member.online and member.demanding]
    charging = in_order((member for member in wanting if member.charging), offset)
    connected = in_order((member for member in wanting if not member.charging), offset)
    shares = _share_out(charging, connected, rules, max(0.0, rules.budget - reserve))
    return Result(
        tuple(shares.get(member.id) or _nothing(member) for member in members),
        tuple(member.id for member in (*charging, *connected)),
        reserve,
        failsafe_active=bool(offline),
    )


def in_order(members: Iterable[Member], offset: int) -> list[Member]:
    """By priority, then id; each run of equal priority begins `offset` places further on."""
    ordered: list[Member] = []
    for _, equals in groupby(sorted(members, key=attrgetter("priority", "id")), key=attrgetter("priority")):
        run = list(equals)
        start = offset % len(run)
        ordered += run[start:] + run[:start]
    return ordered


def _share_out(
    charging: Sequence[Member], connected: Sequence[Member], rules: Rules, available: float
) -> dict[str, Allocation]:
    """To those who want current, each group in the order in which it is served."""
    shares: dict[str, Allocation] = {}
    enough = _fits(sum(member.least for member in charging), available)
    targets = _minimums(charging, available)
    left = available - sum(targets.values())
    for member in connected:
        if not rules.connected_min_in_budget:
            shares[member.id] = Allocation(member.id, member.least, "connected_min")
        elif _fits(member.least, left):
            shares[member.id] = Allocation(member.id, member.least, "connected_min")
            left -= member.least
        else:
            shares[member.id] = Allocation(member.id, 0.0, "insufficient")
    served = [member for member in charging if member.id in targets]
    if enough or rules.subset_topup:
        _spread(served, targets, left)
    for member in charging:
        if member.id in targets:
            shares[member.id] = Allocation(member.id, targets[member.id], "equal_share" if enough else "min_subset")
        else:
            shares[member.id] = Allocation(member.id, 0.0, "insufficient")
    return shares


def _minimums(charging: Iterable[Member], available: float) -> dict[str, float]:
    """The minimum to each for whom it still fits."""
    targets: dict[str, float] = {}
    for member in charging:
        if _fits(member.least, available):
            targets[member.id] = member.least
            available -= member.least
    return targets


def _spread(served: Sequence[Member], targets: dict[str, float], left: float) -> None:
    """Add `left` in equal shares, none above its maximum; what one cannot take goes to the others."""
    while left >= CRUMB:
        open_ = [member for member in served if member.maximum - targets[member.id] > EPSILON]
        if not open_:
            return
        share = left / len(open_)
        for member in open_:
            more = min(share, member.maximum - targets[member.id])
            targets[member.id] += more
            left -= more


def _fits(amount: float, available: float) -> bool:
    return amount <= available + EPSILON


def _nothing(member: Member) -> Allocation:
    return Allocation(member.id, 0.0, "idle" if member.online else "offline")
