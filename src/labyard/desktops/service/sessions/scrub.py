"""Reads stored chunks again, now and then: what rots on a disk is found before somebody needs it (contract 8.3, B)."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import or_, select, update

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops import audit
from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.evidence import merkle
from labyard.desktops.models import SessionChunk
from labyard.desktops.service.sessions import stages

log = structlog.get_logger(__name__)

EVERY = timedelta(days=1)
AT_ONCE = 500  # chunks in one go: about as many seconds of recordings


class Scrub:
    def __init__(self, database: Database, store: ChunkStore) -> None:
        self._database = database
        self._store = store

    def sweep(self) -> int:
        """Check those whose turn it is, the longest unchecked first; how many are bad. Each is told once a day."""
        before = now() - EVERY
        due = or_(SessionChunk.checked_at < before, SessionChunk.checked_at.is_(None))
        query = (
            select(SessionChunk)
            .where(SessionChunk.status == "stored", SessionChunk.created_at < before, due)
            .order_by(SessionChunk.checked_at.asc().nulls_first(), SessionChunk.created_at)
            .limit(AT_ONCE)
        )
        with self._database.read() as session:
            rows = list(session.scalars(query))
        return sum(not self._check(row) for row in rows)

    def _check(self, row: SessionChunk) -> bool:
        problem = self._problem(row)
        with self._database.transaction() as session:
            session.execute(update(SessionChunk).where(SessionChunk.chunk_id == row.chunk_id).values(checked_at=now()))
            if problem:
                log.error("a stored chunk is bad", chunk=row.chunk_id, why=problem)
                stages.add_error(session, row.session_id, "INTERNAL", f"{row.chunk_id}: {problem}", stages.STORAGE)
                audit.record(
                    session, "integrity", "check", resource=("chunk", row.chunk_id), result="failed",
                    details={"why": problem},
                )  # fmt: skip
        return problem is None

    def _problem(self, row: SessionChunk) -> str | None:
        try:
            data = self._store.read(row.chunk_id)
        except OSError as error:
            return f"its file cannot be read: {error.strerror}"
        if merkle.leaf_hash(data).hex() != row.merkle_hash:
            return "its file is not the one that was stored"
        return None
