from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.evse.sharing.allocator import Member, Result, Rules, allocate
from labyard.evse.sharing.demand_cap import PATIENCE, DemandCap
from labyard.evse.sharing.rotation import Rotation

A, B, C, D = (Member(name) for name in "abcd")
CONNECTED_B = Member("b", charging=False)
OFFLINE_B = Member("b", online=False)


def shares(members: Sequence[Member], amps: float, offset: int = 0, **rules: Any) -> list[tuple[float, str]]:
    result = allocate(members, Rules(amps, **rules), offset)
    return [(round(entry.target_current, 2), entry.reason) for entry in result.allocations]


@pytest.mark.parametrize(
    ("number", "members", "amps", "rules", "expected"),
    [
        (1, [A, B], 32, {}, [(16, "equal_share")] * 2),
        (2, [A, B, C, D], 20, {}, [(6, "min_subset")] * 3 + [(0, "insufficient")]),
        (3, [A, Member("b", priority=10)], 6, {}, [(6, "min_subset"), (0, "insufficient")]),
        (3, [A, Member("b", priority=10)], 10, {}, [(6, "min_subset"), (0, "insufficient")]),
        (5, [A, OFFLINE_B], 32, {}, [(26, "equal_share"), (0, "offline")]),
        (6, [A, OFFLINE_B], 32, {"failsafe_mode": "disable"}, [(0, "failsafe_disabled")] * 2),
        (7, [A, OFFLINE_B], 4, {}, [(0, "insufficient"), (0, "offline")]),
        (8, [Member("a", maximum=4)], 32, {}, [(4, "equal_share")]),
        (9, [A], 6, {}, [(6, "equal_share")]),
        (10, [Member("a", maximum=10), B, C], 32, {}, [(10, "equal_share"), (11, "equal_share"), (11, "equal_share")]),
        (11, [A, CONNECTED_B], 32, {}, [(26, "equal_share"), (6, "connected_min")]),
        (11, [A, CONNECTED_B], 32, {"connected_min_in_budget": False}, [(32, "equal_share"), (6, "connected_min")]),
        *((12, [A, B], amps, {}, [(amps / 2, "equal_share")] * 2) for amps in (32, 24, 40, 16)),
    ],
)
def test_vectors(
    number: int, members: list[Member], amps: float, rules: dict[str, Any], expected: list[tuple[float, str]]
) -> None:
    assert shares(members, amps, **rules) == expected


def test_vector_4_the_six_amperes_change_sides() -> None:
    rotation = Rotation(1800)
    turns = [shares([A, B], 10, rotation.offset(now)) for now in (50.0, 1849.0, 1850.0, 3649.0, 3650.0)]
    first, second = [(6, "min_subset"), (0, "insufficient")], [(0, "insufficient"), (6, "min_subset")]
    assert turns == [first, first, second, second, first]


def test_vector_13_the_demand_cap() -> None:
    def cycle(cap: DemandCap, measured: float) -> float:
        amps = cap.observe(demanding=True, charging=True, pilot=16, measured=measured, minimum=6, offer=16)
        return 32.0 if amps is None else amps

    cap = DemandCap()
    assert cycle(cap, 15.6) == 15.6
    assert cycle(cap, 16.2) == 32
    assert cycle(DemandCap(), 1.4) == 6.0


class Cap:
    """A cap and what the car of one member does, cycle by cycle."""

    def __init__(self) -> None:
        self.cap = DemandCap()

    def __call__(self, measured: float, pilot: float, offer: float = 16.0, charging: bool = True) -> float | None:
        return self.cap.observe(
            demanding=True, charging=charging, pilot=pilot, measured=measured, minimum=6, offer=offer
        )


def test_a_cap_follows_the_car_down_and_ends_when_it_takes_more_again() -> None:
    cycle = Cap()
    assert [cycle(10, 16), cycle(8, 16), cycle(7.9, 16), cycle(8.1, 16)] == [10, 8, 7.9, 7.9]
    assert cycle(8.15, 16) is None, "more than the cap by its margin"
    assert cycle(7, 16) == 7
    assert cycle(7, 7, charging=False) is None
    low = Cap()
    assert low(1.4, 16) == 6
    assert [low(6, 6) for _ in range(PATIENCE)] == [6] * (PATIENCE - 1) + [None], "it grew since the last probe"


def test_a_car_that_takes_all_it_is_offered_is_tried_with_more() -> None:
    cycle = Cap()
    caps: list[float | None] = [cycle(10.4, 16)]
    while caps[-1] is not None and len(caps) < 100:  # a car that would by now take 16 A
        pilot = float(int(caps[-1]))
        caps.append(cycle(pilot, pilot, offer=caps[-1]))
    assert caps[-1] is None and PATIENCE <= len(caps) <= 2 * PATIENCE
    cycle = Cap()
    caps = [cycle(10.4, 16)]
    for _ in range(100):  # and one that does not
        pilot = float(int(caps[-1] or 0))
        caps.append(cycle(min(10.4, pilot), pilot, offer=caps[-1] or 0))
    assert all(cap is not None and 10.4 <= cap <= 11.4 for cap in caps)
    steps = [abs((after or 0) - (before or 0)) for before, after in pairwise(caps)]
    assert max(steps) <= 0.5, "no swing"


