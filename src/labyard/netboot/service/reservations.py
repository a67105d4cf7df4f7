"""The DHCP reservations of the live sessions: always rendered whole, applied one at a time across all processes."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import select

from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.core.coalesce import Coalesced
from labyard.core.database import Database
from labyard.netboot.adapters.dhcp import DhcpBackend, Reservation
from labyard.netboot.adapters.reservations import BadReservations
from labyard.netboot.models import RUNNING, BootSession, Machine, Transport
from labyard.netboot.names import script_filename
from labyard.netboot.settings import Settings

GATHER_SECONDS = 1.0
GAP_SECONDS = 0.1


class Reservations:
    def __init__(self, database: Database, settings: Settings, dhcp: DhcpBackend) -> None:
        self._db = database
        self._settings = settings
        self._dhcp = dhcp
        self._apply_shared = Coalesced[None, None](lambda _: self._apply(), self._gather)
        self._coming = 0
        self._came = threading.Condition()
        self._refused: dict[int, str] = {}
        self.last_reload: datetime | None = None
        self.last_error: str | None = None

    @property
    def timeout(self) -> float:
        """Seconds for `apply`: test, set and write, and one apply of others before it."""
        return self._settings.dhcp_timeout_seconds * 3

    def wanted(self) -> list[Reservation]:
        """What the database wants, sorted by machine id."""
        query = (
            select(
                Machine.id,
                Machine.label,
                Machine.mac_address,
                Machine.ip_address,
                Machine.boot_mode,
                BootSession.transport,
                BootSession.boot_token,
            )
            .join(BootSession, BootSession.machine_id == Machine.id)
            .where(BootSession.reserved, BootSession.status.in_(RUNNING))
            .order_by(Machine.id)
        )
        with self._db.read() as session:
            return [self._reservation(*row) for row in session.execute(query)]

    def apply(self, machine_id: int | None = None) -> None:
        """Make the DHCP server carry what is wanted. Raises AdapterError; with `machine_id`, also when the rest went
        through but this machine's entry was refused."""
        self._apply_shared(None)
        if machine_id is not None and (reason := self._refused.get(machine_id)):
            raise AdapterError(reason)

    @contextmanager
    def coming(self) -> Iterator[Callable[[], None]]:
        """Around the work of one who will call `apply`; what it gives is called just before that."""
        gone = False

        def arrived() -> None:
            nonlocal gone
            with self._came:
                self._coming -= not gone
                gone = True
                self._came.notify_all()

        with self._came:
            self._coming += 1
        try:
            yield arrived
        finally:
            arrived()

    def _gather(self) -> None:
        """Setting reservations takes the server as long for one as for a hundred. So while others come one soon after
        the other they are waited for, for a while."""
        until = time.monotonic() + GATHER_SECONDS
        with self._came:
            while self._coming and time.monotonic() < until and self._came.wait(GAP_SECONDS):
                pass

    def withdraw(self, machine_id: int) -> None:
        """Undo of a reservation that may not have come about: nothing is asked of a server that has none of it."""
        if any(entry.machine_id == machine_id for entry in self._dhcp.observed()):
            self._apply_shared(None)

    def _reservation(
        self,
        machine_id: int,
        label: str,
        mac: str,
        address: str | None,
        boot_mode: str,
        transport: str,
        token: str | None,
    ) -> Reservation:
        over_http = transport == Transport.HTTP
        public = f"{self._settings.public_url}/api/v1/ipxe"
        return Reservation(
            machine_id=machine_id,
            label=label,
            mac=mac,
            address=address,
            next_server=self._settings.portal_ip,
            ipxe_file=f"{public}/script/{token}" if over_http else script_filename(mac),
            boot_mode=boot_mode,
            http_boot=f"{public}/boot/snponly.efi" if over_http else "",
        )

    def _apply(self) -> None:
        with self._locked():
            try:
                self._dhcp.apply(self.wanted())
                self._refused, self.last_error = {}, None
            except BadReservations as error:
                # One bad entry never blocks another machine: the others are live, and its own caller is told.
                self._refused, self.last_error = error.problems, str(error)
            except AdapterError as error:
                self.last_error = str(error)
                raise
            self.last_reload = now()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A file lock: other worker processes apply DHCP too. The kernel drops it with the process."""
        descriptor = os.open(self._settings.state_dir / "dhcp.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
