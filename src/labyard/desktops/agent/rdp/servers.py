"""The RDP servers of this node: make, start, stop, remove, look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from labyard.core.adapter import AdapterError
from labyard.core.locks import KeyLocks
from labyard.desktops.adapters.agent import AgentRefused, ServerSpec, ServerStatus, Usage
from labyard.desktops.agent.rdp import probing
from labyard.desktops.agent.rdp.connections import peers
from labyard.desktops.agent.rdp.files import START_FAILED
from labyard.desktops.agent.rdp.life import XORG, Life, Parts
from labyard.desktops.agent.rdp.meter import Meter, Sources
from labyard.desktops.agent.rdp.negotiate import NegotiationError
from labyard.desktops.agent.rdp.place import Made, Place, places
from labyard.desktops.agent.rdp.ports import is_free
from labyard.desktops.agent.rdp.units import SESMAN, XRDP
from labyard.desktops.agent.settings import Settings

log = structlog.get_logger(__name__)


class Servers:
    """Every verb is idempotent: asked for what is so already, it says so. AgentRefused when it cannot be."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self._settings = settings
        self._parts = parts
        self._life = Life(settings, parts)
        self._locks: KeyLocks[str] = KeyLocks()
        self._meters: dict[str, Meter] = {}

    def start_up(self) -> None:
        """Before the first call: the templates are there, and servers that run are measured. AdapterError."""
        self._settings.servers_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._parts.units.prepare()
        for place in places(self._settings.servers_dir).values():
            made = place.made()
            if made and made.display is not None:
                self._measure(place, made)

    def running(self) -> Iterator[tuple[int, list[int]]]:
        """Port and processes of each server that runs. AdapterError."""
        for place in places(self._settings.servers_dir).values():
            made = place.made()
            if made and made.display is not None:
                yield made.port, self._parts.units.processes(place.hex)

    def create(self, spec: ServerSpec) -> ServerStatus:
        """The account and the files are there; nothing runs. What was begun is taken back when it fails."""
        place = self._specified(spec)
        with self._locks.hold(spec.server_id):
            new = not place.exists()
            if new and not is_free(spec.port):
                raise AgentRefused(f"port {spec.port} is taken by another program", "PORT_TAKEN")
            try:
                self._life.files.write(place, spec)
            except (AdapterError, OSError) as error:
                if new:
                    self._life.remove(place)
                code = error.code if isinstance(error, AgentRefused) else "INTERNAL"
                raise AgentRefused(f"the server could not be made: {error}", code) from None
            return self._status(place)

    def start(self, spec: ServerSpec) -> ServerStatus:
        """Answers when the desktop is there and the port negotiates. RDP_START_FAILED: nothing of it runs."""
        place = self._specified(spec)
        with self._locks.hold(spec.server_id):
            if self._is_well(place):
                return self._status(place)
            try:
                self._end(place)
                # Measured from here on: who asks as soon as it runs need not wait for a second reading.
                self._life.begin(place, spec, partial(self._measure, place))
            except (AdapterError, NegotiationError, OSError) as error:
                lines = self._life.said(place)
                log.error("a server did not start", server=spec.server_id, reason=str(error), log=lines)
                try:
                    self._end(place)
                except (AdapterError, OSError) as trouble:
                    log.error("what was started does not end", server=spec.server_id, reason=str(trouble))
                raise AgentRefused(f"the server did not start: {error}", START_FAILED, lines) from None
            return self._status(place)

    def stop(self, server_id: str) -> ServerStatus:
        """Answers when no process of it is left."""
        place = self._known(server_id)
        with self._locks.hold(server_id):
            try:
                self._end(place)
            except (AdapterError, OSError) as error:
                raise AgentRefused(f"the server does not stop: {error}") from None
            return self._status(place)

    def delete(self, server_id: str) -> None:
        """Nothing of it is left on this node. Absent is fine."""
        place = self._place(server_id)
        with self._locks.hold(server_id):
            try:
                self._end(place)
                self._life.remove(place)
            except (AdapterError, OSError) as error:
                raise AgentRefused(f"the server cannot be removed: {error}") from None

    def status(self, server_id: str) -> ServerStatus:
        return self._status(self._known(server_id))

    def known(self) -> tuple[str, ...]:
        """Whatever has a folder, an account or a unit."""
        found = set(places(self._settings.servers_dir)) | self._parts.accounts.names()
        return tuple(sorted(found | {f"rdp-{key}" for key in self._parts.units.known()}))

    def usage(self, server_id: str) -> Usage:
        made = self._known(server_id).made()
        meter = self._meters.get(server_id)
        if meter is None or made is None:
            raise AgentRefused(f"{server_id} does not run", "RDP_STATE")
        usage = meter.usage()
        return replace(usage, detail={**usage.detail, "connections": peers(made.port)})

    def display(self, server_id: str) -> tuple[int, Path]:
        """The number of its display, and the file with the cookie for it, in a folder that the account may change."""
        place = self._known(server_id)
        made = place.made()
        if made is None or made.display is None:
            raise AgentRefused(f"{server_id} does not run", "SES_NO_RDP_TARGET")
        return made.display, place.home / ".Xauthority"

    def probe(self, server_id: str, username: str | None, password: str | None) -> Mapping[str, Any]:
        place = self._known(server_id)
        return probing.probe(place, place.made(), username, password)

    # Inside

    def _place(self, server_id: str) -> Place:
        try:
            return Place(self._settings.servers_dir, server_id)
        except ValueError as error:
            raise AgentRefused(str(error)) from None

    def _known(self, server_id: str) -> Place:
        place = self._place(server_id)
        if not place.exists():
            raise AgentRefused(f"there is no server {server_id} on this node", "RDP_NOT_FOUND")
        return place

    def _specified(self, spec: ServerSpec) -> Place:
        first, last = self._settings.rdp_first_port, self._settings.rdp_last_port
        if not first <= spec.port <= last:
            raise AgentRefused(f"port {spec.port} is not between {first} and {last}")
        if spec.account != spec.server_id:
            raise AgentRefused("the account of a server is named like the server")
        return self._place(spec.server_id)

    def _end(self, place: Place) -> None:
        self._meters.pop(place.server_id, None)
        self._life.end(place)

    def _is_well(self, place: Place) -> bool:
        made = place.made()
        if made is None or made.display is None:
            return False
        status = self._status(place)
        return {status.xrdp, status.sesman, status.xorg} == {"active"} and probing.negotiates(made)

    def _status(self, place: Place) -> ServerStatus:
        made = place.made()
        sesman, xrdp = (self._parts.units.state(place.hex, service) for service in (SESMAN, XRDP))
        xorg = "inactive"
        if sesman.active == "active":
            xorg = "active" if self._life.runs(place, XORG) else "failed"
        return ServerStatus(
            server_id=place.server_id,
            xrdp=xrdp.active,
            sesman=sesman.active,
            xorg=xorg,
            since=xrdp.since,
            main_pid=xrdp.main_pid,
            restarts=xrdp.restarts + sesman.restarts,
            display=made.display if made else None,
            desktop_effective=made.desktop_effective if made else None,
            certificate_sha256=made.certificate_sha256 if made else None,
            enforcement=(made.enforcement if made else None) or {},
        )

    def _measure(self, place: Place, made: Made) -> None:
        sources = Sources(
            taken=lambda: self._parts.units.taken(place.hex),
            counted=lambda: self._parts.network.counted(made.port),
            used=lambda: self._parts.homes.used(place),
        )
        self._meters[place.server_id] = Meter(made, sources)
