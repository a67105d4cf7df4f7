"""How far a session's machine has come: boot events, and what they change (contract sections 5.6 and 6)."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from labyard.core import audit
from labyard.core.clock import now
from labyard.core.database import Database
from labyard.core.errors import not_found
from labyard.core.models import Severity
from labyard.core.paging import Page, fetch
from labyard.netboot.models import (
    RUNNING,
    BootEvent,
    BootEventType,
    BootPhase,
    BootSession,
    EventSource,
    Machine,
)

MERGE_WITHIN = timedelta(seconds=2)
PHASE_OF = {
    BootEventType.DHCP_REQUEST: BootPhase.DHCP,
    BootEventType.TFTP_REQUEST: BootPhase.TFTP,
    BootEventType.IPXE_LOAD: BootPhase.SCRIPT,
    BootEventType.ISCSI_CONNECT: BootPhase.ISCSI,
    BootEventType.BOOT_SUCCESS: BootPhase.BOOTED,
    BootEventType.BOOT_FAILED: BootPhase.FAILED,
}
_ORDER = list(BootPhase)
# A client that asks for an address or loads its script has begun anew.
_RESTARTS = {BootEventType.DHCP_REQUEST, BootEventType.IPXE_LOAD}


class Boots:
    def __init__(self, database: Database) -> None:
        self._db = database

    def by_token(self, session: Session, token: str) -> BootSession:
        """The running session of a boot token; one 404 for a wrong token and for a session that is over."""
        found = session.scalar(
            select(BootSession).where(BootSession.boot_token == token, BootSession.status.in_(RUNNING))
        )
        if found is None:
            raise not_found("No running session for this token")
        return found

    def by_client(self, session: Session, mac: str | None, address: str | None) -> BootSession | None:
        """The running session of a machine that a daemon saw."""
        query = select(BootSession).join(Machine).where(BootSession.status.in_(RUNNING))
        if mac:
            return session.scalar(query.where(Machine.mac_address == mac.upper()))
        if address:
            return session.scalar(
                query.where((Machine.ip_address == address) | (BootSession.client_ip == address)).limit(1)
            )
        return None

    def record(
        self,
        session: Session,
        boot: BootSession,
        kind: BootEventType,
        source: EventSource,
        *,
        message: str | None = None,
        client_ip: str | None = None,
        restarts: bool = True,
        at: datetime | None = None,
    ) -> BootEvent:
        """Add an event and let it move the session. A repeat within 2 s, unless by hand, is merged into the first.

        `restarts` False: the client is known to be running, so a new lease is no new boot.
        """
        moment = at or now()
        mine = select(BootEvent).where(BootEvent.session_id == boot.id).order_by(BootEvent.id.desc()).limit(1)
        last = session.scalar(mine.where(BootEvent.type == kind))
        newest = session.scalar(select(func.max(BootEvent.created_at)).where(BootEvent.session_id == boot.id))
        # A log is read a moment late: what it tells may have been overtaken, and begins nothing anew.
        restarts = restarts and (newest is None or moment >= newest)
        boot.last_activity = max(moment, boot.last_activity or moment)
        if last and source == last.source != EventSource.OPERATOR and abs(moment - last.created_at) < MERGE_WITHIN:
            if message:
                last.message = message
            return last
        event = BootEvent(
            session_id=boot.id,
            machine_id=boot.machine_id,
            type=kind,
            source=source,
            message=message,
            client_ip=client_ip,
            created_at=moment,
        )
        session.add(event)
        machine = session.get_one(Machine, boot.machine_id)
        machine.last_seen = moment
        if client_ip and source != EventSource.OPERATOR:
            boot.client_ip = client_ip
            boot.client_mac = machine.mac_address
        self._move(session, boot, machine, kind, moment, restarts)
        session.flush()
        return event

    def _move(
        self,
        session: Session,
        boot: BootSession,
        machine: Machine,
        kind: BootEventType,
        moment: datetime,
        restarts: bool,
    ) -> None:
        phase = PHASE_OF[kind]
        before = BootPhase(boot.boot_phase)
        anew = kind in _RESTARTS and restarts
        # "Try again" in the menu logs in once more without loading the script again.
        again = before == BootPhase.FAILED and phase in (BootPhase.ISCSI, BootPhase.BOOTED)
        if anew or again or _ORDER.index(phase) > _ORDER.index(before):
            boot.boot_phase = phase
        if anew and before in (BootPhase.BOOTED, BootPhase.FAILED, BootPhase.ISCSI):
            machine.is_online = False
        if kind == BootEventType.BOOT_SUCCESS:
            boot.ready_time = moment
            boot.boot_duration_seconds = round(max((moment - self._began(session, boot)).total_seconds(), 0.0), 3)
            machine.last_boot = moment
            machine.is_online = True
            machine.boot_count += 1
            audit.record(session, "boot_completed", f"machine {machine.name} booted", resource=("session", boot.id))
        if kind == BootEventType.BOOT_FAILED:
            audit.record(
                session,
                "boot_failed",
                f"machine {machine.name} did not boot",
                severity=Severity.WARNING,
                resource=("session", boot.id),
            )

    def _began(self, session: Session, boot: BootSession) -> datetime:
        """When this boot began: the first sign of the client since it last came up or failed, else the start."""
        first = session.scalar(
            select(func.min(BootEvent.created_at)).where(
                BootEvent.session_id == boot.id,
                BootEvent.type.in_([BootEventType.DHCP_REQUEST, BootEventType.IPXE_LOAD]),
                BootEvent.id
                > func.coalesce(
                    select(func.max(BootEvent.id))
                    .where(
                        BootEvent.session_id == boot.id,
                        BootEvent.type.in_([BootEventType.BOOT_SUCCESS, BootEventType.BOOT_FAILED]),
                        BootEvent.created_at < boot.ready_time,
                    )
                    .scalar_subquery(),
                    0,
                ),
            )
        )
        return first or boot.started_at

    def list(
        self, page: Page, *, session_id: int | None = None, machine_id: int | None = None, kind: str | None = None
    ) -> tuple[list[BootEvent], int]:
        """Newest first."""
        query: Select[tuple[BootEvent]] = select(BootEvent)
        for column, value in (
            (BootEvent.session_id, session_id),
            (BootEvent.machine_id, machine_id),
            (BootEvent.type, kind),
        ):
            if value is not None:
                query = query.where(column == value)
        with self._db.read() as session:
            return fetch(session, query.order_by(BootEvent.id.desc()), page)
