"""Finds out what EVSE is at the other end, each time there is one: the boot chain of contract 2.2."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain, repeat

import structlog

from labyard.evse.codes import Vflag
from labyard.evse.gateway.evse import Evse
from labyard.evse.gateway.rapi_client import RapiClient

log = structlog.get_logger(__name__)

FIRST_DELAYS, DELAY = (1, 2, 4), 10  # seconds, real, between two tries


class Boot:
    """`ready`: all of the boot chain was answered since the line opened, or the EVSE booted, last."""

    def __init__(
        self,
        rapi: RapiClient,
        evse: Evse,
        read: Callable[[str], Awaitable[bool]],
        restrain: Callable[[], Awaitable[None]],
        on_ready: Callable[[], Awaitable[None]],
    ) -> None:
        """`read("$GE")` asks, and takes the answer into `evse`. `restrain` tells it what it may not."""
        self.ready = False
        self._rapi = rapi
        self._evse = evse
        self._read = read
        self._restrain = restrain
        self._on_ready = on_ready
        self._wanted = asyncio.Event()
        self._heard = asyncio.Event()

    def again(self) -> None:
        """The line has opened, or the EVSE has booted."""
        self._wanted.set()

    def heard(self) -> None:
        """The other end says something: another try is worth it."""
        self._heard.set()

    def lost(self) -> None:
        """The other end does not answer."""
        self.ready = False
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self.ready = False
            for delay in chain(FIRST_DELAYS, repeat(DELAY)):
                self._heard.clear()
                if await self._try():
                    break
                await self._heard_or(delay)

    async def _try(self) -> bool:
        """Whether the chain was answered."""
        self._rapi.sequenced = False
        if not await self._read("$GV"):
            return False
        # From here on a `$AB` means that it has booted once more.
        self._wanted.clear()
        await self._restrain()
        # Sequence ids if it knows them; one that does not refuses the command or answers without one.
        self._rapi.sequenced = True
        if not await self._read("$GF"):
            self._rapi.sequenced = False
            if not await self._read("$GF"):
                return False
        for command in ("$GE", "$GC", "$GA", "$GI"):
            if not await self._read(command):
                return False
        await self._read("$GS")
        if self._evse.vflags & Vflag.BOOT_LOCK:
            await self._rapi.send("$SB")
            await self._read("$GS")
        if not self._wanted.is_set():
            self.ready = True
            log.info("EVSE ready", firmware=self._evse.firmware, serial=self._evse.serial)
            await self._on_ready()
        return True

    async def _heard_or(self, delay: float) -> None:
        try:
            async with asyncio.timeout(delay):
                await self._heard.wait()
        except TimeoutError:
            pass
