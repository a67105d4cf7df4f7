"""Makes the EVSE do what the claims want, and keeps what is known of it fresh: contract 2.2, 5.3."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from labyard.evse.clock import Clock
from labyard.evse.gateway.boot import Boot
from labyard.evse.gateway.claims import Claims, Client
from labyard.evse.gateway.evse import Evse
from labyard.evse.gateway.options import BadOption, Options
from labyard.evse.gateway.rapi_client import RapiClient, Result
from labyard.evse.gateway.readings import ask
from labyard.evse.gateway.settings import EvseSettings

log = structlog.get_logger(__name__)

TICK = 1.0  # seconds of the charger's clock
SLOW_POLL = 30  # ticks
_BUT_LOAD_SHARING = frozenset({Client.SHAPER})
HEARTBEAT_MISSED = 2  # trigger of $SY: missed, and limited


@dataclass(frozen=True)
class Wanted:
    active: bool
    pilot: int  # A


class Manager:
    def __init__(self, clock: Clock, evse: Evse, claims: Claims, options: Options) -> None:
        self.rapi = RapiClient(self._event, self._connected)
        # Somebody at the charger put it to sleep; it stays so until a claim other than load sharing's changes state.
        self.asleep_by_hand = False
        self._clock = clock
        self._evse = evse
        self._claims = claims
        self._options = options
        self._on_ready: list[Callable[[], Awaitable[object]]] = []
        self._on_button: list[Callable[[], object]] = []
        self._dirty = asyncio.Event()
        self._state_pending = True  # the EVSE has not yet been told the state that is wanted
        self._last_state = True
        # State that is wanted but for load sharing, and the client that asks for it.
        self._last_own: tuple[bool, int | None] = (True, None)
        self._clamped: tuple[int, int] | None = None  # pilot asked for, pilot that the EVSE made of it
        self._settings = EvseSettings(self.rapi, evse, options, self.read)
        self._boot = Boot(self.rapi, evse, self.read, self._restrain, self._became_ready)
        self._had_vehicle = False
        self._group: asyncio.TaskGroup | None = None
        self._ticks = 0
        claims.on_change(self._claims_changed)
        evse.on_change(self._evse_changed)
        options.guard(self._check)
        options.on_change(self._options_changed)

    def on_ready(self, work: Callable[[], Awaitable[object]]) -> None:
        """`work` is done each time the EVSE has become ready, after what is urgent."""
        self._on_ready.append(work)

    def on_button(self, listener: Callable[[], object]) -> None:
        """A short press of the button at the charger."""
        self._on_button.append(listener)

    @property
    def ready(self) -> bool:
        """Whether the EVSE is there and known."""
        return self._boot.ready

    def link_opened(self) -> None:
        self._boot.again()
        self._boot.heard()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._boot.run())
            group.create_task(self._enforce_forever())
            group.create_task(self._clock.every(TICK, self._tick))

    # What is wanted

    def wanted(self, without: frozenset[int] = frozenset()) -> Wanted:
        properties = self._claims.target(without).properties
        active = self._options["default_state"] if properties.state is None else properties.state == "active"
        currents = (self._evse.configured_max, properties.max_current, properties.charge_current)
        return Wanted(active, max(self._evse.min, min(value for value in currents if value is not None)))

    @property
    def max_current(self) -> int:
        """What the claims allow, A, whatever is charged with."""
        limit = self._claims.target().properties.max_current
        return self._evse.configured_max if limit is None else min(limit, self._evse.configured_max)

    def asleep_by_others(self) -> bool:
        return self.asleep_by_hand or not self.wanted(_BUT_LOAD_SHARING).active

    def _claims_changed(self) -> None:
        asker = self._claims.target(_BUT_LOAD_SHARING).winners.get("state")
        own = (self.wanted(_BUT_LOAD_SHARING).active, asker)
        if own != self._last_own:
            woken = self.asleep_by_hand and own[0] and asker is not None
            if woken or own[0] != self._last_own[0]:
                self.asleep_by_hand = False
                self._state_pending = self._state_pending or woken
            self._last_own = own
        state = self.wanted().active
        if state != self._last_state:
            self._last_state = state
            self._state_pending = True
        self._dirty.set()

    # Doing it

    async def _enforce_forever(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if self.ready:
                await self._enforce()

    async def _enforce(self) -> None:
        """Less before more: sleep before the pilot rises, lower the pilot before it wakes. Each step asks anew what is
        wanted, for while a command is on the line somebody may have changed it."""
        if self._state_pending and not self.wanted().active:
            await self._tell_state("$FD" if self._options["pause_uses_disabled"] else "$FS")
        if self._pilot_pending(self.wanted()):
            await self._set_pilot(self.wanted().pilot)
        if self._state_pending and self.wanted().active:
            if self._evse.asleep and not self.asleep_by_hand:
                await self._tell_state("$FE")
            else:
                self._state_pending = False

    async def _tell_state(self, command: str) -> None:
        told = self.wanted().active
        reply = await self.rapi.send(command)
        if reply.ok and told == self.wanted().active:
            self._state_pending = False
        await self.read("$GS")

    def _pilot_pending(self, wanted: Wanted) -> bool:
        return wanted.pilot != self._evse.pilot and self._clamped != (wanted.pilot, self._evse.pilot)

    async def _set_pilot(self, amps: int) -> None:
        reply = await self.rapi.send(f"$SC {amps} V")
        if reply.result not in (Result.OK, Result.NK):
            return  # tried again with the next tick
        if reply.words and reply.words[0].isdecimal():
            self._evse.read_pilot(int(reply.words[0]))
        else:  # the public image says OK and nothing more
            await self.read("$GC")
        self._clamped = (amps, self._evse.pilot) if self._evse.pilot != amps else None

    async def _tick(self, _seconds: float) -> None:
        self._ticks += 1
        if not self.ready:
            return
        if self._evse.charging:
            await self.read("$GG")
            await self.read("$GC")
        if self._options["heartbeat_enabled"]:
            await self._heartbeat()
        if self._ticks % SLOW_POLL == 0:
            for command in ("$GS", "$GP", "$GU"):
                await self.read(command)
        elif self.rapi.doubtful:
            await self.read("$GS")
        await self.flush()
        if self._state_pending or self._pilot_pending(self.wanted()):
            self._dirty.set()

    async def _heartbeat(self) -> None:
        reply = await self.rapi.send("$SY")
        if reply.words and reply.words[-1] == str(HEARTBEAT_MISSED):
            await self.rapi.send("$SY 165")

    async def _restrain(self) -> None:
        """An EVSE that booted offers all that it has, which in a group may be others': this comes before questions."""
        wanted, known = self.wanted(), self._evse.configured_max > 0
        if known and not wanted.active:
            await self.rapi.send("$FD" if self._options["pause_uses_disabled"] else "$FS")
        if known and wanted.pilot < self._evse.configured_max:
            await self.rapi.send(f"$SC {wanted.pilot} V")

    async def _became_ready(self) -> None:
        self._state_pending, self._clamped, self.asleep_by_hand = True, None, False
        self._dirty.set()
        await self._settings.after_boot()
        for command in ("$GP", "$GU"):
            await self.read(command)
        for work in self._on_ready:
            await work()

    async def read(self, command: str) -> bool:
        """Ask the EVSE. False: there was no answer, or it made no sense."""
        return await ask(self.rapi, self._evse, command, self._clock.now)

    async def flush(self) -> None:
        """Write to the EVSE what options wait for it, if it is there."""
        if self.ready:
            await self._settings.flush()

    # What comes from the EVSE

    def _connected(self, connected: bool) -> None:
        if connected:
            self._boot.heard()
        else:
            log.warning("EVSE does not answer")
            self._boot.lost()

    def _event(self, words: Sequence[str]) -> None:
        self._boot.heard()
        name, arguments = words[0], words[1:]
        try:
            if name == "AB":
                self._evse.read_boot(arguments)
                self._boot.again()
            elif name == "AT":
                self._evse.read_transition(arguments, self._clock.now())
            elif name == "AN" and arguments[:1] == ("0",):
                for listener in self._on_button:
                    listener()
        except ValueError as problem:
            log.warning("event makes no sense", event_words=words, problem=str(problem))

    def _evse_changed(self, names: frozenset[str]) -> None:
        if "state" in names:
            self._state_changed()
        if names & {"configured_max", "ecf", "scale", "offset"}:
            self._settings.observe(booting=not self.ready)
        if "capacity" in names and self.ready and self._evse.capacity != self._evse.pilot:
            self._background(self.read("$GC"))
        if names & {"min", "configured_max", "pilot"}:
            self._dirty.set()
        if self._had_vehicle != self._evse.vehicle:
            self._had_vehicle = self._evse.vehicle
            if not self._had_vehicle:
                self._claims.release_automatic()

    def _state_changed(self) -> None:
        if self._evse.fault and self.ready:
            self._background(self.read("$GF"))
        if not self.ready or self._state_pending:
            return
        if self._evse.asleep:
            self.asleep_by_hand = self.wanted().active
        else:
            self.asleep_by_hand = False
            if not self.wanted().active:  # woken at the charger, against the claims
                self._state_pending = True
                self._dirty.set()

    def _check(self, values: dict[str, Any], _client: str) -> None:
        low, high = self._evse.min, self._evse.hardware_max
        if "max_current_soft" in values and self.ready and not low <= values["max_current_soft"] <= high:
            raise BadOption(f"max_current_soft must be {low} to {high}")

    def _options_changed(self, keys: frozenset[str]) -> None:
        self._settings.changed(keys)
        if keys & {"default_state", "pause_uses_disabled"}:
            self._state_pending = True
            self._claims_changed()

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        if self._group is None:
            work.close()
        else:
            self._group.create_task(work)
