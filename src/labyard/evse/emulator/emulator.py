"""Joins charger, car, line and clock: commands in, replies and asynchronous lines out, a tick each second."""

from __future__ import annotations

import asyncio
import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from labyard.evse import rapi
from labyard.evse.clock import Clock
from labyard.evse.codes import ErrorFlag
from labyard.evse.emulator import status
from labyard.evse.emulator.command_table import NK
from labyard.evse.emulator.commands import REBOOT
from labyard.evse.emulator.config import Config
from labyard.evse.emulator.controller import Booted, Changed, Event, Evse
from labyard.evse.emulator.ev import Car
from labyard.evse.emulator.line import End, Line
from labyard.evse.emulator.profile import PROFILES

_REBOOT_SECONDS = 0.5
# A gateway has that long to say what a car may draw, whatever command of its own the boot left it waiting for.
_SELF_TEST_SECONDS = 1.0
_BAD_CHECKSUM = "bad_checksum"

log = structlog.get_logger(__name__)

Listener = Callable[[str, dict[str, Any]], None]


class Emulator:
    def __init__(self, config: Config, clock: Clock) -> None:
        self.clock = clock
        self.strict = config.serial.strict_checksum
        self._interval = config.simulation.update_interval_ms / 1000
        self.car = Car(
            battery_kwh=config.ev.battery_capacity_kwh,
            max_rate_kw=config.ev.max_charge_rate_kw,
            tapers=config.simulation.realistic_charge_curve,
            seed=config.simulation.seed,
        )
        self.evse = Evse(
            self.car,
            clock.now(),
            firmware=config.evse.firmware_version,
            protocol=config.evse.protocol_version,
            current=config.evse.default_current,
            level=config.evse.service_level,
            self_test=config.evse.gfci_self_test,
            warms=config.simulation.temperature_simulation,
            mcuid=_mcuid(config),
            wall=datetime.now(),
        )
        self._profile = PROFILES[config.evse.profile]
        self.line = Line(self._command, self.reboot, clock.now)
        self.results: Counter[str] = Counter({"ok": 0, "nk": 0, _BAD_CHECKSUM: 0})
        self.listeners: set[Listener] = set()
        self._shown_state = self.evse.state
        self._boot: asyncio.Task[None] | None = None
        self.advancing = asyncio.Lock()  # whoever sets or advances the clock

    async def run(self) -> None:
        """Until cancelled."""
        await self.clock.every(self._interval, self._tick)

    def status(self) -> dict[str, Any]:
        """Charger and car as they are now."""
        with self.change():
            pass  # what was drawn since the last tick is counted
        return status.both(self.evse)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Do something to car or charger; what follows from it is announced."""
        with self.evse.at(self.clock.now()):
            yield
        self._announce()

    def trip(self, flag: ErrorFlag, name: str) -> None:
        """Cause a fault; those who listen are told of it by that name."""
        with self.change():
            self.evse.protection.trip(flag)
        self._tell("error", {"error": name, "message": f"{name} fault"})

    def greet(self, end: End) -> None:
        """The line that each new client gets; one who comes during a reboot gets that of the boot."""
        if self.evse.on:
            end.send(self._encode(Booted(self.evse.protection.post)))

    def reboot(self) -> None:
        """The line falls silent, and speaks again when the controller has booted. A second one begins anew."""
        if self._boot is not None:
            self._boot.cancel()
        with self.evse.at(self.clock.now()):
            self.evse.power_off()
        self.line.silence(True)
        self._tell_state()
        self._boot = asyncio.get_running_loop().create_task(self._boot_again())
        self._boot.add_done_callback(_report_failure)

    async def _boot_again(self) -> None:
        await self.clock.sleep(_REBOOT_SECONDS)
        self.line.silence(False)
        with self.change():
            self.evse.power_on()
        await self.clock.sleep(_SELF_TEST_SECONDS)
        with self.change():
            self.evse.tested()

    def _command(self, end: End, text: bytes) -> None:
        """One command of one client, as it came, without its CR."""
        frame = rapi.decode(text)
        if self.evse.echo:
            end.send(text + rapi.END)
        if frame.checksum is rapi.Checksum.WRONG:
            self.results[_BAD_CHECKSUM] += 1
            log.warning("wrong checksum", client=end.name, line=text.decode(rapi.ENCODING))
            if self.strict:
                end.send(rapi.encode(NK))
                return
        words = self._profile.commands.execute(self.evse, self.clock.now(), frame.tokens)
        self.results[str(words[0]).lower()] += 1
        end.send(rapi.encode(*words, sequence=frame.sequence))
        if words[0] != NK and frame.tokens[0].upper() == REBOOT:
            self.reboot()
        self._announce(of_command=True)

    async def _tick(self, _: float) -> None:
        self.evse.tick(self.clock.now())
        self._announce()
        if self.listeners:
            self._tell("status_update", status.both(self.evse))

    def _announce(self, of_command: bool = False) -> None:
        while self.evse.events:
            event = self.evse.events.popleft()
            if of_command and isinstance(event, Changed) and not self._profile.announces_commands:
                continue
            self.line.broadcast(self._encode(event))
        self._tell_state()

    def _encode(self, event: Event) -> bytes:
        return rapi.encode(*self._profile.describe(event, self.evse.firmware))

    def _tell_state(self) -> None:
        if (state := self.evse.state) != self._shown_state:
            self._shown_state = state
            self._tell("state_change", status.state(self.evse))

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        for listener in list(self.listeners):
            listener(kind, data)


def _report_failure(boot: asyncio.Task[None]) -> None:
    if not boot.cancelled() and (error := boot.exception()) is not None:
        log.error("the boot failed", exc_info=error)


def _mcuid(config: Config) -> str:
    """Six letters and 8 hex digits that no other emulator of this host, or of another, has; the same at each start."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        machine = ""
    own = (machine, platform.node(), config.web.host, config.web.port)
    return "LABYRD" + hashlib.sha256(repr(own).encode()).hexdigest()[:8].upper()
