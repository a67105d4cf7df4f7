"""What /metrics tells beyond the HTTP figures of core (contract section 5.8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Select, func, select

from labyard.core.database import Database
from labyard.core.steps import Step
from labyard.netboot.models import BootSession, Image, ImageStatus, Machine, SessionStatus, Target, TargetStatus

PREFIX = "labyard_netboot"


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.boots = Counter(f"{PREFIX}_boots_total", "Boots by result", ["result"], registry=registry)
        self.boot_seconds = Histogram(
            f"{PREFIX}_boot_duration_seconds",
            "First sign of a machine to its userland",
            buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300),
            registry=registry,
        )
        self._steps = Histogram(
            f"{PREFIX}_step_duration_seconds",
            "Steps of starts and stops",
            ["step"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        with self._steps.labels(step.name).time():
            yield


class Standing(Collector):
    """What is on record, counted when /metrics is read."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts: dict[str, Select[Any]] = {
            "machines": select(func.count()).select_from(Machine).where(Machine.deleted_at.is_(None)),
            "images": select(func.count()).select_from(Image).where(Image.status != ImageStatus.DELETED),
            "targets": select(func.count()).select_from(Target).where(Target.status != TargetStatus.INACTIVE),
        }
        with self._db.read() as session:
            for name, query in counts.items():
                yield GaugeMetricFamily(f"{PREFIX}_{name}", f"Number of {name}", session.scalar(query) or 0)
            rows = session.execute(select(BootSession.status, func.count()).group_by(BootSession.status))
            by_status = dict(rows.all())
        sessions = GaugeMetricFamily(f"{PREFIX}_sessions", "Sessions by status", labels=["status"])
        for status in SessionStatus:
            sessions.add_metric([status], by_status.get(status, 0))
        yield sessions
