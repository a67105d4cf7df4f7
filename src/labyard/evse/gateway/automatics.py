"""What starts and ends charging by itself: the limit and the schedule, which outlive a restart: contract 5.3, 5.4."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import structlog

from labyard.evse.gateway.claims import Client, Priority, Properties
from labyard.evse.gateway.limit import Limit
from labyard.evse.gateway.limit import parse as parse_limit
from labyard.evse.gateway.schedule import Event
from labyard.evse.gateway.timekeeping import week_seconds

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

log = structlog.get_logger(__name__)

LIMIT, SCHEDULE = "limit.json", "schedule.json"


class Automatics:
    """Turns the gateway's limit and schedule into claims."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        gateway.storage.restore(LIMIT, self._take_limit)
        gateway.storage.restore(SCHEDULE, self._take_schedule)
        self._event = self._look_at_schedule()

    def set_limit(self, limit: Limit | None) -> None:
        gateway = self._gateway
        gateway.limits.set(limit)
        if limit is None:
            gateway.storage.remove(LIMIT)
        else:
            gateway.storage.write(LIMIT, limit.as_json())
        gateway.versions.bump("limit_version")
        self._look_at_limit()

    def schedule_changed(self) -> None:
        gateway = self._gateway
        gateway.storage.write(SCHEDULE, gateway.schedule.as_json())
        gateway.versions.bump("schedule_version")
        gateway.versions.bump("schedule_plan_version")
        self._event = self._look_at_schedule()

    def tick(self) -> None:
        """To be called each second."""
        self._look_at_limit()
        event = self._look_at_schedule()
        if event != self._event:
            self._event = event
            self._gateway.versions.bump("schedule_plan_version")
            if event is not None:
                self._event_began(event)

    def vehicle_came(self) -> None:
        options = self._gateway.options
        kind, value = options["limit_default_type"], options["limit_default_value"]
        if self._gateway.limits.limit is None and kind not in ("", "none") and value > 0:
            self.set_limit(Limit(kind, value))

    def vehicle_went(self) -> None:
        limit = self._gateway.limits.limit
        if limit is not None and limit.auto_release:
            self.set_limit(None)

    def _look_at_limit(self) -> None:
        gateway = self._gateway
        measured = {"time": gateway.evse.elapsed(gateway.clock.now()) / 60, "energy": gateway.energy.session}
        for kind, key in (("soc", "battery_level"), ("range", "battery_range")):
            if key in gateway.vehicle.known:
                measured[kind] = gateway.vehicle.known[key]
        if gateway.limits.look(gateway.evse.vehicle, measured):
            log.info("limit reached", limit=gateway.limits.limit)

    def _look_at_schedule(self) -> Event | None:
        """Claim what the event that holds now wants; returns that event."""
        gateway = self._gateway
        event = gateway.schedule.current(*week_seconds(gateway.wall.local())) if gateway.schedule.events else None
        if event is None:
            gateway.claims.release(Client.SCHEDULE)
        else:
            gateway.claims.set(Client.SCHEDULE, Priority.TIMER, Properties(event.state))
        return event

    def _event_began(self, event: Event) -> None:
        extras = dict(event.extras)
        with contextlib.suppress(ValueError):  # most have none
            self.set_limit(parse_limit({"type": extras.get("limit"), "value": extras.get("limit_value")}))

    def _take_limit(self, content: Any) -> None:
        self._gateway.limits.set(parse_limit(content))

    def _take_schedule(self, content: Any) -> None:
        if content:
            self._gateway.schedule.put(*self._gateway.schedule.parse(content))
