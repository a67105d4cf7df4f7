from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.evse.gateway.schedule import DAYS, WEEK, Event, Schedule

WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday"]


def at(hours: float) -> timedelta:
    return timedelta(hours=hours)


@pytest.fixture
def schedule() -> Schedule:
    made = Schedule()
    made.put(
        *made.parse(
            [
                {"id": 1, "state": "active", "time": "22:00:00", "days": WEEKDAYS},
                {"id": 2, "state": "disabled", "time": "06:30", "days": WEEKDAYS},
            ]
        )
    )
    return made


@pytest.mark.parametrize(
    ("day", "hours", "current", "delay"),
    [
        (1, 7, 2, 15 * 3600),
        (1, 22, 1, 8.5 * 3600),
        (1, 3, 1, 3.5 * 3600),
        (0, 12, 1, 18.5 * 3600),
        (6, 6, 1, 172800 + 1800),
    ],
)
def test_the_last_event_holds_until_the_next(
    schedule: Schedule, day: int, hours: float, current: int, delay: float
) -> None:
    found = schedule.current(day, at(hours))
    assert found is not None
    assert found.id == current
    assert schedule.next(day, at(hours))[0] == delay


def test_starts_are_delayed_and_stops_are_not(schedule: Schedule) -> None:
    schedule.delay = 600
    assert schedule.current(1, at(22.1)).id == 2  # type: ignore[union-attr]
    assert schedule.current(1, at(22.17)).id == 1  # type: ignore[union-attr]
    assert schedule.current(2, at(6.5)).id == 2  # type: ignore[union-attr]


def test_plan_shows_the_days(schedule: Schedule) -> None:
    plan = schedule.plan(1, at(7))
    assert plan["current_day"] == 1
    assert plan["current_offset"] == 7 * 3600
    assert plan["current_event"]["id"] == 2
    assert plan["next_event"]["time"] == "22:00:00"
    assert [event["id"] for event in plan["friday"]] == [2, 1]
    assert plan["sunday"] == []


def test_nothing_is_planned_without_events() -> None:
    plan = Schedule().plan(1, at(0))
    assert (plan["current_event"], plan["next_event"], plan["next_event_delay"]) == (None, None, 0)


def test_ids_are_given_and_extras_kept(schedule: Schedule) -> None:
    extra = {"feature": "divert", "feature_value": 1, "limit": "energy", "limit_value": 5000}
    [event] = schedule.parse({"state": "active", "time": "1:02:03", "days": ["sunday", "friday"]} | extra)
    assert event.id == 3
    assert event.as_json() == {"id": 3, "state": "active", "time": "01:02:03", "days": ["sunday", "friday"], **extra}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": -1},
        {"id": "1"},
        {"id": True},
        {"state": "on"},
        {"time": "24:00"},
        {"time": 5},
        {"time": "1:2"},
        {"days": []},
        {"days": "monday"},
        {"days": ["someday"]},
        {"limit": {}},
    ],
)
def test_a_wrong_event_is_refused_by_the_name_of_its_key(schedule: Schedule, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        schedule.parse({"state": "active", "time": "12:00", "days": ["monday"]} | wrong)


def test_there_is_room_for_fifty(schedule: Schedule) -> None:
    event = {"state": "active", "time": "12:00", "days": ["monday"]}
    assert len(schedule.parse([event] * 48)) == 48
    with pytest.raises(ValueError, match="50"):
        schedule.parse([event] * 49)


events = st.builds(
    Event,
    st.integers(0, 9),
    st.sampled_from(["active", "disabled"]),
    st.integers(0, 86399),
    st.lists(st.sampled_from(DAYS), min_size=1, unique=True).map(tuple),
)


@given(st.lists(events, min_size=1), st.integers(0, WEEK - 1), st.integers(0, 3600))
def test_the_next_event_is_the_current_one_when_its_time_has_come(wanted: list[Event], moment: int, delay: int) -> None:
    schedule = Schedule()
    schedule.delay = delay
    schedule.put(*wanted)
    wait, upcoming = schedule.next(moment // 86400, timedelta(seconds=moment % 86400))
    assert upcoming is not None
    assert 0 <= wait <= WEEK
    then = (moment + wait) % WEEK
    current = schedule.current(then // 86400, timedelta(seconds=then % 86400))
    assert current is not None
    # Two events at one moment: either is right.
    assert current.id == upcoming.id or (current.at, delay) == (upcoming.at, delay) or current.state != upcoming.state
