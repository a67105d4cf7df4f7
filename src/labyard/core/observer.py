"""Compares what the database wants with what the adapters observe, and names each difference.

A service subclasses nothing: it gives the observer a function that returns findings, each with its repair.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

import structlog

from labyard.core.clock import now

log = structlog.get_logger(__name__)


class Difference(StrEnum):
    MISSING = "missing"  # wanted, not there
    ORPHAN = "orphan"  # there, not wanted
    DRIFT = "drift"  # there, but not as wanted


@dataclass(frozen=True)
class Finding:
    """One difference. `thing` is its kind (overlay, target, script, …), `key` its name."""

    difference: Difference
    thing: str
    key: str
    detail: str = ""
    repair: Callable[[], object] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Report:
    """What one look found. `repaired` and `failed` (with the reason) are empty unless it was to repair."""

    checked_at: datetime
    findings: list[Finding]
    repaired: list[Finding] = field(default_factory=list)
    failed: list[tuple[Finding, str]] = field(default_factory=list)


def compare(
    thing: str,
    wanted: Mapping[str, Any],
    seen: Mapping[str, Any],
    *,
    missing: Callable[[str], object],
    orphan: Callable[[str], object],
    drift: Callable[[Any, Any], str] = lambda want, have: "",
) -> Iterable[Finding]:
    """Findings between two mappings. `drift` says what is different, or nothing; `missing` also repairs drift."""
    for key, want in wanted.items():
        if key not in seen:
            yield Finding(Difference.MISSING, thing, key, repair=partial(missing, key))
        elif detail := drift(want, seen[key]):
            yield Finding(Difference.DRIFT, thing, key, detail, repair=partial(missing, key))
    for key in seen:
        if key not in wanted:
            yield Finding(Difference.ORPHAN, thing, key, repair=partial(orphan, key))


class Observer:
    """Looks on an interval (seconds) and on request. One look at a time."""

    def __init__(self, look: Callable[[], Iterable[Finding]], interval: float) -> None:
        self._look = look
        self._interval = interval
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.last: Report | None = None

    def check(self, repair: bool) -> Report:
        """Look now; with `repair`, also mend what is found. The report tells of repairs that failed."""
        with self._lock:
            report = Report(now(), list(self._look()))
            for finding in report.findings if repair else []:
                if finding.repair is None:
                    continue
                try:
                    finding.repair()
                    report.repaired.append(finding)
                except Exception as error:
                    report.failed.append((finding, str(error) or type(error).__name__))
            if report.findings:
                log.info("observer", findings=[f"{f.difference} {f.thing} {f.key}" for f in report.findings])
            self.last = report
            return report

    def start(self) -> None:
        """Look now and then on every interval, mending what is found."""
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.check(repair=True)
            except Exception:
                log.exception("observer could not look")
            self._stop.wait(self._interval)
