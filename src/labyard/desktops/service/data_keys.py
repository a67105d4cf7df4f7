"""Data keys: one for each session, 256 bit, stored wrapped by a key-encryption key (contract 5.6)."""

from __future__ import annotations

import os
import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops.evidence.objects import Key
from labyard.desktops.keyring import Keyring
from labyard.desktops.models import DataKey

BYTES = 32


class KeyDestroyed(Exception):
    """The session's data key was destroyed with the session: nobody reads its chunks any more."""


class DataKeys:
    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def make(self, session: Session, session_id: str) -> Key:
        """A new key, with the caller's transaction; the one that is there, if there is one."""
        row = session.scalar(select(DataKey).where(DataKey.session_id == session_id))
        if row is not None:
            return self._open(row)
        key = Key(f"dk-{secrets.token_hex(8)}", os.urandom(BYTES))
        wrapped = self._keyring.seal(key.material, _context(session_id, key.key_id))
        session.add(DataKey(key_id=key.key_id, session_id=session_id, wrapped=wrapped))
        return key

    def of(self, session_id: str) -> Key | None:
        """None when the session is not encrypted. KeyDestroyed; ValueError when it was wrapped for something else."""
        with self._database.read() as session:
            row = session.scalar(select(DataKey).where(DataKey.session_id == session_id))
        return self._open(row) if row else None

    def destroy(self, session: Session, session_id: str) -> None:
        row = session.scalar(select(DataKey).where(DataKey.session_id == session_id).with_for_update())
        if row is not None and row.wrapped is not None:
            row.wrapped, row.destroyed_at = None, now()

    def rewrap(self) -> int:
        """Wrap every key with the newest key-encryption key; how many. Chunks stay as they are."""
        count = 0
        with self._database.transaction() as session:
            for row in session.scalars(select(DataKey).where(DataKey.wrapped.is_not(None)).with_for_update()):
                key = self._open(row)
                row.wrapped = self._keyring.seal(key.material, _context(row.session_id, row.key_id))
                count += 1
        return count

    def _open(self, row: DataKey) -> Key:
        if row.wrapped is None:
            raise KeyDestroyed(f"the data key of {row.session_id} was destroyed")
        return Key(row.key_id, self._keyring.open(row.wrapped, _context(row.session_id, row.key_id)))


def _context(session_id: str, key_id: str) -> str:
    return f"data key {key_id} of {session_id}"
