"""The audit log: append-only and hash-chained (contract 4.5).

An entry is committed with the change that it describes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import event, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from labyard.core.clock import as_text, now
from labyard.core.context import caller
from labyard.core.database import Database
from labyard.core.logging import redact
from labyard.desktops.advisory import AUDIT, hold
from labyard.desktops.models import AuditEntry

log = structlog.get_logger(__name__)

FIRST = "0" * 64
PIECE = 500  # entries that are looked at together
_PENDING = "audit"


def record(
    session: Session,
    event_type: str,
    action: str,
    *,
    resource: tuple[str, str] | None = None,
    result: str = "success",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry of the caller of now to the caller's transaction. `resource` is (type, id)."""
    who = caller()
    session.info.setdefault(_PENDING, []).append(
        {
            "event_type": event_type,
            "actor": {
                "sub": who.username,
                "roles": list(who.roles),
                "ip": who.address,
                "user_agent": who.user_agent,
            },
            "resource_type": resource[0] if resource else None,
            "resource_id": resource[1] if resource else None,
            "action": action,
            "result": result,
            "request_id": who.request_id,
            "details": _plain(redact(dict(details or {}))),
        }
    )


def _plain(value: Any) -> Any:
    """As PostgreSQL gives it back: JSONB knows neither -0.0 nor 1e+22, and the hash is over what is read."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def note(database: Database, event_type: str, action: str, **more: Any) -> None:
    """An entry of its own, where nothing changed: a refusal. It must not keep the answer from going out."""
    try:
        with database.transaction() as session:
            record(session, event_type, action, **more)
    except SQLAlchemyError as error:
        log.error("not on the audit log", event_type=event_type, action=action, error=type(error).__name__)


def entry_hash(entry: AuditEntry) -> str:
    """SHA-256 of the entry's content, with the hash of the one before, as JSON with sorted keys."""
    content = {
        "sequence": entry.sequence,
        "at": as_text(entry.at),
        "event_type": entry.event_type,
        "actor": entry.actor,
        "resource_type": entry.resource_type,
        "resource_id": entry.resource_id,
        "action": entry.action,
        "result": entry.result,
        "request_id": entry.request_id,
        "details": entry.details,
        "previous_hash": entry.previous_hash,
    }
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(plain.encode()).hexdigest()


@event.listens_for(Session, "before_commit")
def _write_pending(session: Session) -> None:
    pending = session.info.pop(_PENDING, None)
    if not pending:
        return
    session.flush()  # all that may fail or wait comes before the lock
    session.execute(hold(AUDIT))
    last = session.execute(
        select(AuditEntry.sequence, AuditEntry.hash).order_by(AuditEntry.sequence.desc()).limit(1)
    ).one_or_none()
    sequence, previous = (last.sequence, last.hash) if last else (-1, FIRST)
    for values in pending:
        sequence += 1
        entry = AuditEntry(sequence=sequence, at=now(), previous_hash=previous, **values)
        entry.hash = previous = entry_hash(entry)
        session.add(entry)
    session.flush()


def verify(database: Database) -> dict[str, Any]:
    """Whether the chain holds: {valid, entries, first_bad}. Changes nothing."""
    previous, expected = FIRST, 0
    query = select(AuditEntry).order_by(AuditEntry.sequence).limit(PIECE)
    with database.read() as session:
        total = session.scalar(select(func.count()).select_from(AuditEntry)) or 0
        while rows := session.scalars(query.where(AuditEntry.sequence >= expected)).all():
            for entry in rows:
                if entry.sequence != expected or entry.previous_hash != previous or entry.hash != entry_hash(entry):
                    return {"valid": False, "entries": total, "first_bad": entry.sequence}
                previous, expected = entry.hash, expected + 1
            session.expunge_all()
    return {"valid": True, "entries": total, "first_bad": None}
