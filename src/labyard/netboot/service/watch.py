"""Watches the daemons for signs of the machines: leases, TFTP requests, iSCSI connections; and ends idle sessions."""

from __future__ import annotations

import threading
from datetime import timedelta

import structlog
from sqlalchemy import select

from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.core.steps import call
from labyard.netboot.adapters.events import BootEventSources, Observation
from labyard.netboot.adapters.iscsi import Connection
from labyard.netboot.models import BootEventType, BootSession, EventSource, SessionStatus
from labyard.netboot.service.boot import Boots
from labyard.netboot.service.shared import Shared
from labyard.netboot.service.stop import Stops

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
SOURCES = {BootEventType.DHCP_REQUEST: EventSource.DHCP, BootEventType.TFTP_REQUEST: EventSource.TFTP}


class Watch:
    def __init__(self, shared: Shared, boots: Boots, stops: Stops) -> None:
        self._db = shared.database
        self._settings = shared.settings
        self._iscsi = shared.provision.adapters.iscsi
        self._boots = boots
        self._stops = stops
        self._sources = BootEventSources(shared.settings, self.observed)
        self._connected: dict[str, tuple[Connection, ...]] = {}  # by IQN, at the last look
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._sources.start()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._sources.stop()
        if self._thread:
            self._thread.join(timeout=5)

    def observed(self, seen: Observation) -> None:
        """A daemon saw a client. Clients without a running session are nobody's business."""
        kind = BootEventType(seen.kind)
        with self._db.read() as session:
            if self._boots.by_client(session, seen.mac, seen.address) is None:
                return
        with self._db.write() as session:
            if boot := self._boots.by_client(session, seen.mac, seen.address):
                self._boots.record(
                    session,
                    boot,
                    kind,
                    SOURCES[kind],
                    message=seen.detail,
                    client_ip=seen.address,
                    at=seen.at,
                    # The booted system asks for an address again, over the wire that its disk is on.
                    restarts=not self._connected.get(boot.target_iqn or ""),
                )

    def _run(self) -> None:
        failing = False
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.look()
                failing = False
            except (AdapterError, TimeoutError) as error:
                if not failing:
                    log.warning("cannot see iSCSI connections", reason=str(error))
                failing = True
            except Exception:
                log.exception("watch failed")

    def look(self) -> None:
        """Turn new iSCSI connections into events, and end sessions that have been idle for too long."""
        with self._db.read() as session:
            running = session.scalars(select(BootSession).where(BootSession.status == SessionStatus.ACTIVE)).all()
        if not running:
            self._connected = {}
            return
        seen = call(self._iscsi.connections, self._settings.step_timeout_seconds)
        for boot in running:
            iqn = boot.target_iqn or ""
            connections = seen.get(iqn, ())
            before = self._connected.get(iqn, ())
            for connection in connections:
                if connection not in before:
                    self._connect(boot.id, connection)
            self._connected[iqn] = connections
            if not connections:
                self._end_if_idle(boot, dropped=bool(before))
        current = {boot.target_iqn for boot in running}
        self._connected = {iqn: value for iqn, value in self._connected.items() if iqn in current}

    def _connect(self, session_id: int, connection: Connection) -> None:
        with self._db.write() as session:
            boot = session.get_one(BootSession, session_id)
            if boot.status == SessionStatus.ACTIVE:
                self._boots.record(
                    session,
                    boot,
                    BootEventType.ISCSI_CONNECT,
                    EventSource.ISCSI,
                    message=f"{connection.initiator} logged in",
                    client_ip=connection.address or None,
                )

    def _end_if_idle(self, boot: BootSession, dropped: bool) -> None:
        limit = self._settings.idle_timeout_seconds
        if not limit:
            return
        if dropped:  # idle from now on
            with self._db.write() as session:
                session.get_one(BootSession, boot.id).last_activity = now()
            return
        if self._stops.end_if_idle(boot.id, timedelta(seconds=limit)):
            log.info("session was idle", session=boot.session_id, seconds=limit)
