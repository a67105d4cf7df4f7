"""PoOT: submitted and looked up (contract 8.1 and 8.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops import audit, names
from labyard.desktops.errors import Refusal, invalid
from labyard.desktops.models import (
    AccountEntry,
    Agent,
    DeskSession,
    Node,
    OperationalRecord,
    Payout,
    Poot,
    PootNonce,
    PootStatus,
    SessionStatus,
)
from labyard.desktops.paging import Page, fetch
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.poot import PootIn
from labyard.desktops.service.nodes import reputation_of
from labyard.desktops.service.reputation import START, penalised
from labyard.desktops.service.shared import Shared

OLDEST = timedelta(hours=24)
AHEAD = timedelta(minutes=5)
NONCE_KEPT = 2 * (OLDEST + AHEAD)
UNVALIDATED = timedelta(hours=24)
KEPT, PAYOUT_KEPT = timedelta(days=366), timedelta(days=7 * 366)
UNSIGNED, MISMATCH = "unsigned", "session_node_mismatch"


class Poots:
    def __init__(self, shared: Shared) -> None:
        self._database = shared.database
        self._settings = shared.settings

    # Submitting

    def submit(self, body: PootIn, who: Principal) -> Poot:
        """400 for a stale or future stamp, an unknown session or a wrong signature; 409 for a nonce used before."""
        moment = now()
        self._check_fresh(body.at, moment)
        digest = hashlib.sha256(body.output_data.encode()).hexdigest()
        try:
            with self._database.transaction() as session:
                return self._submit(session, body, digest, who, moment)
        except Refusal as refusal:
            if who.node_id is not None and refusal.code in ("POOT_REPLAY", "VALIDATION_FAILED"):
                self._penalise(who.node_id, refusal, moment)
            raise

    def _submit(self, session: Session, body: PootIn, digest: str, who: Principal, moment: datetime) -> Poot:
        node = find_node(session, body.node_id)
        subject = node.node_id if node else body.node_id
        if who.node_id is not None and who.node_id != subject:
            raise Refusal("AUTH_FORBIDDEN", "An agent speaks for its own node only")
        if node is None and self._settings.poot_require_registered_node:
            raise invalid("node_id", "names no registered node")
        flags = []
        if body.signature is None:
            flags.append(UNSIGNED)
        elif not self._signature_is_right(session, subject, body, digest):
            raise invalid("signature", "is not the node's over this submission")
        if body.session_id is not None:
            host = session.execute(
                select(DeskSession.session_id, DeskSession.node_id).where(
                    DeskSession.session_id == body.session_id, DeskSession.status != SessionStatus.DELETED
                )
            ).one_or_none()
            if host is None:
                raise invalid("session_id", "names no session")
            if host.node_id != subject:
                flags.append(MISMATCH)
        poot = Poot(
            poot_id=names.made("poot"), node_id=body.node_id, subject_id=subject, node_registered=node is not None,
            session_id=body.session_id, timestamp=body.at, output_hash=digest, output_bytes=size_of(body.output_data),
            status=PootStatus.SUBMITTED, flags=flags, submitted_by=who.subject, submitted_at=moment,
        )  # fmt: skip
        # Under each of the node's names: the one that was sent is the same before it is registered and once it is gone.
        called = sorted({subject, body.node_id} | ({node.name} if node else set()))
        nonce = {"nonce": body.nonce, "poot_id": poot.poot_id, "expires_at": moment + NONCE_KEPT}
        nonces = insert(PootNonce).values([{"subject_id": name, **nonce} for name in called])
        first = session.scalars(nonces.on_conflict_do_nothing().returning(PootNonce.subject_id)).all()
        if len(first) < len(called):
            raise Refusal("POOT_REPLAY", "This nonce was used before for this node")
        session.add(poot)
        session.flush()
        audit.record(session, "poot", "submit", resource=("poot", poot.poot_id), details={"node_id": subject})
        return poot

    def _check_fresh(self, stamp: datetime, moment: datetime) -> None:
        if stamp <= moment - OLDEST:
            raise Refusal("POOT_STALE", "timestamp: is 24 h old or older", [("timestamp", "is 24 h old or older")])
        if stamp > moment + AHEAD:
            problem = "is more than 5 minutes in the future"
            raise Refusal("POOT_FUTURE", f"timestamp: {problem}", [("timestamp", problem)])

    def _signature_is_right(self, session: Session, subject: str, body: PootIn, digest: str) -> bool:
        agent = session.get(Agent, subject)
        if agent is None or agent.public_key is None or body.signature is None:
            return False
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(agent.public_key, validate=True))
            signature = base64.b64decode(body.signature, validate=True)
            key.verify(signature, signed_payload(body.node_id, digest, body.timestamp, body.nonce))
        except (InvalidSignature, ValueError):
            return False
        return True

    def _penalise(self, node_id: str, refusal: Refusal, moment: datetime) -> None:
        """For a replay, or a wrong signature, by the node's own agent. Other bad input is no misconduct."""
        if refusal.code == "VALIDATION_FAILED" and refusal.problems[0][0] != "signature":
            return
        with self._database.transaction() as session:
            node = session.get(Node, node_id, with_for_update=True)
            if node:
                node.penalty, node.penalty_at = penalised(node.penalty, node.penalty_at, moment), moment
                details = {"reason": refusal.code}
                audit.record(session, "node", "penalty", resource=("node", node_id), details=details)

    # Reading

    def exists(self, poot_id: str) -> bool:
        with self._database.read() as session:
            return session.scalar(select(Poot.poot_id).where(Poot.poot_id == poot_id)) is not None

    def get(self, poot_id: str) -> tuple[Poot, str | None]:
        """It, and the id of its payout."""
        with self._database.read() as session:
            poot = session.get(Poot, poot_id)
            if poot is None:
                raise unknown(poot_id)
            return poot, session.scalar(select(Payout.payout_id).where(Payout.poot_id == poot_id))

    def history(self, page: Page, node_id: str | None) -> tuple[list[tuple[Poot, str | None]], int]:
        """Newest first."""
        query = select(Poot).order_by(Poot.submitted_at.desc(), Poot.poot_id.desc())
        with self._database.read() as session:
            if node_id is not None:
                node = find_node(session, node_id)
                query = query.where(Poot.subject_id == (node.node_id if node else node_id))
            poots, total = fetch(session, query, page)
            ids = [poot.poot_id for poot in poots]
            paid = select(Payout.poot_id, Payout.payout_id).where(Payout.poot_id.in_(ids))
            payouts = dict(session.execute(paid).all())
        return [(poot, payouts.get(poot.poot_id)) for poot in poots], total

    def statistics(self) -> dict[str, Any]:
        with self._database.read() as session:
            counts = dict(session.execute(select(Poot.status, func.count()).group_by(Poot.status)).all())
            average = session.scalar(select(func.avg(Poot.score)).where(Poot.status == PootStatus.VALIDATED))
            return {
                "total_poot": sum(counts.values()),
                "validated_poot": counts.get(PootStatus.VALIDATED, 0),
                "pending_poot": counts.get(PootStatus.SUBMITTED, 0),
                "rejected_poot": counts.get(PootStatus.REJECTED, 0),
                "expired_poot": counts.get(PootStatus.EXPIRED, 0),
                "average_score": None if average is None else float(average),
                **_paid(session),
            }

    def seen(self, node_id: str) -> bool:
        """Whether it is a registered node, by id or by name, or one that PoOT or a record came for."""
        with self._database.read() as session:
            return self._seen(session, node_id) is not None

    def node_statistics(self, node_id: str) -> dict[str, Any]:
        with self._database.read() as session:
            subject = self._seen(session, node_id)
            if subject is None:
                raise Refusal("NODE_NOT_FOUND", f"Nobody has heard of a node {node_id[:64]}")
            node = session.get(Node, subject)
            mine = Poot.subject_id == subject
            valid = Poot.status == PootStatus.VALIDATED
            row = session.execute(
                select(func.count(), func.count().filter(valid), func.avg(Poot.score).filter(valid)).where(mine)
            ).one()
            return {
                "node_id": node_id,
                "node_registered": node is not None,
                "total_poot": row[0],
                "validated_poot": row[1],
                "average_score": None if row[2] is None else float(row[2]),
                "reputation": float(reputation_of(node, now()) if node else START),
                **_paid(session, subject),
            }

    def tidy(self) -> None:
        """Nonces that count no more, what nobody has validated in time, and what was kept long enough.

        A payout keeps its PoOT.
        """
        moment = now()
        with self._database.transaction() as session:
            paid = select(Payout.payout_id).where(Payout.poot_id == Poot.poot_id).exists()
            session.execute(delete(Payout).where(Payout.created_at < moment - PAYOUT_KEPT))
            session.execute(delete(Poot).where(Poot.submitted_at < moment - KEPT, ~paid))
            session.execute(delete(PootNonce).where(PootNonce.expires_at <= moment))
            session.execute(
                update(Poot)
                .where(Poot.status == PootStatus.SUBMITTED, Poot.submitted_at <= moment - UNVALIDATED)
                .values(status=PootStatus.EXPIRED, version=Poot.version + 1)
            )

    def _seen(self, session: Session, node_id: str) -> str | None:
        node = find_node(session, node_id)
        if node:
            return node.node_id
        known = select(Poot.subject_id).where(Poot.subject_id == node_id).limit(1)
        imported = select(OperationalRecord.node_id).where(OperationalRecord.node_id == node_id)
        return session.scalar(known) or session.scalar(imported)


