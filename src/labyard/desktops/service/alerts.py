"""Alerts of nodes and of RDP servers: raised after two samples beyond a threshold, resolved with hysteresis."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops import names
from labyard.desktops.models import Alert

HYSTERESIS = 5.0  # percent points below the threshold
SAMPLES = 2
HISTORY = 100


@dataclass(frozen=True)
class Threshold:
    percent: float
    severity: str


# By resource; the highest that is passed counts.
Thresholds = Mapping[str, Sequence[Threshold]]

_USUAL = (Threshold(70, "medium"), Threshold(90, "critical"))
_LATE = (Threshold(80, "medium"), Threshold(95, "critical"))
OF_NODES: Thresholds = {"cpu": _USUAL, "memory": _USUAL, "disk": _LATE, "network": _LATE}
OF_SERVERS: Thresholds = {
    "cpu": (Threshold(80, "high"),),
    "memory": (Threshold(80, "high"),),
    "disk": (Threshold(90, "high"),),
    "network": (Threshold(80, "high"),),
}


class Alerts:
    """`kind` is `node` or `rdp`. Counts samples in this process: only one process samples a thing."""

    def __init__(self, database: Database, kind: str, thresholds: Thresholds) -> None:
        self._database = database
        self._kind = kind
        self._thresholds = thresholds
        self._beyond: dict[tuple[str, str], int] = {}
        self._open: dict[tuple[str, str], Threshold] = {}
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def judge(self, subject_id: str, percents: Mapping[str, float | None], at_once: Collection[str] = ()) -> None:
        """Look at one sample: a percentage for each resource, None for what was not measured. `at_once` are resources
        for which this sample is enough."""
        with self._lock:
            self._recall(subject_id)
            for resource, percent in percents.items():
                if percent is not None:
                    self._judge_one(subject_id, resource, percent, resource in at_once)

    def forget(self, subject_id: str) -> None:
        """The thing is not sampled any more: its open alerts are resolved."""
        with self._lock:
            for resource in self._thresholds:
                self._beyond.pop((subject_id, resource), None)
                self._open.pop((subject_id, resource), None)
            self._known.discard(subject_id)
        with self._database.transaction() as session:
            for alert in session.scalars(self._of(subject_id).where(Alert.resolved_at.is_(None))):
                alert.resolved_at = now()

    def keep_only(self, subject_ids: AbstractSet[str]) -> None:
        """Forget in this process what is not sampled any more; another one may have resolved its alerts."""
        with self._lock:
            self._beyond = {key: value for key, value in self._beyond.items() if key[0] in subject_ids}
            self._open = {key: value for key, value in self._open.items() if key[0] in subject_ids}
            self._known &= subject_ids

    def of(self, subject_id: str) -> dict[str, list[dict[str, Any]]]:
        """active_alerts and alert_history, newest first."""
        with self._database.read() as session:
            query = self._of(subject_id).order_by(Alert.created_at.desc(), Alert.alert_id)
            active = session.scalars(query.where(Alert.resolved_at.is_(None)))
            history = session.scalars(query.where(Alert.resolved_at.is_not(None)).limit(HISTORY))
            return {"active_alerts": [shown(row) for row in active], "alert_history": [shown(row) for row in history]}

    def _of(self, subject_id: str) -> Any:
        return select(Alert).where(Alert.kind == self._kind, Alert.subject_id == subject_id)

    def _recall(self, subject_id: str) -> None:
        if subject_id in self._known:
            return
        with self._database.read() as session:
            for alert in session.scalars(self._of(subject_id).where(Alert.resolved_at.is_(None))):
                self._open[subject_id, alert.resource_type] = Threshold(alert.threshold, alert.severity)
        self._known.add(subject_id)

    def _judge_one(self, subject_id: str, resource: str, percent: float, at_once: bool) -> None:
        key = (subject_id, resource)
        passed = [threshold for threshold in self._thresholds[resource] if percent >= threshold.percent]
        standing = self._open.get(key)
        if passed:
            self._beyond[key] = self._beyond.get(key, 0) + 1
            worse = standing is None or passed[-1].percent > standing.percent
            if worse and (at_once or self._beyond[key] >= SAMPLES):
                self._raise(subject_id, resource, passed[-1], percent)
                self._open[key] = passed[-1]
        else:
            self._beyond.pop(key, None)
        if standing and percent < standing.percent - HYSTERESIS:
            self._resolve(subject_id, resource)
            del self._open[key]

    def _raise(self, subject_id: str, resource: str, threshold: Threshold, percent: float) -> None:
        facts = {
            "severity": threshold.severity,
            "threshold": threshold.percent,
            "current_value": round(percent, 2),
            "message": f"{resource} at {percent:.1f} %, beyond {threshold.percent:g} %",
        }
        row = {
            "alert_id": names.made("alert"), "kind": self._kind, "subject_id": subject_id, "resource_type": resource,
            "created_at": now(), **facts,
        }  # fmt: skip
        with self._database.transaction() as session:
            session.execute(
                insert(Alert)
                .values(row)
                .on_conflict_do_update(
                    index_elements=["kind", "subject_id", "resource_type"],
                    index_where=Alert.resolved_at.is_(None),
                    set_=facts,
                )
            )

    def _resolve(self, subject_id: str, resource: str) -> None:
        with self._database.transaction() as session:
            query = self._of(subject_id).where(Alert.resource_type == resource, Alert.resolved_at.is_(None))
            for alert in session.scalars(query):
                alert.resolved_at = now()


def shown(alert: Alert) -> dict[str, Any]:
    return {
        "alert_id": alert.alert_id,
        "severity": alert.severity,
        "resource_type": alert.resource_type,
        "resource_id": alert.subject_id,
        "threshold": alert.threshold,
        "current_value": alert.current_value,
        "message": alert.message,
        "created_at": alert.created_at,
        "resolved_at": alert.resolved_at,
        "resolved": alert.resolved_at is not None,
    }
