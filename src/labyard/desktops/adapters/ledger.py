"""What the service anchors in (contract 5.8): append-only, hash-chained, signed, with proofs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Anchored:
    """What an entry is known by. Hashes are lower-case hex."""

    block_height: int
    transaction_hash: str
    merkle_root: str
    chunk_count: int
    timestamp: str
    ledger_key_id: str


class Ledger(Protocol):
    """One writer at a time, over all processes."""

    def append(
        self,
        session: Session,
        kind: str,
        subject_id: str,
        merkle_root: str,
        chunk_count: int,
        total_size_bytes: int,
        manifest_sha256: str,
    ) -> Anchored:
        """Add an entry in the caller's transaction; the one that is there for (kind, subject_id), if there is one."""

    def find(self, session: Session, kind: str, subject_id: str) -> Anchored | None: ...

    def head(self) -> Mapping[str, Any]:
        """The newest signed tree head."""

    def entries(self, start: int, limit: int) -> Sequence[Mapping[str, Any]]: ...

    def inclusion(self, block_height: int) -> Mapping[str, Any]: ...

    def consistency(self, first: int, second: int) -> Mapping[str, Any]: ...

    def verify(self) -> Mapping[str, Any]:
        """The whole chain: {valid, entries, first_bad}. Changes nothing."""

    def ping(self) -> None:
        """For /ready: the key is there and the newest entry is its own."""
