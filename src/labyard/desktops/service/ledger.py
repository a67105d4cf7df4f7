"""The ledger in the database and its mirror in a file (contract 5.8). This is `adapters.ledger.Ledger`."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import rfc8785
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from labyard.core.database import Database
from labyard.desktops.adapters.ledger import Anchored
from labyard.desktops.advisory import LEDGER, hold
from labyard.desktops.errors import Refusal, invalid
from labyard.desktops.evidence import ledger, merkle, proofs
from labyard.desktops.evidence.ledger import BadEvidence, Entry, Head
from labyard.desktops.keyring import KeyFileError, read_private, write_private
from labyard.desktops.models import LedgerEntry, LedgerHead
from labyard.desktops.moments import now_text

log = structlog.get_logger(__name__)

# One writer at a time, over all processes: held from the reading of the last entry to the commit of the next.
LOCK = hold(LEDGER)


class SqlLedger:
    """The private key is made at the first start. `mirror` is a file with one entry a line, whole ones only."""

    def __init__(self, database: Database, key_file: Path, mirror: Path) -> None:
        self._database = database
        self._mirror = mirror
        self._signer = ledger.Signer(_private_key(key_file))
        self._lock = threading.Lock()
        self._leaves: list[bytes] = []  # of committed entries, from the genesis on: they never change

    @property
    def public_key(self) -> str:
        """PEM: all that a verifier needs."""
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self._signer.public.public_bytes(encoding, form).decode()

    def start(self) -> None:
        """The genesis is there, and the mirror has every entry."""
        with self._database.transaction() as session:
            session.execute(LOCK)
            if session.scalar(select(func.count()).select_from(LedgerEntry)) == 0:
                self._add(session, self._signer.genesis(now_text()))
        self._write_mirror()

    def reset(self) -> None:
        """After its rows are gone: it begins anew."""
        with self._lock:
            self._leaves.clear()
            self._mirror.unlink(missing_ok=True)
        self.start()

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
        session.execute(LOCK)
        if found := self.find(session, kind, subject_id):
            return found
        last = session.scalar(select(LedgerEntry).order_by(LedgerEntry.block_height.desc()).limit(1))
        if last is None:
            raise RuntimeError("the ledger has no genesis")
        entry = self._signer.entry(
            _plain(last),
            timestamp=now_text(),
            kind=kind,
            subject_id=subject_id,
            merkle_root=merkle_root,
            chunk_count=chunk_count,
            total_size_bytes=total_size_bytes,
            manifest_sha256=manifest_sha256,
        )
        row = self._add(session, entry)
        event.listen(session, "after_commit", lambda _: self._write_mirror(), once=True)
        return _anchored(row)

    def find(self, session: Session, kind: str, subject_id: str) -> Anchored | None:
        row = session.scalar(select(LedgerEntry).where(LedgerEntry.kind == kind, LedgerEntry.subject_id == subject_id))
        return _anchored(row) if row else None

    def entry(self, kind: str, subject_id: str) -> Entry | None:
        """The whole entry, as it is signed."""
        with self._database.read() as session:
            row = session.scalar(
                select(LedgerEntry).where(LedgerEntry.kind == kind, LedgerEntry.subject_id == subject_id)
            )
        return _plain(row) if row else None

    def head(self) -> Head:
        with self._database.read() as session:
            row = session.scalar(select(LedgerHead).order_by(LedgerHead.tree_size.desc()).limit(1))
        if row is None:
            raise RuntimeError("the ledger has no genesis")
        return _plain_head(row)

    def entries(self, start: int, limit: int) -> list[Entry]:
        query = select(LedgerEntry).where(LedgerEntry.block_height >= start).order_by(LedgerEntry.block_height)
        with self._database.read() as session:
            return [_plain(row) for row in session.scalars(query.limit(limit))]

    def inclusion(self, block_height: int) -> proofs.Proof:
        """{entry, inclusion, head}: that the entry is under the newest head. 404 when there is none."""
        head = self.head()
        if not 0 <= block_height < head["tree_size"]:
            raise Refusal("NOT_FOUND", f"The ledger has no entry {block_height}")
        leaves = self._leaves_of(head["tree_size"])
        (entry,) = self.entries(block_height, 1)
        return {"entry": entry, "inclusion": proofs.inclusion(leaves, block_height), "head": head}

    def consistency(self, first: int, second: int) -> dict[str, Any]:
        """That the tree over the first `first` entries is the beginning of that over `second`. 400 for other sizes."""
        size = self.head()["tree_size"]
        for name, value in (("to", second), ("from", first)):
            if not 0 < value <= size:
                raise invalid(name, f"must be 1 to {size}, the number of entries")
        if first > second:
            raise invalid("from", "must not be above to")
        leaves = self._leaves_of(second)
        return {
            "from": first,
            "to": second,
            "from_root": merkle.root(leaves[:first]).hex(),
            "to_root": merkle.root(leaves).hex(),
            "path": [step.hex() for step in merkle.consistency_proof(leaves, first)],
        }

    def verify(self) -> dict[str, Any]:
        """The whole chain, its newest head and its mirror: {valid, entries, first_bad, reason}. Changes nothing."""
        head = self.head()
        entries = self.entries(0, head["tree_size"])
        try:
            ledger.check_chain(entries, self._signer.public)
            ledger.check_head(head, self._signer.public)
            root = merkle.root([ledger.entry_leaf(entry) for entry in entries])
            if (len(entries), root.hex()) != (head["tree_size"], head["root_hash"]):
                raise BadEvidence("head", "is of other entries")
            mirrored = self._mirror.read_bytes().splitlines()
            for entry, line in zip(entries, mirrored, strict=False):
                if rfc8785.dumps(entry) != line:
                    raise BadEvidence(f"entry {entry['block_height']}", "is another one in the mirror")
            if len(mirrored) < len(entries):
                raise BadEvidence(f"entry {len(mirrored)}", "is missing in the mirror")
        except BadEvidence as bad:
            return {"valid": False, "entries": len(entries), "first_bad": bad.item, "reason": bad.reason}
        return {"valid": True, "entries": len(entries), "first_bad": None, "reason": None}

    def ping(self) -> None:
        """For /ready: the newest entry is signed with our key. BadEvidence when it is not."""
        newest = self.entries(self.head()["tree_size"] - 1, 1)[0]
        ledger.check_entry(newest, self._signer.public)

    def _add(self, session: Session, entry: Entry) -> LedgerEntry:
        """Entry and head. The caller holds the lock, so what is committed is all there is."""
        height = entry["block_height"]
        leaves = [*self._leaves_of(height, session), ledger.entry_leaf(entry)]
        head = self._signer.head(leaves, entry["timestamp"])
        row = LedgerEntry(entry_version=entry["version"], **{k: v for k, v in entry.items() if k != "version"})
        session.add(row)
        session.add(LedgerHead(**{k: v for k, v in head.items() if k != "version"}))
        session.flush()
        return row

    def _leaves_of(self, size: int, session: Session | None = None) -> list[bytes]:
        """Leaf hashes of the first `size` entries, which are committed."""
        with self._lock:
            if len(self._leaves) < size:
                query = (
                    select(LedgerEntry)
                    .where(LedgerEntry.block_height >= len(self._leaves), LedgerEntry.block_height < size)
                    .order_by(LedgerEntry.block_height)
                )
                if session is not None:
                    rows = list(session.scalars(query))
                else:
                    with self._database.read() as own:
                        rows = list(own.scalars(query))
                self._leaves += [ledger.entry_leaf(_plain(row)) for row in rows]
            return self._leaves[:size]

    def _write_mirror(self) -> None:
        """Bring the mirror up to the database. A line that was cut off by a crash is written again."""
        try:
            with self._lock, self._database.read() as session:
                self._mirror.touch(mode=0o600)
                whole = self._mirror.read_bytes()
                whole = whole[: whole.rfind(b"\n") + 1]
                query = select(LedgerEntry).where(LedgerEntry.block_height >= whole.count(b"\n"))
                rows = session.scalars(query.order_by(LedgerEntry.block_height))
                lines = b"".join(rfc8785.dumps(_plain(row)) + b"\n" for row in rows)
                with self._mirror.open("r+b") as file:
                    file.truncate(len(whole))
                    file.seek(0, 2)
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
        except Exception:
            # The database has the entry. The next one brings the mirror up to it.
            log.exception("the ledger's mirror is behind")


def _private_key(path: Path) -> Ed25519PrivateKey:
    content = read_private(path)
    if content is None:
        fresh = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with suppress(FileExistsError):  # another process was quicker
            write_private(path, fresh)
        content = read_private(path) or b""
    try:
        key = serialization.load_pem_private_key(content, None)
    except ValueError:
        raise KeyFileError(f"{path} is no key file of this service") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a key of another kind than Ed25519")
    return key


def _plain(row: LedgerEntry) -> Entry:
    entry = {name: getattr(row, name) for name in ledger.ENTRY_FIELDS if name != "version"}
    return {"version": row.entry_version, **entry}


def _plain_head(row: LedgerHead) -> Head:
    head = {name: getattr(row, name) for name in ledger.HEAD_FIELDS if name != "version"}
    return {"version": ledger.VERSION, **head}


def _anchored(row: LedgerEntry) -> Anchored:
    return Anchored(
        block_height=row.block_height,
        transaction_hash=row.transaction_hash,
        merkle_root=row.merkle_root,
        chunk_count=row.chunk_count,
        timestamp=row.timestamp,
        ledger_key_id=row.ledger_key_id,
    )