def test_a_car_has_time_to_follow_a_higher_offer() -> None:
    cap = DemandCap()

    def cycle(offer: float) -> float | None:
        return cap.observe(demanding=True, charging=True, pilot=offer, measured=6, minimum=6, offer=offer)

    assert [cycle(offer) for offer in [6] + [16] * (PATIENCE + 1)] == [None] * (PATIENCE + 1) + [6]


def test_a_car_has_time_to_follow_its_first_offer() -> None:
    """As when it was in its failsafe when it joined."""
    cycle = Cap()
    assert [cycle(6, pilot, offer=17) for pilot in [6] + [17] * PATIENCE] == [None] * PATIENCE + [6]


def test_a_car_has_time_to_begin() -> None:
    cap = DemandCap()

    def cycle(measured: float, charging: bool = True) -> float | None:
        return cap.observe(demanding=True, charging=charging, pilot=16, measured=measured, minimum=6, offer=16)

    assert cycle(0, charging=False) is None
    assert [cycle(amps) for amps in (3, 7, 9, 12, 14, 15)] == [None] * PATIENCE
    assert cycle(15) == 15


def test_what_is_left_over_is_spread_when_asked_for() -> None:
    assert shares([A, B, C, D], 20, subset_topup=True) == [(6.67, "min_subset")] * 3 + [(0, "insufficient")]


def test_nobody_and_nothing() -> None:
    assert allocate([], Rules(32)) == Result()
    assert allocate([A], Rules(0)) == Result()
    idle = Member("a", demanding=False)
    assert shares([idle, B], 32) == [(0, "idle"), (32, "equal_share")]


def test_a_connected_car_waits_when_the_charging_need_it_all() -> None:
    assert shares([A, CONNECTED_B], 11) == [(11, "equal_share"), (0, "insufficient")]


@st.composite
def groups(draw: st.DrawFn) -> list[Member]:
    amps = st.floats(0, 80).map(lambda value: round(value, 1))
    ids = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8))
    return [
        Member(
            id,
            online=draw(st.booleans()),
            demanding=draw(st.booleans()),
            charging=draw(st.booleans()),
            minimum=draw(amps),
            maximum=draw(amps),
            priority=draw(st.integers(0, 2)),
        )
        for id in ids
    ]


@given(
    members=groups(),
    amps=st.floats(0, 200),
    factor=st.floats(0, 1),
    mode=st.sampled_from(["safe_current", "disable"]),
    topup=st.booleans(),
    offset=st.integers(0, 100),
    reserves=st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 40)),
)
def test_invariants(
    members: list[Member],
    amps: float,
    factor: float,
    mode: Any,
    topup: bool,
    offset: int,
    reserves: dict[str, float],
) -> None:
    rules = Rules(amps, factor, mode, subset_topup=topup)
    result = allocate(members, rules, offset, reserves)
    assert result == allocate(members, rules, offset, reserves), "the same input gives the same output"
    if not members or amps <= 0:
        assert result == Result()
        return
    assert [entry.id for entry in result.allocations] == [member.id for member in members]
    total = sum(entry.target_current for entry in result.allocations)
    assert total + result.reserve <= max(rules.budget, result.reserve) + 1e-6
    for member, entry in zip(members, result.allocations, strict=True):
        assert 0 <= entry.target_current <= max(member.maximum, member.least) + 1e-9
        assert entry.target_current == 0 or entry.target_current >= member.least - 1e-9
        assert entry.target_current == 0 or (member.online and member.demanding)


@given(
    count=st.integers(1, 8),
    amps=st.floats(6, 60),
    minimums=st.lists(st.floats(6, 20), min_size=8, max_size=8),
    start=st.integers(0, 1000),
)
def test_nobody_starves_longer_than_members_times_the_interval(
    count: int, amps: float, minimums: list[float], start: int
) -> None:
    members = [Member(f"m{place}", minimum=min(minimums[place], amps)) for place in range(count)]
    served: set[str] = set()
    for offset in range(start, start + count):
        served |= {entry.id for entry in allocate(members, Rules(amps), offset).allocations if entry.target_current}
    assert served == {member.id for member in members}


@given(st.lists(st.floats(0, 5000), max_size=20))
def test_the_rotation_counts_each_interval_once(steps: list[float]) -> None:
    rotation = Rotation(1800)
    now = 7.0
    rotation.offset(now)
    for step in steps:
        now += step
        offset = rotation.offset(now)
        assert abs((now - 7.0) / 1800 - offset - 0.5) <= 0.5 + 1e-6
    assert Rotation(0).offset(1e9) == 0
