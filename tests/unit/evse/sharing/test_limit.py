from __future__ import annotations

from dataclasses import replace

import pytest

from labyard.evse.sharing.limit import Failsafe, Limit, MemberLimit

FAILSAFE = Failsafe("openevse-0001.local:8000", heartbeat_timeout=30, mode="safe_current", safe_current=8.5)
SAFE = Limit(8.5, off=False, reason="controller_lost")
OFF = Limit(0, off=True, reason="controller_lost")


def test_from_joining_to_failsafe_and_back() -> None:
    member = MemberLimit(FAILSAFE)
    assert member.joining and member.failsafe_active(0) and member.limit(0) == SAFE
    assert member.allocate(16.4, "equal_share", 10)
    assert not member.joining and member.limit(40) == Limit(16.4, off=False, reason="allocation")
    assert member.limit(40.1) == SAFE, "the last allocation is older than the heartbeat timeout"
    member.allocate(12, "equal_share", 50)
    assert member.limit(50).current == 12, "a fresh allocation ends it"


def test_changed_settings_count_at_once() -> None:
    member = MemberLimit(FAILSAFE)
    member.configure(replace(FAILSAFE, safe_current=10))
    assert member.limit(0).current == 10
    member.configure(replace(FAILSAFE, mode="disable"))
    assert member.limit(0) == OFF
    member.configure(replace(FAILSAFE, safe_current=0))
    assert member.limit(0) == OFF
    member.allocate(16, "equal_share", 10)
    member.configure(replace(FAILSAFE, heartbeat_timeout=5))
    assert member.limit(15).current == 16 and member.limit(15.5) == SAFE


@pytest.mark.parametrize("host", ["", "other.local"])
def test_another_controller_or_none(host: str) -> None:
    member = MemberLimit(FAILSAFE)
    member.allocate(16, "equal_share", 10)
    member.configure(replace(FAILSAFE, controller_host=host))
    assert member.failsafe_active(10)


def test_what_was_overtaken_is_ignored_but_a_controller_may_begin_anew() -> None:
    member = MemberLimit(FAILSAFE)
    assert member.allocate(16, "equal_share", 10, seq=7)
    assert not member.allocate(32, "equal_share", 11, seq=6) and member.ignored == 1
    assert member.limit(11).current == 16
    assert member.allocate(20, "equal_share", 12), "no number, no order"
    assert member.allocate(16, "equal_share", 13, seq=9)
    assert member.allocate(14, "equal_share", 50, seq=1), "in the failsafe any allocation will do"


def test_whole_amperes_and_pauses() -> None:
    assert Limit(15.99, False, "allocation").amps == 15 and Limit(16 - 1e-12, False, "allocation").amps == 16
    assert Limit(5.9, False, "allocation").pauses(6) and not Limit(6 - 1e-12, False, "allocation").pauses(6)
    assert Limit(16, True, "allocation").pauses(6), "failsafe_disabled forbids it"
