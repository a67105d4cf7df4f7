"""Finding the other gateways: sweeps by time and on request, over the responder that LABYARD_MDNS asks for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Literal, Protocol, cast, get_args

import structlog

from labyard.evse.sharing import avahi
from labyard.evse.sharing.directory import Directory, Found
from labyard.evse.sharing.mdns import Announcement, OwnResponder

log = structlog.get_logger(__name__)

Mode = Literal["auto", "own", "avahi", "off"]

FIRST_SWEEP = 2.0  # s after the start
SWEEP_INTERVAL = 10.0
# Answers to others' questions count as well: who was heard so lately need not be asked.
FRESH = 8.5
QUERY_GAP = 0.25  # s, however often it is triggered
# Asked again after this: responders do not repeat themselves within a second, and an answer may get lost. Who has not
# answered after as long again is offline.
REPEAT = 1.1


class Responder(Protocol):
    instance: str

    async def start(self) -> None: ...
    async def announce(self, announcement: Announcement) -> None: ...
    def query(self) -> None: ...
    async def look_at_interfaces(self) -> None: ...
    async def close(self) -> None: ...


def mode_from_environment() -> Mode:
    """ValueError: LABYARD_MDNS is none of auto, own, avahi, off."""
    mode = os.environ.get("LABYARD_MDNS", "auto").strip().lower() or "auto"
    if mode not in get_args(Mode):
        raise ValueError(f"LABYARD_MDNS must be one of {', '.join(get_args(Mode))}, not {mode!r}")
    return cast(Mode, mode)


def interfaces_from_environment() -> list[str]:
    """The names in LABYARD_MDNS_INTERFACES; none: all interfaces."""
    return [name.strip() for name in os.environ.get("LABYARD_MDNS_INTERFACES", "").split(",") if name.strip()]


class Discovery:
    """`directory` is what is found. `on_change` is called when it is another, with who came, if somebody did."""

    def __init__(
        self, announcement: Announcement, mode: Mode, on_change: Callable[[Found | None], None], directory: Directory
    ) -> None:
        self.directory = directory
        self._announcement = announcement
        self._mode = mode
        self._on_change = on_change
        self._responder: Responder | None = None
        self._triggered = asyncio.Event()
        self._next_query = 0.0

    @property
    def instance(self) -> str:
        """The name that this gateway has on the network: with -2 if its hostname was taken."""
        return self._announcement.hostname if self._responder is None else self._responder.instance

    def trigger(self) -> None:
        """Ask at once."""
        self._triggered.set()

    def announce(self, announcement: Announcement) -> None:
        """From now on under that name."""
        self._announcement = announcement
        self.trigger()

    async def run(self) -> None:
        """Until cancelled."""
        self._responder = await self._start()
        if self._responder is None:
            return
        self._on_change(None)
        due = time.monotonic() + FIRST_SWEEP
        while True:
            triggered = await self._wait_for_trigger(due - time.monotonic())
            now = time.monotonic()
            if not triggered:
                due = max(now, due) + SWEEP_INTERVAL
            try:
                await self._turn(self._responder, now, triggered)
            except OSError as problem:  # interfaces come and go, also while they are looked at
                log.warning("mDNS could not do its work this time", problem=str(problem))

    async def close(self) -> None:
        if self._responder is not None:
            await self._responder.close()

    async def _start(self) -> Responder | None:
        told = (self._announcement, self._heard, self._gone)
        responders: list[Responder] = []
        if self._mode in ("auto", "own"):
            responders.append(OwnResponder(*told, interfaces_from_environment()))
        if self._mode == "avahi" or (self._mode == "auto" and avahi.available()):
            responders.append(avahi.AvahiResponder(*told))
        for responder in responders:
            try:
                await responder.start()
                return responder
            except OSError as problem:
                log.error("mDNS is not available", responder=type(responder).__name__, problem=str(problem))
                await responder.close()
        return None

    async def _turn(self, responder: Responder, now: float, triggered: bool) -> None:
        before = responder.instance
        await responder.announce(self._announcement)  # does nothing while it is the same
        if triggered or not self.directory.all_heard_since(now - FRESH):
            await self._sweep(responder, now)
        if not triggered:
            await responder.look_at_interfaces()
        if self.directory.forget(time.monotonic()) or responder.instance != before:
            self._on_change(None)

    async def _sweep(self, responder: Responder, begun: float) -> None:
        """Ask, twice; who was not heard by then is offline. A trigger meanwhile begins anew."""
        await asyncio.sleep(self._next_query - begun)
        self._next_query = time.monotonic() + QUERY_GAP
        for _ in range(2):
            responder.query()
            if await self._wait_for_trigger(REPEAT):
                self._triggered.set()
                return
            if self.directory.all_heard_since(begun):
                return
        if self.directory.missed(begun):
            self._on_change(None)

    async def _wait_for_trigger(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._triggered.wait(), max(0.0, seconds))
        except TimeoutError:
            return False
        self._triggered.clear()
        return True

    def _heard(self, found: Found) -> None:
        if self.directory.heard(found, time.monotonic()):
            self._on_change(found)

    def _gone(self, instance: str) -> None:
        if self.directory.gone(instance):
            self._on_change(None)
