"""The controller's mind with two or three chargers, step by step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import floor
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labyard.evse.sharing.allocator import Rules
from labyard.evse.sharing.commitments import Commitments
from labyard.evse.sharing.demand import OVERDRAW_SECONDS, START_SECONDS, Report
from labyard.evse.sharing.group import Group, Offer
from labyard.evse.sharing.settings import CYCLE_SECONDS, Settings

CHARGING, CONNECTED, FREE, ASLEEP = 3, 2, 1, 254


class Table:
    """A group whose members answer at once, unless a test says otherwise."""

    def __init__(self, *ids: str, amps: float = 32, **options: Any) -> None:
        rules = {key: options.pop(key) for key in ("connected_min_in_budget", "failsafe_mode") if key in options}
        self.now = 1000.0
        self.settings = Settings(Rules(amps, **rules), **options)
        self.group = Group(self.settings)
        self.reports: dict[str, Report] = {}
        self.deaf: set[str] = set()  # what is sent to them does not arrive
        self.offers: list[Offer] = []
        for id in ids:
            self.group.join(id, self.now)
            self.report(id)
            self.group.linked(id)

    def report(self, id: str, state: int = CHARGING, vehicle: bool = True, **fields: Any) -> None:
        known = self.reports.get(id, Report(pilot=32, measured=32))
        self.reports[id] = replace(known, state=state, vehicle=vehicle, **fields)
        self.group.report(id, self.reports[id], self.now)

    def supply(self, amps: float) -> None:
        self.settings = replace(self.settings, rules=replace(self.settings.rules, max_current=amps))
        self.group.configure(self.settings)

    def step(self) -> list[Offer]:
        offers = self.group.step(self.now)
        self.offers += offers
        for offer in offers:
            if offer.id not in self.deaf:
                self.obey(offer)
        for id in self.group.members:
            if self.group.given_up(id):
                self.group.lost(id)
        return offers

    def acknowledge(self, id: str) -> None:
        """It has what it was told, and goes on as it did."""
        self.group.acked(id, 10**9, self.now)
        self.group.report(id, self.reports[id], self.now)

    def obey(self, offer: Offer) -> None:
        self.group.heard(offer.id, self.now)
        self.group.acked(offer.id, offer.seq, self.now)
        report = self.reports[offer.id]
        if offer.target_current < report.minimum:
            self.report(offer.id, ASLEEP, report.vehicle, measured=0, ready=report.ready)
        else:
            pilot = float(floor(offer.target_current))
            state = CHARGING if report.state in (CHARGING, ASLEEP) and report.vehicle else report.state
            self.report(offer.id, state, report.vehicle, pilot=pilot, measured=pilot if state == CHARGING else 0)

    def run(self, seconds: float) -> None:
        """Who charges reports each second."""
        end = self.now + seconds
        while self.now < end:
            self.step()
            self.now += 0.5
            for id in self.reports.keys() - self.deaf:
                if self.reports[id].charging and self.now % 1 == 0:
                    self.group.report(id, self.reports[id], self.now)
        self.step()

    def told(self) -> list[float | None]:
        return [self.group.told(id) for id in self.group.members]


def test_a_supply_that_changes_is_followed_within_a_cycle() -> None:
    table = Table("a", "b")
    for amps in (32, 24, 40, 16):
        table.supply(amps)
        table.run(4)
        assert table.told() == [amps / 2] * 2
        assert table.group.commitments.total() == amps


def test_nothing_is_raised_before_the_other_shows_that_it_follows() -> None:
    table = Table("a", "b", amps=32)
    table.report("b", FREE, vehicle=False, measured=0)
    table.run(1)
    assert table.told() == [32, 0]
    table.deaf = {"a"}
    table.report("b", CONNECTED)
    table.run(1)
    assert table.told() == [26, 0], "a was told, and may still draw 32"
    table.group.acked("a", 10**9, table.now)
    table.run(1)
    assert table.told() == [26, 0], "it has it, and does not show yet that it follows"
    table.report("a", pilot=26, measured=32)
    table.run(1)
    assert table.told() == [26, 0], "its car does not follow yet"
    table.report("a", pilot=26, measured=26)
    table.deaf = set()
    table.run(1)
    assert table.told() == [26, 6]


def test_a_car_that_has_just_begun_is_not_yet_measured() -> None:
    table = Table("a", "b")
    table.report("b", FREE, vehicle=False, measured=0)
    table.run(1)
    table.report("a", measured=0)  # it was offered 32, and takes them any moment
    table.report("b", CONNECTED)
    table.run(0.5)
    assert table.told() == [26, 0], "a shows the lower pilot, but its car may take one more second to follow"
    table.run(2.5)
    assert table.told() == [26, 6]


def test_without_two_phases_all_are_told_at_once() -> None:
    table = Table("a", "b", two_phase=False)
    table.report("b", FREE, vehicle=False, measured=0)
    table.run(1)
    table.deaf = {"a"}
    table.report("b", CONNECTED)
    table.step()
    assert table.told() == [26, 6]


def test_every_member_hears_each_five_seconds_and_more_often_when_it_may_fall_soon() -> None:
    for timeout, expected in ((30, CYCLE_SECONDS), (8, 2.0)):
        table = Table("a", "b", heartbeat_timeout=timeout)
        table.run(4)
        table.offers.clear()
        table.run(20)
        assert len(table.offers) == pytest.approx(2 * 20 / expected, abs=2)
        assert [offer.seq for offer in table.offers] == sorted({offer.seq for offer in table.offers}), "rising"


def test_a_car_that_is_plugged_in_while_nothing_was_offered_is_woken() -> None:
    table = Table("a", "b")
    table.report("b", FREE, vehicle=False, measured=0)
    table.run(1)
    assert table.told() == [32, 0] and table.group.reason("b") == "idle"
    table.report("b", ASLEEP, vehicle=True)
    table.run(6)
    assert table.told() == [16, 16]


@pytest.mark.parametrize("ready", [None, False])
def test_who_sleeps_by_its_own_will_is_left_alone(ready: bool | None) -> None:
    table = Table("a", "b")
    table.run(1)
    table.report("b", ASLEEP, measured=0, ready=ready)
    table.deaf = {"b"}  # it does not wake, whatever it is told
    table.run(1)
    if ready is None:
        assert table.told()[1] == 6, "perhaps it is about to wake"
    for _ in range(int(START_SECONDS * 2)):
        table.acknowledge("b")
        table.run(0.5)
    assert table.told() == [32, 0]
    table.deaf = set()
    table.report("b", CONNECTED, ready=ready)
    table.run(4)
    assert table.told() == [26, 6]


def test_waiting_members_take_turns_and_keep_their_place() -> None:
    table = Table("a", "b", "c", amps=12, rotation_interval=60)
    turns = []
    for _ in range(4):
        table.run(8)
        turns.append([amps or 0 for amps in table.told()])
        table.run(52)
    assert turns[0] == turns[3] == [6, 6, 0]
    assert sorted(turns[:3]) == [[0, 6, 6], [6, 0, 6], [6, 6, 0]]


def test_who_does_not_use_its_turn_gives_it_back_until_the_next() -> None:
    table = Table("a", "b", amps=6, rotation_interval=600)
    table.report("a", CONNECTED, measured=0, ready=True)
    seen = set()
    for _ in range(60):
        table.run(1)
        if table.group.told("a") == 6:
            table.report("a", CONNECTED, measured=0, ready=True)  # awake, and its car wants nothing
        seen.add(tuple(table.told()))
    assert (6, 0) in seen, "it had its turn"
    settled = [tuple(table.told())]
    for _ in range(60):
        table.run(1)
        settled.append(tuple(table.told()))
    assert set(settled) == {(0, 6)}, "and does not get another before the rotation goes on"


def test_a_member_that_is_not_heard_is_counted_with_what_it_may_do() -> None:
    table = Table("a", "b", heartbeat_timeout=30)
    table.run(4)
    assert table.told() == [16, 16]
    table.deaf = {"b"}
    table.run(29)
    assert table.group.told("a") == 16, "b may still draw 16"
    table.run(5)
    (a, b) = table.group.allocations
    assert (a.target_current, b.target_current, b.reason) == (16, 0, "offline"), "it may have heard us until now"
    table.run(32)
    assert table.group.told("a") == 26, "b is in its failsafe now"
    assert table.group.commitments.amount("b") == 6 and table.group.failsafe_active


def test_room_is_made_before_a_waiting_member_falls_into_its_failsafe() -> None:
    table = Table("a", "b", "c", amps=18, rotation_interval=0)
    table.report("c", FREE, vehicle=False, measured=0)
    table.run(4)
    assert table.told() == [9, 9, 0]
    table.deaf = {"c"}
    table.run(25)
    assert table.told() == [6, 6, 0], "c would rise to 6 A in a few seconds"
    assert table.group.online("c")


def test_a_broken_link_may_be_a_restart() -> None:
    table = Table("a", "b", "c", amps=12, rotation_interval=0)
    table.run(4)
    assert table.told() == [6, 6, 0]
    table.group.lost("c")
    table.step()
    assert table.told() == [6, 0, 0]
    table.report("c", ASLEEP, measured=0, ready=True)
    table.group.linked("c")
    table.run(4)
    assert table.told() == [6, 6, 0]


def test_in_mode_disable_one_that_is_offline_stops_all() -> None:
    table = Table("a", "b", failsafe_mode="disable")
    table.run(4)
    table.deaf = {"b"}
    table.run(32)
    assert [(entry.target_current, entry.reason) for entry in table.group.allocations] == [(0, "failsafe_disabled")] * 2


def test_a_car_that_draws_more_than_its_offer_counts_with_that() -> None:
    table = Table("a", "b")
    table.run(4)
    table.deaf = {"a"}
    for _ in range(int(OVERDRAW_SECONDS * 2) + 10):
        table.group.acked("a", 10**9, table.now)
        table.report("a", pilot=16, measured=20)
        table.run(0.5)
    assert table.group.commitments.amount("a") == 20
    assert table.told() == [20, 12]


def test_a_controller_that_restarts_raises_nobody_before_it_knows_all() -> None:
    group = Group(Settings(Rules(32)))
    group.join("self", 0.0, local=True)
    group.join("peer", 0.0, told_before=True)
    group.report("self", Report(CHARGING, True, pilot=6, measured=6), 0.0)
    assert [offer.target_current for offer in group.step(0.0)] == [6]
    group.report("peer", Report(CHARGING, True, pilot=16, measured=16), 1.0)
    group.linked("peer")
    told = {offer.id: offer.target_current for offer in group.step(1.0)}
    assert told == {"self": 16, "peer": 16}


def test_who_is_never_heard_blocks_nobody_for_ever() -> None:
    group = Group(Settings(Rules(32), heartbeat_timeout=30))
    group.join("self", 0.0, local=True)
    group.join("peer", 0.0, told_before=True)
    for moment in range(0, 30):
        group.report("self", Report(CHARGING, True, pilot=6, measured=6), float(moment))
        group.step(float(moment))
    assert group.told("self") == 6
    group.step(33.0)
    assert group.told("self") == 26


def test_the_rule_of_newer_firmware_for_connected_cars() -> None:
    table = Table("a", "b", connected_min_in_budget=False)
    table.report("b", CONNECTED, measured=0, pilot=6)
    table.run(6)
    assert table.told() == [32, 6]


def test_what_cannot_work_out_is_said() -> None:
    table = Table("a", "b", amps=10)
    (issue,) = table.group.config_issues()
    assert issue.startswith("loadsharing_failsafe_safe_current: 2 members") and "12 A of 10 A" in issue
    assert Group(Settings(Rules(0))).config_issues() == ["loadsharing_group_max_current is 0: nothing is allocated"]


def test_the_ledger_remembers_no_more_than_it_must() -> None:
    ledger = Commitments()
    ledger.join("a", 0)
    for seq in range(1, 500):
        ledger.sent("a", seq, float(seq % 7))
    assert ledger.amount("a") == 6 and ledger.pending("a")
    ledger.seen("a", 499, 0.0, pilot=6, charging=False, minimum=6)
    assert ledger.amount("a") == 499 % 7 and not ledger.pending("a")


@st.composite
def reports(draw: st.DrawFn) -> Report:
    pilot = draw(st.integers(6, 32))
    return Report(
        state=draw(st.sampled_from([FREE, CONNECTED, CHARGING, CHARGING, ASLEEP])),
        vehicle=draw(st.booleans()),
        pilot=float(pilot),
        measured=draw(st.sampled_from([0.0, 1.4, pilot - 0.4, float(pilot)])),
        priority=draw(st.integers(0, 1)),
        ready=draw(st.sampled_from([None, True, False])),
    )


@settings(max_examples=60)
@given(st.lists(reports(), min_size=1, max_size=5), st.floats(1, 100))
@example(
    [Report(state=CONNECTED, vehicle=True, pilot=6.0)] * 4 + [Report(state=CHARGING, vehicle=True, pilot=16.0)], 27.0
)
def test_while_nothing_changes_no_target_swings(constant: list[Report], amps: float) -> None:
    group = Group(Settings(Rules(amps), rotation_interval=0))
    for number in range(len(constant)):
        group.join(str(number), 0.0)
    targets: list[list[float]] = []
    for tick in range(320):
        now = tick * 0.5
        for number, report in enumerate(constant):
            group.acked(str(number), 10**9, now)
            group.report(str(number), report, now)
            if not tick:
                group.linked(str(number))
        group.step(now)
        # By then each of five has had a turn, and who did not use it has given it back.
        if tick % 10 == 9 and now > 5 * START_SECONDS:
            targets.append([entry.target_current for entry in group.allocations])
    for before, after in pairwise(targets):
        assert all(abs(a - b) <= 0.5 + 1e-6 for a, b in zip(before, after, strict=True)), (before, after)


def test_the_controllers_own_charger_counts_with_all_until_it_answers() -> None:
    table = Table("b")
    table.report("b", CONNECTED, pilot=6, measured=0)
    table.group.join("own", table.now, local=True)
    table.run(3)
    assert table.told() == [0, None], "it may be drawing anything"
    table.report("own", CHARGING, pilot=20, measured=20)
    table.run(10)
    assert table.told() == [16, 16]


def test_a_controller_without_a_charger_shares_after_a_while() -> None:
    table = Table("b")
    table.group.join("own", table.now, local=True)
    table.run(11)
    assert table.told() == [32, None]
