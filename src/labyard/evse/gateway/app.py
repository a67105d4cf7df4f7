"""One gateway: its parts joined, and the places where another part (load sharing) plugs in.

A part is a function `install(gateway: Gateway) -> None` in PARTS below, called once, before anything is served. It may
use and add to:

- `gateway.options`: `options[key]`; `options.update({...})` sets with validation, `options.keep({...})` sets typed
  values without guards (read-only keys such as loadsharing_config_version). `options.guard(check)`: `check(typed,
  client)` sees what a write is about to set, typed and in range, with the address of the sender ("" = the gateway
  itself); it may add values to the dict (role=member sets loadsharing_enabled; a change raises
  loadsharing_config_version there, so that config_version rises by 1 only) and refuses with `BadOption(text,
  status=403)`. `options.on_change(listener)` gets the set of keys that changed. `options.version` is config_version.
  Ranges of loadsharing_* are in options.py.
- `gateway.identity.device_id` (lower case), `gateway.hostname` (option hostname), `gateway.port` (HTTP),
  `identity.BUILDENV`, `identity.VERSION`; `gateway.credentials()`: user and password for calls to peers, None
  without.
- `gateway.storage`: JSON files of this gateway, `read(name)`, `write(name, content)`.
- `gateway.clock`: evse/clock.py. Heartbeats, cycles and rotation wait on it; timeouts of sockets are real.
- `gateway.caps.set("loadsharing", Cap(current, off))`, None to take it away: claim 65548 at 5000, shared with the
  shaper. `gateway.claims` is there for anything else: set(client, priority, Properties(...)), release(client),
  target().
- `gateway.local()`: LocalStatus (amp in mA, voltage, pilot, vehicle, state, min, max).
  `gateway.evse.on_change(listener)`: names of what changed (state, vflags, pilot, amp, min, configured_max, …).
  `gateway.asleep_by_others()`: something other than claim 65548 keeps the EVSE asleep (loadsharing_ready = not that).
- `gateway.routes.extend([...])`: Starlette routes; api/http.py has `route`, `reply`, `message`, `json_object`,
  `ApiError`.
- `gateway.status_fields.append(f)`: f() is a dict that is merged into /status.
- `gateway.hub.handle("loadsharing", f)`: f(value, client address), may be async. `gateway.hub.publish({...})` to all.
- `gateway.versions.bump("loadsharing_peers_version")`: counts it in /status, and tells the clients of /ws.
- `gateway.tasks.append(f)`: `f()` is awaited as a task from when the server listens, and cancelled at the end.
  `gateway.closers.append(f)`: awaited at the end, 1 s for all (mDNS goodbye).
- `gateway.measures.append(f)`: f() gives metrics.Measure objects at each scrape of /metrics.
- `gateway.rapi_guards.append(f)`: f("$SC 16 V") returns False to block a command of /rapi.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from starlette.routing import BaseRoute

from labyard.evse.clock import Clock
from labyard.evse.gateway import status
from labyard.evse.gateway.auth import Auth
from labyard.evse.gateway.automatics import Automatics
from labyard.evse.gateway.claims import Claims, SafetyCaps
from labyard.evse.gateway.energy import EnergyMeter
from labyard.evse.gateway.eventlog import EventLog
from labyard.evse.gateway.evse import Evse, LocalStatus
from labyard.evse.gateway.identity import Identity
from labyard.evse.gateway.limit import Limits
from labyard.evse.gateway.manager import Manager
from labyard.evse.gateway.metrics import Measure
from labyard.evse.gateway.options import TABLE, BadOption, Options
from labyard.evse.gateway.override import Override
from labyard.evse.gateway.rapi_link import PtyLink
from labyard.evse.gateway.records import Records
from labyard.evse.gateway.schedule import Schedule
from labyard.evse.gateway.storage import Storage
from labyard.evse.gateway.supply import Charger, Divert, Shaper
from labyard.evse.gateway.timekeeping import WallClock, rapi_words, zone
from labyard.evse.gateway.vehicle import Vehicle
from labyard.evse.gateway.versions import Versions
from labyard.evse.gateway.ws import Hub
from labyard.evse.sharing import part as sharing

PARTS: tuple[Callable[[Gateway], None], ...] = (sharing.install,)

log = structlog.get_logger(__name__)

TICK = 1.0  # seconds of the charger's clock
STATUS_TICKS = 30
CLOSING = 1.0  # seconds, real
# What of the EVSE is not told when it changes: it is sent each second while it charges, or with all else.
_QUIET = frozenset({"amp", "voltage", "temperatures", "temperature_max", "session_wattseconds", "total_wh"})


class Gateway:
    """Holds the parts together. Nothing runs before `run`."""

    def __init__(self, options: Options, storage: Storage, identity: Identity, clock: Clock, rapi_path: str) -> None:
        self.options = options
        self.storage = storage
        self.identity = identity
        self.clock = clock
        self.port: int = options["www_http_port"]
        self.host = status.host()
        self.stop: Callable[[bool], None] = lambda again: None  # ends the program; True: and starts it again
        # Where parts plug in.
        self.routes: list[BaseRoute] = []
        self.status_fields: list[Callable[[], dict[str, Any]]] = []
        self.tasks: list[Callable[[], Awaitable[None]]] = []
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.measures: list[Callable[[], Iterable[Measure]]] = []
        self.rapi_guards: list[Callable[[str], bool]] = []

        self.hub = Hub(self.status)
        self.versions = Versions(self.hub.publish)
        self.auth = Auth(options, storage)
        self.wall = WallClock(clock)
        self.evse = Evse()
        self.claims = Claims()
        self.caps = SafetyCaps(self.claims)
        self.manager = Manager(clock, self.evse, self.claims, options)
        self.link = PtyLink(rapi_path, self.manager.rapi, self.manager.link_opened)
        self.override = Override(self.claims, self._may_charge, lambda: self.versions.bump("override_version"))
        self.limits = Limits(self.claims)
        self.schedule = Schedule()
        self.energy = EnergyMeter()
        self.log = EventLog(storage)
        self.vehicle = Vehicle()
        self.shaper = Shaper(self.caps)
        self.divert = Divert(self.claims)
        self._voltage: float | None = None  # V, as others told it
        self._vehicle_seen = False
        self._publishing = False
        self._ticks = 0
        self.records = Records(self)
        self._take_options(frozenset(TABLE))
        options.guard(_check_zone)
        options.on_change(self._take_options)
        self.claims.on_change(self._claims_changed)
        self.evse.on_change(self._evse_changed)
        self.manager.on_button(self.override.toggle)
        self.manager.on_ready(self.tell_time)
        self.automatics = Automatics(self)
        for install in PARTS:
            install(self)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.link.run())
                group.create_task(self.manager.run())
                group.create_task(self.clock.every(TICK, self._tick))
                for task in self.tasks:
                    group.create_task(_as_coroutine(task()))
        finally:
            self.records.keep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    for outcome in await asyncio.gather(*(close() for close in self.closers), return_exceptions=True):
                        if isinstance(outcome, Exception):
                            log.error("a part did not close", exc_info=outcome)

    # What parts ask

    @property
    def hostname(self) -> str:
        return str(self.options["hostname"])

    @property
    def voltage(self) -> float:
        """V: measured, or as others told it, or as it was configured."""
        if self.evse.voltage is not None:
            return self.evse.voltage / 1000
        return self._voltage if self._voltage is not None else self.options["voltage"] / 100

    def credentials(self) -> tuple[str, str] | None:
        """User and password that this gateway asks of others and shows to its peers; None: no password is set."""
        if not self.options["www_password"]:
            return None
        return self.options["www_username"], self.options["www_password"]

    def local(self) -> LocalStatus:
        evse = self.evse
        return LocalStatus(
            amp=evse.amp,
            voltage=round(self.voltage),
            pilot=evse.pilot,
            vehicle=evse.vehicle,
            state=evse.state,
            min=evse.min,
            max=evse.configured_max,
        )

    def asleep_by_others(self) -> bool:
        """Whether something other than load sharing keeps, or would keep, the EVSE asleep."""
        cap = self.caps.get("shaper")
        return self.manager.asleep_by_others() or (cap is not None and cap.off)

    def _may_charge(self) -> bool:
        return self.manager.wanted().active and not self.manager.asleep_by_hand

    def status(self) -> dict[str, Any]:
        return status.full(self)

    # What routes ask

    async def tell_voltage(self, volts: float) -> None:
        """Count with it, until the EVSE measures another, and tell the EVSE to do so, too."""
        self._voltage = volts
        self.evse.voltage = None
        await self.manager.rapi.send(f"$SV {round(volts * 1000)}")

    def look_at_supply(self) -> None:
        """Shaper and divert, after a measurement or a change of theirs."""
        charger = Charger(self.voltage, status.power(self), self.evse.min)
        self.shaper.look(charger)
        self.divert.look(charger)
        self._publish_soon()

    async def tell_time(self) -> None:
        """Set the clock of the EVSE."""
        await self.manager.rapi.send(f"$S1 {rapi_words(self.wall.local())}")

    # What happens

    async def _tick(self, seconds: float) -> None:
        self._ticks += 1
        self.records.tick(seconds)
        self.automatics.tick()
        if self.evse.charging:
            self.hub.publish(status.live(self))
        if self._ticks % STATUS_TICKS == 0:
            self.hub.publish(status.charger(self))

    def _evse_changed(self, names: frozenset[str]) -> None:
        if self.evse.vehicle != self._vehicle_seen:
            self._vehicle_seen = self.evse.vehicle
            if self._vehicle_seen:
                self.energy.new_session()
                self.automatics.vehicle_came()
            else:
                self.automatics.vehicle_went()
        if "state" in names:
            self.records.state_changed()
        if names - _QUIET:
            self._publish_soon()

    def _claims_changed(self) -> None:
        self.versions.bump("claims_version")
        self._publish_soon()

    def _take_options(self, keys: frozenset[str]) -> None:
        if "time_zone" in keys:
            try:
                self.wall.zone = zone(self.options["time_zone"])
            except ValueError as problem:  # stored on a host that knew it
                log.warning("time zone is unknown, UTC is used", problem=str(problem))
        if "scheduler_start_window" in keys:
            # Another for each charger of a street, but the same after a restart.
            chance = random.Random(self.identity.device_id)
            self.schedule.delay = chance.randint(0, self.options["scheduler_start_window"])
        if "charge_mode" in keys:
            self.divert.mode = 2 if self.options["charge_mode"] == "eco" else 1
        self.divert.ratio = self.options["divert_PV_ratio"]
        if "current_shaper_enabled" in keys:
            self.shaper.active = self.options["current_shaper_enabled"]
        self.shaper.max_power = self.options["current_shaper_max_pwr"]
        self.look_at_supply()
        self.hub.publish({"config_version": self.options.version})

    def _publish_soon(self) -> None:
        """What changes together is sent together."""
        if not self._publishing and self.hub.clients:
            self._publishing = True
            asyncio.get_running_loop().call_soon(self._publish)

    def _publish(self) -> None:
        self._publishing = False
        self.hub.publish(status.charger(self))


def _check_zone(values: dict[str, Any], _client: str) -> None:
    if "time_zone" in values:
        try:
            zone(values["time_zone"])
        except ValueError as problem:
            raise BadOption(f"time_zone: {problem}; PLACE|RULE, as in the default, needs no list of places") from None


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work
