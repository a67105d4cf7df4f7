"""How a server begins and ends: its units, its home, its network, its desktop (contract 6.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil

from labyard.core.adapter import AdapterError
from labyard.desktops.adapters.agent import ServerSpec
from labyard.desktops.agent.rdp import config, probing
from labyard.desktops.agent.rdp.account import Accounts
from labyard.desktops.agent.rdp.files import Files
from labyard.desktops.agent.rdp.home import Homes
from labyard.desktops.agent.rdp.negotiate import negotiate
from labyard.desktops.agent.rdp.network import Network
from labyard.desktops.agent.rdp.place import Made, Place
from labyard.desktops.agent.rdp.ports import LOOPBACK, listens
from labyard.desktops.agent.rdp.units import SERVICES, SESMAN, XRDP, Limits, Units
from labyard.desktops.agent.settings import Settings

POLL = 0.05  # seconds
LOG_LINES = 20
XORG = "Xorg"
MECHANISMS = {"cpu": "cgroup", "memory": "cgroup", "disk": "filesystem", "network": "nftables"}


@dataclass(frozen=True)
class Parts:
    """What the servers stand on: one of each for the whole agent."""

    units: Units
    accounts: Accounts
    homes: Homes
    network: Network


class Life:
    def __init__(self, settings: Settings, parts: Parts) -> None:
        self._settings = settings
        self._units = parts.units
        self._accounts = parts.accounts
        self._homes = parts.homes
        self._network = parts.network
        self.files = Files(settings, parts.accounts)

    def begin(self, place: Place, spec: ServerSpec, listening: Callable[[Made], None]) -> Made:
        """Runs, with a desktop, and its port negotiates. `listening` is called when its daemons are up, before the
        desktop is. AdapterError, NegotiationError, OSError: what was begun is there, and `end` ends it."""
        until = time.monotonic() + self._settings.rdp_start_timeout
        made = self.files.write(place, spec)
        self.files.clean(place, spec.port)
        self._accounts.set_password(spec.account, spec.password)
        limits = Limits(spec.cpu_limit, spec.memory_limit)
        reasons = {"disk": self._limit_home(place, spec), "network": self._limit_network(spec)}
        self._units.limit(place.hex, limits)
        for service, port in ((SESMAN, spec.port + self._settings.rdp_sesman_offset), (XRDP, spec.port)):
            if listens(port):
                raise AdapterError(f"port {port} is taken by another program")
            self._units.start(place.hex, service)
            self._wait(until, f"{service} to listen on port {port}", partial(listens, port), place)
        listening(made)
        reasons |= self._units.enforced(place.hex, limits)
        answer = probing.ask(place, made, spec.account, spec.password)
        if answer.display is None:
            raise AdapterError(f"sesman opens no desktop: {answer.reason}")
        process = config.DESKTOPS[made.desktop_effective or config.FALLBACK].process
        self._wait(until, "the X server and the window manager", lambda: self.runs(place, XORG, process), place)
        found = negotiate(LOOPBACK, spec.port, made.use_tls, max(until - time.monotonic(), 1.0))
        if not probing.is_genuine(found, made):
            raise AdapterError(f"what answers on port {spec.port} shows another certificate than this server's")
        made = replace(made, display=answer.display, enforcement=_enforcement(reasons))
        place.note(made)
        return made

    def end(self, place: Place) -> None:
        """Nothing of it runs, its display and its home are free. AdapterError, OSError."""
        self._units.stop(place.hex)
        made = place.made()
        if made:
            with suppress(AdapterError):  # no nftables: then there is nothing to forget either
                self._network.forget(made.port)
            place.note(made.stopped())
        self._homes.release(place)

    def remove(self, place: Place) -> None:
        """Of one that has ended: nothing is left. AdapterError, OSError."""
        self._units.forget(place.hex)
        self._accounts.remove(place.server_id)
        place.remove()

    def runs(self, place: Place, *names: str) -> bool:
        """Whether it has a process of each of these names."""
        return set(names) <= {_name(pid) for pid in self._units.processes(place.hex)}

    def said(self, place: Place) -> tuple[str, ...]:
        """The daemons' last lines, from their log files and their units."""
        lines: list[str] = []
        for file in ("sesman.log", "xrdp.log"):
            with suppress(OSError):
                lines += (place.log / file).read_text(errors="replace").splitlines()[-LOG_LINES:]
        with suppress(AdapterError):
            lines += self._units.log(place.hex, LOG_LINES)
        return tuple(lines)

    def _limit_home(self, place: Place, spec: ServerSpec) -> str | None:
        account = self._accounts.ensure(spec.account, f"/home/{spec.account}")
        return self._homes.prepare(place, account, spec.disk_limit)

    def _limit_network(self, spec: ServerSpec) -> str | None:
        try:
            self._network.limit(spec.port, spec.network_bandwidth)
        except AdapterError as error:
            return str(error)
        return None

    def _wait(self, until: float, what: str, there: Callable[[], bool], place: Place) -> None:
        while not there():
            for service in SERVICES:
                if self._units.state(place.hex, service).active == "failed":
                    raise AdapterError(f"{service} ended while waiting for {what}")
            if time.monotonic() > until:
                raise AdapterError(f"waited {self._settings.rdp_start_timeout:g} s in vain for {what}")
            time.sleep(POLL)


def _enforcement(reasons: Mapping[str, str | None]) -> dict[str, Any]:
    """The mechanism in force for each limit, or `none`, with its reason in `reasons`."""
    found: dict[str, Any] = {what: "none" if reasons[what] else name for what, name in MECHANISMS.items()}
    found["reasons"] = {what: reason for what, reason in reasons.items() if reason}
    return found


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""