def unknown(poot_id: str) -> Refusal:
    return Refusal("POOT_NOT_FOUND", f"There is no PoOT {poot_id[:64]}")


def find_node(session: Session, name: str) -> Node | None:
    """The registered node of this id, or else of this name."""
    query = select(Node).where(or_(Node.node_id == name, Node.name == name))
    found = {node.node_id: node for node in session.scalars(query)}
    return found.get(name) or next(iter(found.values()), None)


def signed_payload(node_id: str, output_hash: str, timestamp: str, nonce: str) -> bytes:
    """What an agent signs: JSON with sorted keys, without spaces, in UTF-8."""
    content = {"node_id": node_id, "output_hash": output_hash, "timestamp": timestamp, "nonce": nonce}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def size_of(output: str) -> int:
    """Bytes: of what it decodes to, if it happens to be base64, or else of itself."""
    try:
        return len(base64.b64decode(output, validate=True))
    except (binascii.Error, ValueError):
        return len(output.encode())


def _paid(session: Session, subject: str | None = None) -> dict[str, Any]:
    """From the double-entry ledger."""
    query = select(func.count(), func.coalesce(func.sum(AccountEntry.amount), 0)).where(
        AccountEntry.kind == "payout", AccountEntry.amount > 0
    )
    if subject is not None:
        query = query.join(Payout, Payout.payout_id == AccountEntry.reference).where(Payout.subject_id == subject)
    count, total = session.execute(query).one()
    return {"total_payouts": count, "total_payout_amount": Decimal(total)}
