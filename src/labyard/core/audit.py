"""Writes the audit log, in the transaction of the change it describes."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from labyard.core.context import caller
from labyard.core.models import AuditLog, Severity


def entry(
    action: str,
    message: str,
    *,
    severity: Severity = Severity.INFO,
    resource: tuple[str, object] | None = None,
    old: dict[str, Any] | None = None,
    new: dict[str, Any] | None = None,
    status_code: int | None = None,
    username: str | None = None,
) -> AuditLog:
    """One row, of the caller of now. `resource` is (type, id). Values must be JSON and free of secrets."""
    who = caller()
    return AuditLog(
        action=action,
        severity=severity,
        username=username or who.username,
        ip_address=who.address,
        request_id=who.request_id,
        resource_type=resource[0] if resource else None,
        resource_id=str(resource[1]) if resource else None,
        message=message,
        old_values=old,
        new_values=new,
        status_code=status_code,
    )


def record(session: Session, action: str, message: str, **more: Any) -> None:
    """Add one row, in the caller's transaction. `more` is as in `entry`."""
    session.add(entry(action, message, **more))
