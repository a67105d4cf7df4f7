"""Routes of /audit."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from sqlalchemy import select

from labyard.desktops import audit
from labyard.desktops.api.deps import Auditor, Service
from labyard.desktops.api.routes import guarded
from labyard.desktops.fields import Line, TimeIn
from labyard.desktops.models import AuditEntry
from labyard.desktops.paging import Paging, fetch
from labyard.desktops.schemas.access import AuditPage, ChainOut

router = guarded("/audit", "audit")

Word = Annotated[Line | None, Query(max_length=255)]


@router.get("", response_model=AuditPage)
def entries(
    service: Service,
    who: Auditor,
    page: Paging,
    event_type: Word = None,
    action: Word = None,
    result: Word = None,
    actor: Word = None,
    resource_type: Word = None,
    resource_id: Word = None,
    since: Annotated[TimeIn | None, Query()] = None,
    until: Annotated[TimeIn | None, Query()] = None,
) -> dict[str, Any]:
    """Newest first."""
    query = select(AuditEntry).order_by(AuditEntry.sequence.desc())
    for column, value in (
        (AuditEntry.event_type, event_type),
        (AuditEntry.action, action),
        (AuditEntry.result, result),
        (AuditEntry.actor["sub"].astext, actor),
        (AuditEntry.resource_type, resource_type),
        (AuditEntry.resource_id, resource_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if since:
        query = query.where(AuditEntry.at >= since)
    if until:
        query = query.where(AuditEntry.at <= until)
    with service.database.read() as session:
        rows, total = fetch(session, query, page)
    return page.envelope("entries", rows, total)


@router.get("/verify", response_model=ChainOut)
def verify(service: Service, who: Auditor) -> dict[str, Any]:
    """Whether the chain of hashes holds, from the first entry on."""
    return audit.verify(service.database)
