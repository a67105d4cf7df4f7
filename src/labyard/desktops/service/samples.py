"""Samples of use, of nodes and of RDP servers: stored by month, and the newest of them live in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops.adapters.agent import Usage
from labyard.desktops.adapters.live import Live
from labyard.desktops.advisory import PARTITIONS, hold
from labyard.desktops.fields import parse_time
from labyard.desktops.models import UsageSample

LIVE_KEPT = 120  # samples
LIVE_SECONDS = 300
MOST = 2000  # samples that an answer holds


class Samples:
    """`kind` is `node` or `rdp`; `kept` is how long stored samples matter."""

    def __init__(self, database: Database, live: Live, kind: str, kept: timedelta) -> None:
        self._database = database
        self._live = live
        self._kind = kind
        self._kept = kept

    def put_live(self, subject_ids: Iterable[str], usage: Usage) -> None:
        """What was measured of these now."""
        self._live.push(f"live:{self._kind}", subject_ids, vars(usage), LIVE_KEPT, LIVE_SECONDS)

    def newest_live(self, subject_id: str) -> Usage | None:
        """None when there is none, or Redis is away."""
        found = self._live.newest(f"live:{self._kind}", subject_id, 1)
        return Usage(**found[0]) if found else None

    def store(self, session: Session, subject_id: str, usage: Usage) -> None:
        row = {"kind": self._kind, "subject_id": subject_id, **vars(usage), "at": parse_time(usage.at)}
        session.execute(insert(UsageSample).values(row).on_conflict_do_nothing())

    def history(self, subject_id: str, duration: timedelta) -> list[Usage]:
        """Oldest first: those that are stored, and after them the live ones. The newest, where they are too many."""
        since = now() - duration
        mine = (UsageSample.kind == self._kind, UsageSample.subject_id == subject_id)
        with self._database.read() as session:
            query = select(UsageSample).where(*mine, UsageSample.at >= since)
            rows = session.scalars(query.order_by(UsageSample.at.desc()).limit(MOST)).all()
        stored = [from_row(row) for row in reversed(rows)]
        last = rows[0].at if rows else since
        live = [Usage(**sample) for sample in self._live.newest(f"live:{self._kind}", subject_id, LIVE_KEPT) or ()]
        return (stored + [usage for usage in reversed(live) if parse_time(usage.at) > last])[-MOST:]

    def forget_live(self, subject_id: str) -> None:
        self._live.drop(f"live:{self._kind}", subject_id)

    def drop_old(self) -> None:
        with self._database.transaction() as session:
            session.execute(
                text("DELETE FROM usage_samples WHERE kind = :kind AND at < :limit"),
                {"kind": self._kind, "limit": now() - self._kept},
            )


def from_row(row: UsageSample) -> Usage:
    return Usage(
        at=row.at.isoformat(),
        cpu_percent=row.cpu_percent,
        memory_percent=row.memory_percent,
        disk_percent=row.disk_percent,
        network_in=row.network_in,
        network_out=row.network_out,
        source=row.source,
        detail=row.detail,
    )


def shown(usage: Usage) -> dict[str, Any]:
    """As answers have it. `shared` when it was measured of the service's host and not of the node."""
    values = dict(vars(usage))
    values["timestamp"] = parse_time(values.pop("at"))
    values["shared"] = bool(usage.detail.get("shared"))
    return values


def ensure_partitions(session: Session, moment: datetime) -> None:
    """The tables of this month and of the next. What the default partition already has of a month stays there.

    Making one locks all samples, so it is first seen whether it is there.
    """
    session.execute(hold(PARTITIONS))
    first = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(2):
        following = (first + timedelta(days=32)).replace(day=1)
        name = f"usage_samples_{first:%Y_%m}"
        inside: Mapping[str, Any] = {"name": name, "start": first, "end": following}
        settled = session.scalar(
            text(
                "SELECT to_regclass(:name) IS NOT NULL "
                "OR EXISTS (SELECT 1 FROM usage_samples_default WHERE at >= :start AND at < :end)"
            ),
            inside,
        )
        if not settled:
            session.execute(
                text(
                    f"CREATE TABLE {name} PARTITION OF usage_samples "
                    f"FOR VALUES FROM ('{first.isoformat()}') TO ('{following.isoformat()}')"
                )
            )
        first = following
