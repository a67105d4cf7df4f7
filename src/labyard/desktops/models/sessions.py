"""Sessions, their chunks and keys, and the ledger (contract section 5)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from labyard.core.clock import now
from labyard.desktops.models.base import Base, Key, Versioned


class SessionStatus(StrEnum):
    CREATED = "created"
    STARTING = "starting"
    RECORDING = "recording"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    DELETED = "deleted"


class DeskSession(Versioned, Base):
    """A recorded session. Not `Session`: that is SQLAlchemy's."""

    __tablename__ = "sessions"

    session_id: Mapped[Key]
    owner: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    status: Mapped[str] = mapped_column(default=SessionStatus.CREATED, index=True)
    # As asked for, without the password.
    rdp_config: Mapped[dict[str, Any]]
    password_sealed: Mapped[str | None]
    recording_config: Mapped[dict[str, Any]]
    storage_config: Mapped[dict[str, Any]]
    meta: Mapped[dict[str, Any]] = mapped_column("metadata")
    # policy, state, server_id
    provisioning: Mapped[dict[str, Any]]
    # kind, server_id, host, port, display: what is really recorded
    binding: Mapped[dict[str, Any] | None]
    server_id: Mapped[str | None] = mapped_column(ForeignKey("rdp_servers.server_id", ondelete="SET NULL"), index=True)
    node_id: Mapped[str | None] = mapped_column(ForeignKey("nodes.node_id", ondelete="SET NULL"), index=True)
    # When the first frame was captured, and the last.
    started_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    stop_reason: Mapped[str | None]
    gaps: Mapped[list[Any]] = mapped_column(default=list)
    pauses: Mapped[list[Any]] = mapped_column(default=list)
    audio: Mapped[dict[str, Any] | None]
    frames: Mapped[int] = mapped_column(BigInteger, default=0)
    dropped_frames: Mapped[int] = mapped_column(BigInteger, default=0)
    # Its node or its server does not answer.
    degraded: Mapped[bool] = mapped_column(default=False)
    anchoring_status: Mapped[str] = mapped_column(default="pending")
    manifest: Mapped[dict[str, Any] | None]
    final_statistics: Mapped[dict[str, Any] | None]


class SessionError(Base):
    __tablename__ = "session_errors"

    error_id: Mapped[Key]
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.session_id", ondelete="CASCADE"), index=True)
    code: Mapped[str]
    message: Mapped[str]
    stage: Mapped[str | None]
    occurred_at: Mapped[datetime] = mapped_column(default=now)
    recovered: Mapped[bool] = mapped_column(default=False)


class SessionStage(Base):
    """One of the four stages of a session's pipeline, with sums over what it has worked on."""

    __tablename__ = "session_stages"

    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True)
    stage_name: Mapped[Key]
    status: Mapped[str] = mapped_column(default="inactive")
    last_processed: Mapped[datetime | None]
    items_processed: Mapped[int] = mapped_column(BigInteger, default=0)
    errors_count: Mapped[int] = mapped_column(default=0)
    processing_time_ms: Mapped[float] = mapped_column(default=0.0)
    cpu_time_ms: Mapped[float] = mapped_column(default=0.0)
    # The most that an item took.
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    retry_count: Mapped[int] = mapped_column(default=0)
    error_message: Mapped[str | None]


class DataKey(Base):
    """A session's data key, wrapped by a key-encryption key. `wrapped` is null once it is destroyed."""

    __tablename__ = "data_keys"

    key_id: Mapped[Key]
    session_id: Mapped[str] = mapped_column(unique=True)
    wrapped: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    destroyed_at: Mapped[datetime | None]


class SessionChunk(Base):
    __tablename__ = "session_chunks"
    __table_args__ = (
        UniqueConstraint("session_id", "sequence_number"),
        Index(
            "uq_session_chunks_nonce",
            "encryption_key_id",
            "nonce",
            unique=True,
            postgresql_where=text("encryption_key_id IS NOT NULL"),
        ),
    )

    chunk_id: Mapped[Key]
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.session_id", ondelete="CASCADE"))
    sequence_number: Mapped[int]
    status: Mapped[str]
    timestamp: Mapped[datetime]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    compressed_size_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_size_bytes: Mapped[int] = mapped_column(BigInteger)
    duration_seconds: Mapped[float]
    frame_count: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    merkle_hash: Mapped[str]
    encryption_key_id: Mapped[str | None]
    nonce: Mapped[str | None]
    processing_time_ms: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(default=now)
    processed_at: Mapped[datetime | None]
    # When its file was read again last, and compared with its hash.
    checked_at: Mapped[datetime | None] = mapped_column(index=True)


class LedgerEntry(Base):
    """Append-only: the database refuses UPDATE and DELETE. Signature and hash are lower-case hex."""

    __tablename__ = "ledger_entries"
    __table_args__ = (UniqueConstraint("kind", "subject_id"),)

    block_height: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    transaction_hash: Mapped[str] = mapped_column(unique=True)
    prev_hash: Mapped[str]
    timestamp: Mapped[str]
    kind: Mapped[str]
    subject_id: Mapped[str]
    merkle_root: Mapped[str]
    chunk_count: Mapped[int]
    total_size_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest_sha256: Mapped[str]
    ledger_key_id: Mapped[str]
    entry_version: Mapped[int]
    signature: Mapped[str]


class LedgerHead(Base):
    """A signed tree head over the first `tree_size` entries."""

    __tablename__ = "ledger_heads"

    tree_size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    root_hash: Mapped[str]
    timestamp: Mapped[str]
    ledger_key_id: Mapped[str]
    signature: Mapped[str]
