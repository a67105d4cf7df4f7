"""PoOT validated: scored from what was measured of the node, once and for good (contract 8.3)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops import audit
from labyard.desktops.errors import Refusal
from labyard.desktops.models import Node, Poot, PootStatus
from labyard.desktops.service.measures import Measured, measure
from labyard.desktops.service.poots import UNVALIDATED, unknown
from labyard.desktops.service.reputation import averaged
from labyard.desktops.service.score import WEIGHTS, confidence, factors, jumped, score
from labyard.desktops.service.shared import Shared

WEEK, DAY = timedelta(hours=168), timedelta(hours=24)
MOST_SCORES = 100
JUMP, DUPLICATE = "score_jump", "duplicate_output"


class Validation:
    def __init__(self, shared: Shared) -> None:
        self._database = shared.database
        self._settings = shared.settings

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
