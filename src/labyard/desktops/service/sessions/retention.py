"""What is kept no longer: objects past their retention go to the archive, or for good (contract 5.2)."""

from __future__ import annotations

from sqlalchemy import Integer, func, select, text, update

from labyard.core.database import Database
from labyard.desktops import audit
from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.models import DeskSession, SessionChunk, SessionStatus
from labyard.desktops.service.data_keys import DataKeys


class Retention:
    def __init__(self, database: Database, store: ChunkStore, keys: DataKeys) -> None:
        self._database = database
        self._store = store
        self._keys = keys

    def sweep(self) -> int:
        """Every session whose time is over; how many. The session, its statistics and its ledger entry stay."""
        days = DeskSession.storage_config["retention_days"].astext.cast(Integer)
        over = DeskSession.stopped_at + days * text("INTERVAL '1 day'") < func.now()
        there = (
            select(SessionChunk.chunk_id)
            .where(SessionChunk.session_id == DeskSession.session_id, SessionChunk.status == "stored")
            .exists()
        )
        query = select(DeskSession).where(DeskSession.status == SessionStatus.STOPPED, over, there)
        with self._database.read() as session:
            rows = list(session.scalars(query))
        for row in rows:
            self._expire(row)
        return len(rows)

    def _expire(self, row: DeskSession) -> None:
        keep = row.storage_config["archive_enabled"] and self._store.archive is not None
        if keep:
            self._store.archive_session(row.session_id)
        with self._database.transaction() as session:
            # "processed" is what is listed, and read from the archive; "deleted" is neither.
            becomes = "processed" if keep else "deleted"
            session.execute(
                update(SessionChunk)
                .where(SessionChunk.session_id == row.session_id, SessionChunk.status == "stored")
                .values(status=becomes)
            )
            if not keep:
                self._keys.destroy(session, row.session_id)
            audit.record(session, "session", "archive" if keep else "expire", resource=("session", row.session_id))
        if not keep:
            self._store.remove_session(row.session_id)
