"""What the use cases of sessions share."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.desktops import roles
from labyard.desktops.errors import Refusal
from labyard.desktops.models import DeskSession, SessionStatus
from labyard.desktops.roles import Principal

# Above any segment's number: the node may forget the whole recording.
EVERYTHING = 2**31 - 1
# These have a recorder, or may have one.
WORKING = (SessionStatus.STARTING, SessionStatus.RECORDING, SessionStatus.PAUSED, SessionStatus.STOPPING)


def unknown(session_id: str) -> Refusal:
    return Refusal("SES_NOT_FOUND", f"There is no session {session_id[:64]}")


def refused(row: DeskSession, what: str) -> Refusal:
    return Refusal("SES_STATE", f"The session {row.session_id} is {row.status} and cannot be {what}")


def visible(session: Session, session_id: str, who: Principal) -> DeskSession:
    """The session, if the caller may see it; what others own is not there for whoever does not see all."""
    row = session.get(DeskSession, session_id)
    if row is None or row.status == SessionStatus.DELETED:
        raise unknown(session_id)
    if row.owner != who.subject and not who.may(roles.SESSION_SEE_ALL):
        raise unknown(session_id)
    return row


def locked(session: Session, session_id: str) -> DeskSession:
    """The session, so that nobody else changes it until the transaction ends."""
    query = select(DeskSession).where(DeskSession.session_id == session_id).with_for_update()
    row = session.scalar(query.execution_options(populate_existing=True))
    if row is None or row.status == SessionStatus.DELETED:
        raise unknown(session_id)
    return row
