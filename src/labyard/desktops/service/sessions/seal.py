"""The end of a recording: manifest, root, ledger entry, all in one transaction (contract 5.8)."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.desktops import audit
from labyard.desktops.adapters.ledger import Ledger
from labyard.desktops.evidence import ledger as entries
from labyard.desktops.evidence import merkle, proofs
from labyard.desktops.models import DeskSession, SessionChunk, SessionStatus
from labyard.desktops.moments import as_text
from labyard.desktops.service.sessions import stages
from labyard.desktops.service.sessions.stages import ANCHORING, measured
from labyard.desktops.service.sessions.statistics import statistics

CODEC = "h264"
CONTAINER = "mp4"


def seal(session: Session, row: DeskSession, ledger: Ledger, ended_at: datetime) -> None:
    """Make the session stopped and anchored. Exactly one entry, however often it is tried."""
    with measured() as work:
        chunks = list(
            session.scalars(
                select(SessionChunk)
                .where(SessionChunk.session_id == row.session_id)
                .order_by(SessionChunk.sequence_number)
            )
        )
        row.stopped_at = ended_at
        manifest = make_manifest(row, chunks)
        anchored = ledger.append(
            session,
            entries.SESSION,
            row.session_id,
            manifest["merkle_root"],
            len(chunks),
            manifest["total_size_bytes"],
            proofs.manifest_sha256(manifest),
        )
        row.manifest = manifest
        row.status = SessionStatus.STOPPED
        row.anchoring_status = "anchored"
    stages.done(session, row.session_id, {ANCHORING: work})
    stages.enter(session, row.session_id, stages.STOPPED)
    session.flush()
    # As they are now: a server's samples go with the server.
    row.final_statistics = statistics(session, row)
    audit.record(
        session,
        "session",
        "stop",
        resource=("session", row.session_id),
        details={"reason": row.stop_reason, "block_height": anchored.block_height},
    )


def make_manifest(row: DeskSession, chunks: list[SessionChunk]) -> proofs.Manifest:
    """What the ledger entry stands for. Whole numbers only, so that it is the same text everywhere."""
    leaves = [bytes.fromhex(chunk.merkle_hash) for chunk in chunks]
    listed: list[dict[str, Any]] = [
        {
            "chunk_id": chunk.chunk_id,
            "sequence_number": chunk.sequence_number,
            "merkle_hash": chunk.merkle_hash,
            "started_at": as_text(chunk.timestamp),
            "duration_ms": round(chunk.duration_seconds * 1000),
            "frame_count": chunk.frame_count,
            "width": chunk.width,
            "height": chunk.height,
            "size_bytes": chunk.size_bytes,
            "stored_size_bytes": chunk.stored_size_bytes,
        }
        for chunk in chunks
    ]
    return {
        "version": proofs.VERSION,
        "session_id": row.session_id,
        "node_id": row.node_id,
        "binding": row.binding,
        "recorder": f"labyard {version('labyard')}",
        "codec": CODEC,
        "container": CONTAINER,
        "started_at": as_text(row.started_at) if row.started_at else None,
        "stopped_at": as_text(row.stopped_at) if row.stopped_at else None,
        "stop_reason": row.stop_reason,
        "gaps": row.gaps,
        "pauses": row.pauses,
        "chunks": listed,
        "total_size_bytes": sum(chunk.stored_size_bytes for chunk in chunks),
        "merkle_root": merkle.root(leaves).hex(),
    }


def anchoring(session: Session, row: DeskSession, ledger: Ledger) -> dict[str, Any]:
    found = ledger.find(session, entries.SESSION, row.session_id)
    return {
        "session_id": row.session_id,
        "status": row.anchoring_status,
        "transaction_hash": found.transaction_hash if found else None,
        "block_height": found.block_height if found else None,
        "merkle_root": found.merkle_root if found else None,
        "chunk_count": found.chunk_count if found else None,
        "anchored_at": found.timestamp if found else None,
        "ledger_key_id": found.ledger_key_id if found else None,
    }
