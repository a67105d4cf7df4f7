"""PoOT: submitted, validated, looked up (contract 8.1 to 8.3). A validation is for good."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
)
from labyard.desktops.paging import Page, fetch
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.poot import OperationalRecordIn, PootIn
from labyard.desktops.service.measures import Measured, measure
from labyard.desktops.service.nodes import reputation_of
from labyard.desktops.service.reputation import START, averaged, penalised
from labyard.desktops.service.score import WEIGHTS, confidence, factors, jumped, score
from labyard.desktops.service.shared import Shared

OLDEST = timedelta(hours=24)
AHEAD = timedelta(minutes=5)
NONCE_KEPT = 2 * (OLDEST + AHEAD)
UNVALIDATED = timedelta(hours=24)
KEPT, PAYOUT_KEPT = timedelta(days=366), timedelta(days=7 * 366)
WEEK, DAY = timedelta(hours=168), timedelta(hours=24)
MOST_SCORES = 100
UNSIGNED, MISMATCH, JUMP, DUPLICATE = "unsigned", "session_node_mismatch", "score_jump", "duplicate_output"


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
                select(DeskSession.session_id, DeskSession.node_id).where(DeskSession.session_id == body.session_id)
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
        nonce = {"subject_id": subject, "nonce": body.nonce, "poot_id": poot.poot_id, "expires_at": moment + NONCE_KEPT}
        first = insert(PootNonce).values(nonce).on_conflict_do_nothing().returning(PootNonce.nonce)
        if session.scalar(first) is None:
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

    # Validating

    def validate(self, poot_id: str) -> Poot:
        """404 when there is none, 409 when it has expired. Again: the same answer."""
        (found,) = self._validate([poot_id])
        if isinstance(found, Refusal):
            raise found
        return found

    def validate_batch(self, poot_ids: Sequence[str]) -> list[tuple[str, Poot | Refusal]]:
        """In the order of the request; what cannot be validated says why."""
        return list(zip(poot_ids, self._validate(poot_ids), strict=True))

    def _validate(self, poot_ids: Sequence[str]) -> list[Poot | Refusal]:
        began, moment = time.perf_counter(), now()
        with self._database.transaction() as session:
            # In one order everywhere, so that batches do not wait for each other in a circle.
            query = select(Poot).where(Poot.poot_id.in_(poot_ids)).order_by(Poot.poot_id).with_for_update()
            rows = {poot.poot_id: poot for poot in session.scalars(query)}
            fresh = [poot for poot in rows.values() if poot.status == PootStatus.SUBMITTED]
            for poot in fresh:
                if poot.submitted_at <= moment - UNVALIDATED:
                    poot.status = PootStatus.EXPIRED
            due = {poot.poot_id: poot for poot in fresh if poot.status == PootStatus.SUBMITTED}
            self._judge(session, [due[key] for key in dict.fromkeys(poot_ids) if key in due], began, moment)
            if due:
                audit.record(session, "poot", "validate", details={"poot_ids": sorted(due)})
        return [_result(poot_id, rows.get(poot_id)) for poot_id in poot_ids]

    def _judge(self, session: Session, poots: list[Poot], began: float, moment: datetime) -> None:
        if not poots:
            return
        subjects = sorted({poot.subject_id for poot in poots})
        query = select(Node).where(Node.node_id.in_(subjects)).order_by(Node.node_id).with_for_update()
        nodes = {node.node_id: node for node in session.scalars(query)}
        measured = measure(session, subjects, nodes, moment)
        scores = _recent_scores(session, subjects, moment)
        repeated = _repeated_outputs(session, poots)
        for poot in poots:
            found = measured[poot.subject_id]
            self._score(poot, found, scores[poot.subject_id], poot.poot_id in repeated, moment)
            poot.validation_time_ms = round((time.perf_counter() - began) * 1000, 3)
            if poot.status == PootStatus.VALIDATED and poot.score is not None:
                scores[poot.subject_id].insert(0, (moment, poot.score))
                if node := nodes.get(poot.subject_id):
                    node.score_average = averaged(node.score_average, poot.score)
                    node.poot_score = poot.score

    def _score(
        self, poot: Poot, found: Measured, past: list[tuple[datetime, Decimal]], repeated: bool, moment: datetime
    ) -> None:
        parts = factors(found.inputs)
        value = score(parts)
        flags = list(poot.flags)
        if jumped(value, [one for at, one in past if at > moment - DAY]):
            flags.append(JUMP)
        if repeated:
            flags.append(DUPLICATE)
        poot.score = value
        poot.factors = {name: float(part) for name, part in parts.items()}
        poot.weights = {name: float(weight) for name, weight in WEIGHTS.items()}
        poot.inputs = {name: float(number) for name, number in asdict(found.inputs).items()}
        poot.metrics_source = found.source
        poot.flags = flags
        poot.confidence = confidence(value, [one for _, one in past[:MOST_SCORES]], len(flags))
        poot.validated_at = moment
        least = self._settings.poot_min_score
        poot.status = PootStatus.VALIDATED if value >= least else PootStatus.REJECTED
        poot.errors = [] if value >= least else [f"the score {value} is below {least}"]

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

    # Operational records

    def import_record(self, node_id: str, body: OperationalRecordIn, who: Principal) -> OperationalRecord:
        """In place of what is measured, as long as the end of its window is within 24 h."""
        moment = now()
        if body.window_end > moment + AHEAD:
            raise invalid("window_end", "is in the future")
        with self._database.transaction() as session:
            node = find_node(session, node_id)
            subject = node.node_id if node else node_id
            values = {**body.model_dump(), "node_id": subject, "imported_by": who.subject, "imported_at": moment}
            changes = {name: value for name, value in values.items() if name != "node_id"}
            session.execute(
                insert(OperationalRecord).values(values).on_conflict_do_update(index_elements=["node_id"], set_=changes)
            )
            details = {name: value for name, value in body.model_dump(mode="json").items() if value is not None}
            audit.record(session, "operational_record", "import", resource=("node", subject), details=details)
            return session.get_one(OperationalRecord, subject)

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


def references(session: Session, session_id: str) -> list[str]:
    """The PoOT that were submitted for a session, oldest first: its `poot_references`."""
    query = select(Poot.poot_id).where(Poot.session_id == session_id)
    return list(session.scalars(query.order_by(Poot.submitted_at, Poot.poot_id)))


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


def _result(poot_id: str, poot: Poot | None) -> Poot | Refusal:
    if poot is None:
        return unknown(poot_id)
    if poot.status == PootStatus.EXPIRED:
        return Refusal("POOT_STATE", f"The PoOT {poot_id} has expired: it was not validated within 24 h")
    return poot


def _recent_scores(
    session: Session, subjects: Sequence[str], moment: datetime
) -> Mapping[str, list[tuple[datetime, Decimal]]]:
    """Of each subject the newest validated scores of a week, newest first."""
    rank = func.row_number().over(partition_by=Poot.subject_id, order_by=Poot.validated_at.desc()).label("rank")
    inner = (
        select(Poot.subject_id, Poot.validated_at, Poot.score, rank)
        .where(
            Poot.subject_id.in_(subjects), Poot.status == PootStatus.VALIDATED, Poot.validated_at > moment - WEEK
        )
        .subquery()
    )  # fmt: skip
    found: dict[str, list[tuple[datetime, Decimal]]] = defaultdict(list)
    for row in session.execute(select(inner).where(inner.c.rank <= MOST_SCORES).order_by(inner.c.rank)):
        found[row.subject_id].append((row.validated_at, row.score))
    return found


def _repeated_outputs(session: Session, poots: list[Poot]) -> set[str]:
    """Those whose output was submitted before."""
    hashes = {poot.output_hash for poot in poots}
    first = (
        select(Poot.output_hash, func.min(Poot.submitted_at))
        .where(Poot.output_hash.in_(hashes))
        .group_by(Poot.output_hash)
    )
    oldest = dict(session.execute(first).all())
    return {poot.poot_id for poot in poots if oldest[poot.output_hash] < poot.submitted_at}


def _paid(session: Session, subject: str | None = None) -> dict[str, Any]:
    """From the double-entry ledger."""
    query = select(func.count(), func.coalesce(func.sum(AccountEntry.amount), 0)).where(
        AccountEntry.kind == "payout", AccountEntry.amount > 0
    )
    if subject is not None:
        query = query.join(Payout, Payout.payout_id == AccountEntry.reference).where(Payout.subject_id == subject)
    count, total = session.execute(query).one()
    return {"total_payouts": count, "total_payout_amount": Decimal(total)}
