"""Chunks: listed, proven, read, exported (contract 5.1, 5.6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.core.database import Database
from labyard.desktops import audit
from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.errors import Refusal
from labyard.desktops.evidence import ledger as entries
from labyard.desktops.evidence import merkle, objects, proofs
from labyard.desktops.evidence.objects import BadObject, Key
from labyard.desktops.media import join
from labyard.desktops.models import DeskSession, SessionChunk, SessionStatus
from labyard.desktops.paging import Page, fetch
from labyard.desktops.roles import Principal
from labyard.desktops.service.data_keys import DataKeys, KeyDestroyed
from labyard.desktops.service.ledger import SqlLedger
from labyard.desktops.service.sessions.shared import refused, visible

LISTED = ("processed", "stored")


class Chunks:
    def __init__(self, database: Database, store: ChunkStore, keys: DataKeys, ledger: SqlLedger) -> None:
        self._database = database
        self._store = store
        self._keys = keys
        self._ledger = ledger

    def page(self, session_id: str, who: Principal, page: Page) -> tuple[list[dict[str, Any]], int]:
        """Committed chunks, by sequence."""
        with self._database.read() as session:
            visible(session, session_id, who)
            rows, total = fetch(session, _listed(session_id), page)
        return [shown(row) for row in rows], total

    def get(self, session_id: str, who: Principal, chunk_id: str) -> dict[str, Any]:
        with self._database.read() as session:
            visible(session, session_id, who)
            return shown(_found(session, session_id, chunk_id))

    def content(self, session_id: str, who: Principal, chunk_id: str) -> bytes:
        """The media of one chunk, decrypted. 500 when its file is missing or was altered: that is on the audit log."""
        with self._database.read() as session:
            visible(session, session_id, who)
            row = _found(session, session_id, chunk_id)
        media = self._media(row, self._key(session_id))
        audit.note(self._database, "session", "content", resource=("chunk", chunk_id))
        return media

    def export(self, session_id: str, who: Principal) -> Iterator[bytes]:
        """The whole recording as one video, without pauses and holes. 409 while it is recorded, or is empty."""
        with self._database.read() as session:
            session_row = visible(session, session_id, who)
            if session_row.status != SessionStatus.STOPPED:
                raise refused(session_row, "exported")
            rows = list(session.scalars(_listed(session_id)))
        if not rows:
            raise Refusal("SES_STATE", f"The session {session_id} has no chunks to export")
        key = self._key(session_id)
        # The first one is read here, so that a bad one is an error and not half a file.
        self._media(rows[0], key)
        audit.note(self._database, "session", "export", resource=("session", session_id))
        sizes = {(row.width, row.height) for row in rows}
        return join((self._media(row, key) for row in rows), sizes)

    def proof(self, session_id: str, who: Principal, chunk_id: str) -> proofs.Proof:
        """For `labyard-verify chunk`. 409 before the session is sealed."""
        with self._database.read() as session:
            row = visible(session, session_id, who)
            chunk = _found(session, session_id, chunk_id)
        manifest, included = self._anchored(row)
        index = [each["chunk_id"] for each in manifest["chunks"]].index(chunk.chunk_id)
        return proofs.chunk_proof(manifest, index, included["entry"], included["inclusion"], included["head"])

    def bundle(self, session_id: str, who: Principal) -> proofs.Proof:
        """For `labyard-verify session`. 409 before the session is sealed."""
        with self._database.read() as session:
            row = visible(session, session_id, who)
        manifest, included = self._anchored(row)
        return proofs.session_proof(manifest, included["entry"], included["inclusion"], included["head"])

    def stored(self, session_id: str, who: Principal, chunk_id: str) -> bytes:
        """The object as it lies in the store, encrypted: what proofs are of."""
        with self._database.read() as session:
            visible(session, session_id, who)
            row = _found(session, session_id, chunk_id)
        return self._object(row)

    def _anchored(self, row: DeskSession) -> tuple[proofs.Manifest, proofs.Proof]:
        entry = self._ledger.entry(entries.SESSION, row.session_id)
        if entry is None or row.manifest is None:
            raise refused(row, "proven")
        return row.manifest, self._ledger.inclusion(entry["block_height"])

    def _key(self, session_id: str) -> Key | None:
        try:
            return self._keys.of(session_id)
        except (KeyDestroyed, ValueError):
            raise self._altered(session_id, "its data key cannot be opened") from None

    def _media(self, row: SessionChunk, key: Key | None) -> bytes:
        try:
            return objects.unpack(self._object(row), key)[1]
        except BadObject as error:
            raise self._altered(row.chunk_id, str(error)) from None

    def _object(self, row: SessionChunk) -> bytes:
        try:
            data = self._store.read(row.chunk_id)
        except OSError as error:
            raise self._altered(row.chunk_id, f"its file cannot be read: {error.strerror}") from None
        if merkle.leaf_hash(data).hex() != row.merkle_hash:
            raise self._altered(row.chunk_id, "its file is not the one that was stored")
        return data

    def _altered(self, chunk_id: str, reason: str) -> Refusal:
        audit.note(
            self._database, "integrity", "read", resource=("chunk", chunk_id), result="failed", details={"why": reason}
        )
        return Refusal("INTERNAL", f"The chunk {chunk_id} cannot be read: it is missing or was altered")


def shown(row: SessionChunk) -> dict[str, Any]:
    columns = {column.key: getattr(row, column.key) for column in SessionChunk.__mapper__.column_attrs}
    ratio = row.size_bytes / row.compressed_size_bytes if row.compressed_size_bytes else 1.0
    return columns | {"compression_ratio": round(ratio, 4)}


def _listed(session_id: str) -> Any:
    return (
        select(SessionChunk)
        .where(SessionChunk.session_id == session_id, SessionChunk.status.in_(LISTED))
        .order_by(SessionChunk.sequence_number)
    )


def _found(session: Session, session_id: str, chunk_id: str) -> SessionChunk:
    row = session.get(SessionChunk, chunk_id)
    if row is None or row.session_id != session_id or row.status not in LISTED:
        raise Refusal("CHUNK_NOT_FOUND", f"The session {session_id} has no chunk {chunk_id[:64]}")
    return row
