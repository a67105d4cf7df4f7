"""Options that live in the EVSE's memory: written with commands, and read back: contract 5.2."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from labyard.evse.codes import Control
from labyard.evse.gateway.evse import Evse
from labyard.evse.gateway.options import TABLE, Options
from labyard.evse.gateway.rapi_client import RapiClient, Reply, Result

log = structlog.get_logger(__name__)

# The letter of `$FF`, and the control bit that is set when the check is off.
CHECKS = {
    "diode_check": ("D", Control.DIODE_OFF),
    "gfci_check": ("F", Control.GFI_TEST_OFF),
    "ground_check": ("G", Control.GROUND_OFF),
    "relay_check": ("R", Control.RELAY_OFF),
    "vent_check": ("V", Control.VENT_OFF),
    "temp_check": ("T", Control.TEMPERATURE_OFF),
}
HEARTBEAT = frozenset({"heartbeat_enabled", "heartbeat_interval", "heartbeat_current"})


class EvseSettings:
    """What was set before the EVSE was there waits until it is."""

    def __init__(self, rapi: RapiClient, evse: Evse, options: Options, read: Callable[[str], Awaitable[bool]]) -> None:
        """`read("$GE")` asks, and takes the answer into `evse`."""
        self._rapi = rapi
        self._evse = evse
        self._options = options
        self._read = read
        self._waiting: dict[str, Any] = {}
        self._writing: frozenset[str] = frozenset()  # on their way: what the EVSE says of them may be old
        self._flushing = asyncio.Lock()

    def changed(self, keys: frozenset[str]) -> None:
        known = self._observed()
        for key in keys:
            differs = key in known and (key in self._waiting or self._options[key] != known[key])
            if differs or key == "voltage" or key in HEARTBEAT:
                self._waiting[key] = self._options[key]

    def observe(self, booting: bool = False) -> None:
        """Take what the EVSE says into the options, but for what waits to be written. What it says while it boots
        is no change of the configuration: nobody made one."""
        own = self._waiting.keys() | self._writing
        self._options.keep({key: value for key, value in self._observed().items() if key not in own}, not booting)

    async def after_boot(self) -> None:
        """What the EVSE forgets when it is switched off, and what waited for it."""
        if self._options["voltage"] != TABLE["voltage"].default:
            self._waiting["voltage"] = self._options["voltage"]
        if self._options["heartbeat_enabled"]:
            await self._tell_heartbeat()
        await self.flush()

    async def flush(self) -> None:
        async with self._flushing:  # who comes second finds it done
            await self._flush()

    async def _flush(self) -> None:
        if not self._waiting:
            return
        settings, self._waiting = self._waiting, {}
        self._writing = frozenset(settings)
        try:
            lost = await self._write(settings)
        finally:
            self._writing = frozenset()
        self._waiting = {key: settings[key] for key in lost} | self._waiting
        self.observe()

    async def _write(self, settings: dict[str, Any]) -> set[str]:
        """The keys that are to be written once more: an answer was lost."""
        lost: set[str] = set()
        keys: dict[str, list[str]] = {}  # by the command that writes them
        for key, value in sorted(settings.items()):
            if command := self._command(key, value):
                keys.setdefault(command, []).append(key)
        for command, written in keys.items():
            reply = await send_flag(self._rapi, command)
            if reply.result is Result.NK:
                log.warning("EVSE refused a setting", command=command)
            elif not reply.ok:
                lost.update(written)
        if settings.keys() & HEARTBEAT:
            await self._tell_heartbeat()
        if observed := settings.keys() & self._observed().keys():
            for command in ("$GE", "$GC", "$GA"):
                if not await self._read(command):
                    lost |= observed
        return lost

    def _observed(self) -> dict[str, Any]:
        evse = self._evse
        checks = {key: not evse.ecf & bit for key, (_, bit) in CHECKS.items()}
        return {
            "max_current_soft": evse.configured_max,
            "service": evse.service_level,
            "scale": evse.scale,
            "offset": evse.offset,
            **checks,
        }

    def _command(self, key: str, value: Any) -> str | None:
        if key in CHECKS:
            return f"$FF {CHECKS[key][0]} {int(value)}"
        if key in ("scale", "offset"):
            return f"$SA {self._options['scale']} {self._options['offset']}"
        if key == "voltage":
            return f"$SV {value * 10}"
        return {"max_current_soft": f"$SC {value}", "service": f"$SL {value}"}.get(key)

    async def _tell_heartbeat(self) -> None:
        on = self._options["heartbeat_enabled"]
        interval, amps = self._options["heartbeat_interval"], self._options["heartbeat_current"]
        await self._rapi.send(f"$SY {interval} {amps}" if on else "$SY 0 0")


async def send_flag(rapi: RapiClient, command: str, sequenced: bool = True) -> Reply:
    """Like `rapi.send`; old controllers know `$FF D 0` as `$SD 0`."""
    reply = await rapi.send(command, sequenced)
    if reply.result is Result.NK and command[:4].upper() == "$FF ":
        reply = await rapi.send(f"$S{command[4:].lstrip()}", sequenced)
    return reply
