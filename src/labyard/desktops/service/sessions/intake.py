"""From a recorder's segments to committed chunks: compress, encrypt, hash, write, commit (contract 5.6).

A segment stays on the node until its chunk is committed. So nothing is lost when this service, its database or its disk
is away: the segments wait, encrypted, where they are.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops.adapters.agent import AgentClient, Segment
from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.evidence import merkle, objects
from labyard.desktops.evidence.compression import Compression
from labyard.desktops.evidence.objects import Key, Slice
from labyard.desktops.models import SessionChunk
from labyard.desktops.moments import as_text, from_text
from labyard.desktops.service.sessions import stages
from labyard.desktops.service.sessions.shared import locked
from labyard.desktops.service.sessions.stages import MAX_RETRIES, PROCESSING, RECORDING, STORAGE, Work, measured

log = structlog.get_logger(__name__)

T = TypeVar("T")

STORED = "stored"
LOCK = text("SELECT pg_advisory_xact_lock(20257704, hashtext(:session_id))")
PAUSE = 0.1  # seconds before a step is tried again
FULL = (errno.ENOSPC, errno.EDQUOT)


class NotCommitted(Exception):
    """A segment could not become a chunk. `code` is the contract's."""

    def __init__(self, stage: str, code: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.code = code


@dataclass(frozen=True)
class Plan:
    """How the chunks of one session are made. Sizes are bytes; `key` None: not encrypted."""

    session_id: str
    compression: Compression
    key: Key | None
    backed_up: bool
    most_bytes: int


@dataclass(frozen=True)
class Made:
    data: bytes
    work: Work


class Intake:
    """One session's. Called by one thread at a time."""

    def __init__(self, database: Database, store: ChunkStore, plan: Plan, reserve: int) -> None:
        self._database = database
        self._store = store
        self._plan = plan
        self._reserve = reserve
        self._last: int | None = None
        self._stored = 0
        # Why the session must be sealed: `max_size` or `storage_full`.
        self.full: str | None = None

    def pull(self, agent: AgentClient) -> int:
        """Commit all segments that there are; how many. AgentError; SQLAlchemyError when the database is away."""
        if self._last is None:
            self._last, self._stored = self._committed()
        count = 0
        for segment in agent.segments(self._plan.session_id, self._last):
            try:
                self._commit(segment)
            except NotCommitted as failure:
                log.error("a segment is lost", session=self._plan.session_id, number=segment.sequence, why=str(failure))
                self._give_up(segment, failure)
                if failure.code == "STORAGE_FULL":
                    self.full = "storage_full"
            # Committed, or given up: in either case it leaves the queue.
            self._last = segment.sequence
            agent.segments_ack(self._plan.session_id, segment.sequence)
            count += 1
        return count

    def _commit(self, segment: Segment) -> None:
        chunk_id = objects.chunk_id(self._plan.session_id, segment.sequence)
        for attempt in range(1, MAX_RETRIES + 1):
            made = self._retried(PROCESSING, lambda: self._make(segment))
            try:
                with self._database.transaction() as session:
                    self._store_once(session, chunk_id, segment, made)
                return
            except IntegrityError as error:
                # The nonce was used before with this key: never twice, so the chunk is encrypted anew.
                log.warning("a chunk was refused", chunk=chunk_id, attempt=attempt, error=str(error.orig))
        raise NotCommitted(STORAGE, "INTERNAL", "the database refused the chunk")

    def _store_once(self, session: Session, chunk_id: str, segment: Segment, made: Made) -> None:
        """File and row. Whoever else has the same segment waits meanwhile, and leaves both as they are."""
        session.execute(LOCK, {"session_id": self._plan.session_id})
        if session.get(SessionChunk, chunk_id) is not None:
            return
        with measured() as work:
            self._retried(STORAGE, lambda: self._write(chunk_id, made.data))
        work.memory_bytes = len(made.data)
        self._add(session, chunk_id, segment, made, work)
        self._stored += len(made.data)
        if self._stored >= self._plan.most_bytes:
            self.full = "max_size"

    def _make(self, segment: Segment) -> Made:
        with measured() as work:
            piece = Slice(
                session_id=self._plan.session_id,
                sequence_number=segment.sequence,
                started_at=segment.started_at,
                duration_ms=segment.duration_ms,
                width=segment.width,
                height=segment.height,
                frame_count=segment.frame_count,
            )
            data = objects.pack(piece, segment.data, self._plan.compression, self._plan.key)
        work.memory_bytes = len(segment.data) + len(data)
        return Made(data, work)

    def _write(self, chunk_id: str, data: bytes) -> None:
        if self._store.free_bytes() - len(data) < self._reserve:
            self.full = "storage_full"  # the reserve is there to end in order
        self._store.write(chunk_id, data, self._plan.backed_up)

    def _add(self, session: Session, chunk_id: str, segment: Segment, made: Made, work: Work) -> None:
        header = objects.read_header(made.data)
        session.add(
            SessionChunk(
                chunk_id=chunk_id,
                session_id=self._plan.session_id,
                sequence_number=segment.sequence,
                status=STORED,
                timestamp=from_text(segment.started_at),
                size_bytes=len(segment.data),
                compressed_size_bytes=objects.payload_bytes(made.data),
                stored_size_bytes=len(made.data),
                duration_seconds=segment.duration_ms / 1000,
                frame_count=segment.frame_count,
                width=segment.width,
                height=segment.height,
                merkle_hash=merkle.leaf_hash(made.data).hex(),
                encryption_key_id=header.key_id,
                nonce=header.nonce,
                processing_time_ms=made.work.time_ms + work.time_ms,
                processed_at=now(),
            )
        )
        session.flush()
        works = {RECORDING: Work(time_ms=segment.duration_ms), PROCESSING: made.work, STORAGE: work}
        stages.done(session, self._plan.session_id, works)

    def _retried(self, stage: str, step: Callable[[], T]) -> T:
        """Three attempts. NotCommitted with the last one's reason; only a full disk is STORAGE_FULL."""
        for attempt in range(1, MAX_RETRIES + 1):
            try:
                return step()
            except SQLAlchemyError:
                raise
            except Exception as error:
                log.warning(
                    "a step failed", session=self._plan.session_id, stage=stage, attempt=attempt, error=str(error)
                )
                if attempt == MAX_RETRIES:
                    full = isinstance(error, OSError) and error.errno in FULL
                    reason = str(error) or type(error).__name__
                    raise NotCommitted(stage, "STORAGE_FULL" if full else "INTERNAL", reason) from error
                time.sleep(PAUSE)
        raise AssertionError("no attempt")

    def _give_up(self, segment: Segment, failure: NotCommitted) -> None:
        """The session says what it lost."""
        ended = from_text(segment.started_at) + timedelta(milliseconds=segment.duration_ms)
        gap = {"from": segment.started_at, "to": as_text(ended), "reason": failure.code.lower()}
        with self._database.transaction() as session:
            row = locked(session, self._plan.session_id)
            stages.failed(session, row.session_id, failure.stage, failure.code, str(failure)[:500], MAX_RETRIES)
            row.gaps = [*row.gaps, gap]

    def _committed(self) -> tuple[int, int]:
        """The number of the newest chunk, and the bytes of all. Those before it are committed, or on record as lost."""
        with self._database.read() as session:
            newest, stored = session.execute(
                select(func.max(SessionChunk.sequence_number), func.sum(SessionChunk.stored_size_bytes)).where(
                    SessionChunk.session_id == self._plan.session_id
                )
            ).one()
        return int(newest or 0), int(stored or 0)
