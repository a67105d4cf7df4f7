"""Events of a week that start and stop charging: contract 5.4. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
DAY = 86400
WEEK = 7 * DAY
MAX_EVENTS = 50
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


@dataclass(frozen=True)
class Event:
    """`at` is seconds after midnight. `extras` (feature, limit and their values) are kept as they came."""

    id: int
    state: Literal["active", "disabled"]
    at: int
    days: tuple[str, ...]
    extras: tuple[tuple[str, Any], ...] = ()

    @property
    def time(self) -> str:
        return f"{self.at // 3600:02}:{self.at // 60 % 60:02}:{self.at % 60:02}"

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "state": self.state, "time": self.time, "days": list(self.days), **dict(self.extras)}


def parse(content: Any, default_id: int) -> Event:
    """ValueError, which names the key, if it is no event."""
    if not isinstance(content, dict):
        raise ValueError("an event is an object")
    number = content.get("id", default_id)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**31:
        raise ValueError("id must be a whole number of 0 or more")
    if content.get("state") not in ("active", "disabled"):
        raise ValueError("state must be active or disabled")
    found = _TIME.fullmatch(content["time"]) if isinstance(content.get("time"), str) else None
    if found is None:
        raise ValueError("time must be HH:MM:SS")
    days = content.get("days")
    if not isinstance(days, list) or not days or any(day not in DAYS for day in days):
        raise ValueError(f"days must be a list of: {', '.join(DAYS)}")
    extras = []
    for key in ("feature", "feature_value", "limit", "limit_value"):
        if (value := content.get(key)) is not None:
            if not isinstance(value, (str, int, float)) or len(str(value)) > 32:
                raise ValueError(f"{key} must be short text or a number")
            extras.append((key, value))
    at = int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3] or 0)
    return Event(number, content["state"], at, tuple(day for day in DAYS if day in days), tuple(extras))


class Schedule:
    """`delay` (seconds) is added to each start, so that not all chargers of a street begin at once."""

    def __init__(self) -> None:
        self.events: dict[int, Event] = {}
        self.delay = 0

    def parse(self, content: Any) -> list[Event]:
        """One event or a list of them; those without id get the next free ones. ValueError: one is none, or they are
        too many."""
        items = content if isinstance(content, list) else [content]
        if not items:
            raise ValueError("no event is in it")
        taken = set(self.events)
        events = []
        for item in items:
            event = parse(item, next(number for number in range(1, 2**31) if number not in taken))
            taken.add(event.id)
            events.append(event)
        if len(taken) > MAX_EVENTS:
            raise ValueError(f"there is room for {MAX_EVENTS} events")
        return events

    def put(self, *events: Event) -> None:
        self.events |= {event.id: event for event in events}

    def remove(self, number: int) -> bool:
        return self.events.pop(number, None) is not None

    def as_json(self) -> list[dict[str, Any]]:
        return [event.as_json() for _, event in sorted(self.events.items())]

    def current(self, day: int, since_midnight: timedelta) -> Event | None:
        """The event that happened last, maybe last week. `day` 0 is Sunday."""
        moment = day * DAY + since_midnight.total_seconds()
        return min(self._occurrences(), key=lambda pair: (moment - pair[0]) % WEEK, default=(0, None))[1]

    def next(self, day: int, since_midnight: timedelta) -> tuple[int, Event | None]:
        """Seconds until the next event, and that event."""
        moment = day * DAY + since_midnight.total_seconds()
        due = [(((at - moment - 1e-9) % WEEK), event) for at, event in self._occurrences()]
        delay, event = min(due, key=lambda pair: pair[0], default=(0.0, None))
        return round(delay), event

    def plan(self, day: int, since_midnight: timedelta) -> dict[str, Any]:
        """For `/schedule/plan`; times in seconds, day 0 is Sunday."""
        current = self.current(day, since_midnight)
        delay, upcoming = self.next(day, since_midnight)
        days: dict[str, list[dict[str, Any]]] = {name: [] for name in DAYS}
        for at, event in sorted(self._occurrences(), key=lambda pair: pair[0]):
            days[DAYS[at // DAY % 7]].append({"id": event.id, "state": event.state, "start_offset": at % DAY})
        return {
            "current_day": day,
            "current_offset": int(since_midnight.total_seconds()),
            "next_event_delay": delay,
            "current_event": current.as_json() if current else None,
            "next_event": upcoming.as_json() if upcoming else None,
            **days,
        }

    def _occurrences(self) -> Iterator[tuple[int, Event]]:
        """Each event on each of its days, with its second of the week."""
        for event in self.events.values():
            delay = self.delay if event.state == "active" else 0
            for day in event.days:
                yield (DAYS.index(day) * DAY + event.at + delay) % WEEK, event
