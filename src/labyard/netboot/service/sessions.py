"""Sessions: what is on record. start.py and stop.py begin and end them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.core.errors import not_found
from labyard.core.paging import Page, fetch
from labyard.netboot.models import BootSession, Image, Machine, SessionStatus, Target
from labyard.netboot.service.machines import require as require_machine
from labyard.netboot.service.shared import Shared


@dataclass(frozen=True)
class Parts:
    """The rows that belong to one session."""

    boot: BootSession
    machine: Machine
    image: Image
    target: Target | None


class Sessions:
    def __init__(self, shared: Shared) -> None:
        self._db = shared.database
        self._provision = shared.provision

    def get(self, session_id: int) -> BootSession:
        with self._db.read() as session:
            return require(session, session_id)

    def parts(self, session_id: int) -> Parts:
        with self._db.read() as session:
            return _parts(session, require(session, session_id))

    def active_of(self, machine_id: int) -> Parts:
        """The machine's active session. 404 for an unknown machine, and for one without a session."""
        with self._db.read() as session:
            require_machine(session, machine_id)
            boot = session.scalar(
                select(BootSession).where(
                    BootSession.machine_id == machine_id, BootSession.status == SessionStatus.ACTIVE
                )
            )
            if boot is None:
                raise not_found(f"No active session found for machine {machine_id}")
            return _parts(session, boot)

    def list(self, page: Page, **equal: Any) -> tuple[list[BootSession], int]:
        query = select(BootSession)
        for column, value in equal.items():
            if value is not None:
                query = query.where(getattr(BootSession, column) == value)
        with self._db.read() as session:
            return fetch(session, query.order_by(BootSession.id.desc()), page)

    def stats(self) -> dict[str, Any]:
        with self._db.read() as session:
            counted = dict(session.execute(select(BootSession.status, func.count()).group_by(BootSession.status)).all())
        counts = {status.value: counted.get(status, 0) for status in SessionStatus}
        return {
            "total_sessions": sum(counts.values()),
            "active_sessions": counts[SessionStatus.ACTIVE],
            "status_counts": counts,
        }

    def script(self, parts: Parts) -> str:
        assert parts.target is not None
        return self._provision.script(parts.machine, parts.target, parts.boot)


def require(session: Session, session_id: int) -> BootSession:
    boot = session.get(BootSession, session_id) if 0 < session_id < 2**31 else None
    if boot is None:
        raise not_found(f"Session with ID {session_id} not found")
    return boot


def duration_seconds(boot: BootSession, moment: datetime | None = None) -> float:
    """From the start to the end, or to now while live. Never negative."""
    return round(max(((boot.ended_at or moment or now()) - boot.started_at).total_seconds(), 0.0), 3)


def _parts(session: Session, boot: BootSession) -> Parts:
    query = select(Machine, Image, Target).join_from(Machine, Image, Image.id == boot.image_id)
    query = query.outerjoin(Target, Target.id == boot.target_id).where(Machine.id == boot.machine_id)
    machine, image, target = session.execute(query).one()
    return Parts(boot, machine, image, target)
