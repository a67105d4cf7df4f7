"""What was measured of nodes in the last 24 hours: the inputs of their scores (contract 8.3).

For many nodes at once, with as many queries as for one. Samples that were taken of the service's own host in place of a
node's say nothing of the node and do not count.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from labyard.desktops.models import (
    DeskSession,
    Heartbeat,
    Node,
    OperationalRecord,
    Poot,
    PootStatus,
    RdpProbe,
    SessionChunk,
    UsageSample,
)
from labyard.desktops.service.node_life import SLOT
from labyard.desktops.service.nodes import reputation_of
from labyard.desktops.service.score import NEW_TRUST, Inputs

WINDOW = timedelta(hours=24)
GIB = Decimal(2**30)
PER_GIB, PER_CHECK, PER_POOT, PER_HEARTBEAT = Decimal(1), Decimal("0.5"), Decimal("0.3"), Decimal("0.1")
QUICK_MS = 500
AGENT = "agent"


@dataclass(frozen=True)
class Measured:
    """`source` is measured, imported or none."""

    inputs: Inputs
    source: str


def measure(
    session: Session, subjects: Collection[str], nodes: dict[str, Node], moment: datetime
) -> dict[str, Measured]:
    """Of each subject. `nodes` are the registered ones among them."""
    since = moment - WINDOW
    imported = {
        record.node_id: Measured(_imported(record), "imported")
        for record in session.scalars(
            select(OperationalRecord).where(
                OperationalRecord.node_id.in_(subjects), OperationalRecord.window_end >= since
            )
        )
    }
    rest = [subject for subject in subjects if subject not in imported]
    return imported | _measured(session, rest, nodes, since, moment)


def _measured(
    session: Session, subjects: list[str], nodes: dict[str, Node], since: datetime, moment: datetime
) -> dict[str, Measured]:
    def by_subject(query: Any) -> dict[str, Any]:
        return {row[0]: row for row in session.execute(query)}

    chunks = by_subject(
        select(DeskSession.node_id, func.sum(SessionChunk.duration_seconds), func.sum(SessionChunk.stored_size_bytes))
        .join(SessionChunk, SessionChunk.session_id == DeskSession.session_id)
        .where(DeskSession.node_id.in_(subjects), SessionChunk.created_at >= since)
        .group_by(DeskSession.node_id)
    )
    checks = by_subject(
        select(DeskSession.node_id, func.count())
        .join(SessionChunk, SessionChunk.session_id == DeskSession.session_id)
        .where(DeskSession.node_id.in_(subjects), SessionChunk.checked_at >= since)
        .group_by(DeskSession.node_id)
    )
    frames = by_subject(
        select(DeskSession.node_id, func.sum(DeskSession.frames), func.sum(DeskSession.dropped_frames))
        .where(DeskSession.node_id.in_(subjects), DeskSession.started_at >= since)
        .group_by(DeskSession.node_id)
    )
    beats = by_subject(
        select(Heartbeat.node_id, func.count())
        .where(Heartbeat.node_id.in_(subjects), Heartbeat.slot > int(since.timestamp()) // SLOT)
        .group_by(Heartbeat.node_id)
    )
    poots = by_subject(
        select(Poot.subject_id, func.count())
        .where(Poot.subject_id.in_(subjects), Poot.status == PootStatus.VALIDATED, Poot.validated_at >= since)
        .group_by(Poot.subject_id)
    )
    usage = by_subject(
        select(
            UsageSample.subject_id,
            func.avg((UsageSample.cpu_percent + UsageSample.memory_percent) / 200),
            func.avg((UsageSample.network_in + UsageSample.network_out) * 8 / 1_000_000),
        )
        .where(
            UsageSample.kind == "node", UsageSample.subject_id.in_(subjects), UsageSample.at >= since,
            UsageSample.source == AGENT,
        )
        .group_by(UsageSample.subject_id)
    )  # fmt: skip
    quick = case((RdpProbe.answered & (RdpProbe.latency_ms < QUICK_MS), 1.0), else_=0.0)
    probes = by_subject(
        select(RdpProbe.node_id, func.avg(quick))
        .where(RdpProbe.node_id.in_(subjects), RdpProbe.at >= since)
        .group_by(RdpProbe.node_id)
    )
    found = {}
    for subject in subjects:
        node = nodes.get(subject)
        _, seconds, stored = chunks.get(subject, (None, 0, 0))
        _, load, rate = usage.get(subject, (None, None, None))
        count = beats[subject][1] if subject in beats else 0
        valid = poots[subject][1] if subject in poots else 0
        checked = checks[subject][1] if subject in checks else 0
        qualities = []
        if subject in frames and (frames[subject][1] or frames[subject][2]):
            _, delivered, dropped = frames[subject]
            qualities.append(_decimal(delivered) / _decimal(delivered + dropped))
        if subject in probes:
            qualities.append(_decimal(probes[subject][1]))
        inputs = Inputs(
            session_hours=_decimal(seconds) / 3600,
            work_credits=PER_GIB * _decimal(stored) / GIB
            + PER_CHECK * checked
            + PER_POOT * valid
            + PER_HEARTBEAT * count,
            resource_utilization=_decimal(load),
            network_mbps=_decimal(rate),
            uptime_percentage=_uptime(count, node, since, moment),
            session_quality=sum(qualities, Decimal(0)) / len(qualities) if qualities else Decimal(0),
            trust_score=reputation_of(node, moment) / 100 if node else NEW_TRUST,
        )
        known = any((chunks.get(subject), usage.get(subject), count, valid, checked, qualities))
        found[subject] = Measured(inputs, "measured" if known else "none")
    return found


def _uptime(beats: int, node: Node | None, since: datetime, moment: datetime) -> Decimal:
    """Heartbeats received of those expected: one in 30 s since the node is registered."""
    if node is None or not beats:
        return Decimal(0)
    first = max(since, node.created_at)
    expected = int(moment.timestamp()) // SLOT - int(first.timestamp()) // SLOT + 1
    return min(Decimal(100), Decimal(100) * beats / expected)


def _imported(record: OperationalRecord) -> Inputs:
    names = Inputs.__dataclass_fields__
    return Inputs(**{name: _decimal(getattr(record, name)) for name in names})


def _decimal(value: Any) -> Decimal:
    """Of a float its shortest decimal form, so that 0.95 is 0.95."""
    return Decimal(0) if value is None else Decimal(str(value))
