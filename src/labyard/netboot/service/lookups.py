"""Questions that several use cases ask of the database."""

from __future__ import annotations

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from labyard.netboot.models import LIVE, BootSession, Target, TargetStatus


def live_session(session: Session, machine_id: int) -> BootSession | None:
    return session.scalar(select(BootSession).where(BootSession.machine_id == machine_id, text(LIVE)))


def current_target(session: Session, machine_id: int) -> Target | None:
    """The target that is not yet inactive."""
    return session.scalar(select(Target).where(Target.machine_id == machine_id, Target.status != TargetStatus.INACTIVE))


def in_use(session: Session, *, machine_id: int | None = None, image_id: int | None = None) -> str:
    """What uses a machine or image now, or nothing."""
    for model, condition, what in (
        (BootSession, text(LIVE), "session"),
        (Target, Target.status != TargetStatus.INACTIVE, "target"),
    ):
        query = select(model.id).where(condition)
        if machine_id is not None:
            query = query.where(model.machine_id == machine_id)
        if image_id is not None:
            query = query.where(model.image_id == image_id)
        if (found := session.scalar(query.limit(1))) is not None:
            return f"{what} {found}"
    return ""
