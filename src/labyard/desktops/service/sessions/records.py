"""Sessions as records: created, found, described, deleted. What records is in `recordings.py`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import structlog
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from labyard.core.adapter import AdapterError
from labyard.core.database import Database
from labyard.core.errors import ServiceError
from labyard.desktops import audit, names, roles
from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.errors import invalid
from labyard.desktops.keyring import Keyring
from labyard.desktops.models import DeskSession, Poot, SessionChunk, SessionError, SessionStatus
from labyard.desktops.paging import Page, fetch
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.sessions import MetadataChange, SessionIn, size_of
from labyard.desktops.service.data_keys import DataKeys
from labyard.desktops.service.sessions import stages
from labyard.desktops.service.sessions.binding import ATTACH, AUTO, Provisioner, fits
from labyard.desktops.service.sessions.shared import WORKING, locked, refused, visible
from labyard.desktops.service.sessions.statistics import statistics
from labyard.desktops.settings import Settings

log = structlog.get_logger(__name__)

METADATA: dict[str, Any] = {"project": None, "environment": None, "tags": [], "owner": None, "priority": "normal"}
FIELDS = (
    "session_id", "name", "description", "owner", "status", "rdp_config", "recording_config", "storage_config",
    "provisioning", "binding", "node_id", "started_at", "stopped_at", "stop_reason", "degraded", "gaps", "audio",
    "created_at", "updated_at",
)  # fmt: skip


class Records:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        keyring: Keyring,
        keys: DataKeys,
        store: ChunkStore,
        provisioner: Provisioner | None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._keyring = keyring
        self._keys = keys
        self._store = store
        self._provisioner = provisioner

    def create(self, body: SessionIn, who: Principal) -> dict[str, Any]:
        """400 for a store that is not there. A failed `auto` is no failure of the creation."""
        self._check_stores(body)
        session_id = names.session_id()
        policy = body.rdp_config.provisioning or self._settings.session_provisioning
        password = body.rdp_config.password
        row = DeskSession(
            session_id=session_id,
            owner=who.subject,
            name=body.name,
            description=body.description,
            rdp_config=body.rdp_config.model_dump(exclude={"password"}, exclude_none=True),
            password_sealed=self._keyring.seal(password.encode(), password_of(session_id)) if password else None,
            recording_config=body.recording_config.model_dump(exclude_none=True),
            storage_config=body.storage_config.model_dump(),
            meta=METADATA | body.metadata.given(),
            provisioning={"policy": policy, "state": "none", "server_id": None},
        )
        with self._database.transaction() as session:
            if policy == ATTACH:
                server_id = fits(session, row, who, self._settings)
                row.provisioning = {
                    "policy": policy,
                    "state": "bound" if server_id else "pending",
                    "server_id": server_id,
                }
            session.add(row)
            session.flush()
            stages.make(session, session_id)
            audit.record(session, "session", "create", resource=("session", session_id))
        if policy == AUTO:
            self.provision(session_id)
        return self.get(session_id, who)

    def provision(self, session_id: str) -> None:
        """Policy `auto`: the session's own server is there and runs, or `/errors` says why it does not."""
        with self._database.read() as session:
            row = session.get_one(DeskSession, session_id)
        server_id, problem = None, None
        try:
            if self._provisioner is None:
                raise AdapterError("this service runs no RDP servers")
            server_id = self._provisioner.provide(session_id, row.owner, _desktop_size(row))
        except (AdapterError, ServiceError) as error:
            problem = str(error)
            log.warning("no RDP server for a session", session=session_id, error=problem)
        with self._database.transaction() as session:
            row = locked(session, session_id)
            state = "failed" if problem else "provisioned"
            row.provisioning = {"policy": AUTO, "state": state, "server_id": server_id}
            if problem:
                stages.add_error(session, session_id, "RDP_START_FAILED", problem)

    def exists(self, session_id: str, who: Principal) -> None:
        """404 when it is not there for the caller."""
        with self._database.read() as session:
            visible(session, session_id, who)

    def get(self, session_id: str, who: Principal) -> dict[str, Any]:
        with self._database.read() as session:
            row = visible(session, session_id, who)
            return _shown(session, [row])[0] | {"statistics": statistics(session, row)}

    def page(
        self,
        page: Page,
        who: Principal,
        status: str | None,
        project: str | None,
        environment: str | None,
        owner: str | None,
    ) -> tuple[list[dict[str, Any]], int]:
        query = select(DeskSession).where(DeskSession.status != SessionStatus.DELETED)
        if not who.may(roles.SESSION_SEE_ALL):
            query = query.where(DeskSession.owner == who.subject)
        for column, value in (
            (DeskSession.status, status),
            (DeskSession.meta["project"].astext, project),
            (DeskSession.meta["environment"].astext, environment),
        ):
            if value is not None:
                query = query.where(column == value)
        if owner is not None:  # who made it, or whom its metadata name
            query = query.where(or_(DeskSession.owner == owner, DeskSession.meta["owner"].astext == owner))
        with self._database.read() as session:
            rows, total = fetch(session, query.order_by(DeskSession.created_at.desc(), DeskSession.session_id), page)
            return _shown(session, rows), total

    def metadata(self, session_id: str, who: Principal) -> dict[str, Any]:
        with self._database.read() as session:
            return visible(session, session_id, who).meta

    def change_metadata(self, session_id: str, who: Principal, change: MetadataChange) -> dict[str, Any]:
        """What is given is put in place of what was, the rest stays. 400 when it would be too many fields."""
        with self._database.transaction() as session:
            row = locked(session, session_id)
            visible(session, session_id, who)
            merged = row.meta | change.given()
            if len(merged) > len(METADATA) + 20:
                raise invalid("body", "the session would have more than 20 fields of its own")
            row.meta = merged
            audit.record(session, "session", "metadata", resource=("session", session_id))
            return merged

    def errors(self, session_id: str, who: Principal) -> list[SessionError]:
        with self._database.read() as session:
            visible(session, session_id, who)
            query = select(SessionError).where(SessionError.session_id == session_id)
            return list(session.scalars(query.order_by(SessionError.occurred_at, SessionError.error_id)))

    def pipeline(self, session_id: str, who: Principal) -> dict[str, Any]:
        with self._database.read() as session:
            return stages.pipeline(session, visible(session, session_id, who))

    def stage(self, session_id: str, who: Principal, name: str) -> dict[str, Any]:
        with self._database.read() as session:
            return stages.one(session, visible(session, session_id, who), name)

    def statistics(self, session_id: str, who: Principal) -> dict[str, Any]:
        with self._database.read() as session:
            return statistics(session, visible(session, session_id, who))

    def delete(self, session_id: str, who: Principal) -> None:
        """409 while it is recorded. Its data key is destroyed with it; the ledger keeps its entry."""
        with self._database.transaction() as session:
            row = locked(session, session_id)
            visible(session, session_id, who)
            if row.status in WORKING:
                raise refused(row, "deleted")
            row.status = SessionStatus.DELETED
            row.password_sealed = None
            server_id = row.provisioning["server_id"] if row.provisioning["policy"] == AUTO else None
            self._keys.destroy(session, session_id)
            for chunk in session.scalars(select(SessionChunk).where(SessionChunk.session_id == session_id)):
                chunk.status = "deleted"
            audit.record(session, "session", "delete", resource=("session", session_id))
        self._store.remove_session(session_id)
        if server_id and self._provisioner:
            self._provisioner.release(server_id, row.owner)

    def rewrap(self) -> int:
        """Seal every password with the newest key; how many."""
        with self._database.transaction() as session:
            query = select(DeskSession).where(DeskSession.password_sealed.is_not(None)).with_for_update()
            rows = list(session.scalars(query))
            for row in rows:
                context = password_of(row.session_id)
                row.password_sealed = self._keyring.seal(
                    self._keyring.open(row.password_sealed or "", context), context
                )
        return len(rows)

    def _check_stores(self, body: SessionIn) -> None:
        for name, store in (("backup", self._store.backup), ("archive", self._store.archive)):
            if getattr(body.storage_config, f"{name}_enabled") and store is None:
                raise invalid(f"storage_config.{name}_enabled", f"this service has no {name} store")


def _desktop_size(row: DeskSession) -> str:
    """What is to be recorded, where a desktop may have that size."""
    width, height = size_of(row.recording_config["resolution"])
    return f"{max(width, 640)}x{max(height, 480)}"


def password_of(session_id: str) -> str:
    """What a session's password is sealed for."""
    return f"password of {session_id}"


def _shown(session: Session, rows: Collection[DeskSession]) -> list[dict[str, Any]]:
    query = select(Poot.session_id, Poot.poot_id).where(Poot.session_id.in_([row.session_id for row in rows]))
    poots: dict[str | None, list[str]] = {}
    for session_id, poot_id in session.execute(query.order_by(Poot.submitted_at, Poot.poot_id)):
        poots.setdefault(session_id, []).append(poot_id)
    return [
        {name: getattr(row, name) for name in FIELDS}
        | {
            "metadata": row.meta,
            "poot_references": poots.get(row.session_id, []),
            "poot_id": poots[row.session_id][-1] if row.session_id in poots else None,
        }
        for row in rows
    ]
