"""Idempotency keys: the same key, route, caller and body within 24 h gets the first answer (contract section 3)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.dialects.postgresql import insert

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops.errors import Refusal
from labyard.desktops.models import IdempotencyKey

KEPT = timedelta(hours=24)
# The longest that a first call may take. After it the process that did it is taken for dead.
LONGEST = timedelta(seconds=60)
POLL = 0.05  # seconds


@dataclass(frozen=True)
class Stored:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Idempotency:
    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, subject: str, route: str, key: str, body_sha256: str) -> int | Stored:
        """The first answer; or, for who is first, an id to `finish` or `forget` with. Waits while the first is at work.

        Refusal IDEMPOTENCY_MISMATCH when the key was used with another body.
        """
        until = time.monotonic() + LONGEST.total_seconds()
        while True:
            found = self._try(subject, route, key, body_sha256)
            if found is not None:
                return found
            if time.monotonic() > until:
                raise Refusal("IDEMPOTENCY_MISMATCH", "The first call with this Idempotency-Key is still at work")
            time.sleep(POLL)

    def finish(self, number: int, answer: Stored) -> None:
        with self._database.transaction() as session:
            session.execute(
                update(IdempotencyKey)
                .where(IdempotencyKey.id == number)
                .values(status=answer.status, headers=dict(answer.headers), body=answer.body)
            )

    def forget(self, number: int) -> None:
        with self._database.transaction() as session:
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.id == number))

    def tidy(self) -> None:
        with self._database.transaction() as session:
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at <= now() - KEPT))

    def _try(self, subject: str, route: str, key: str, body_sha256: str) -> int | Stored | None:
        moment = now()
        same: dict[str, Any] = {"subject": subject, "route": route, "key": key}
        with self._database.transaction() as session:
            fresh = insert(IdempotencyKey).values(**same, body_sha256=body_sha256, created_at=moment)
            number = session.scalar(fresh.on_conflict_do_nothing().returning(IdempotencyKey.id))
            if number is not None:
                return int(number)
            row = session.query(IdempotencyKey).filter_by(**same).with_for_update().one_or_none()
            if row is None:  # the first call has just given up
                return None
            dead = row.status is None and row.created_at <= moment - LONGEST
            if dead or row.created_at <= moment - KEPT:
                row.status, row.body_sha256, row.created_at = None, body_sha256, moment
                return row.id
            if row.body_sha256 != body_sha256:
                raise Refusal("IDEMPOTENCY_MISMATCH", "This Idempotency-Key was used with another body")
            if row.status is None:
                return None
            return Stored(row.status, row.headers or {}, row.body or b"")
