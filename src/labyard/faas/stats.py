"""Counters, and the last requests of each function, with the end of their output (contract 4.2)."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
KEPT = 100
KEPT_OUTPUT = 256 * 1024  # characters of one function's requests together; older ones keep their last kilobyte
SHORT = 1024


@dataclass
class Record:
    """One request. `result` is a word of contract section 9's table; `status` is 0 where the handler answered."""

    id: str
    time: str
    client: str
    result: str
    status: int
    ms: float
    warm: bool
    exit_code: int | None
    stderr: str

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass
class FunctionStats:
    results: Counter[str] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0
    warm_hits: int = 0
    warm_misses: int = 0
    last: deque[Record] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, record: Record) -> None:
        self.results[record.result] += 1
        seconds = record.ms / 1000
        self.seconds += seconds
        self.buckets[next((i for i, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))] += 1
        self.last.append(record)
        total = 0
        for kept in reversed(self.last):
            total += len(kept.stderr)
            if total > KEPT_OUTPUT:
                kept.stderr = kept.stderr[-SHORT:]

    def as_dict(self) -> dict[str, Any]:
        times = sorted(record.ms for record in self.last if record.result == "ok")
        return {
            "requests": sum(self.results.values()),
            "results": dict(self.results),
            "warm_hits": self.warm_hits,
            "warm_misses": self.warm_misses,
            "median_ms": round(times[len(times) // 2], 2) if times else None,
            "worst_ms": round(times[-1], 2) if times else None,
        }


class Stats:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._functions: dict[str, FunctionStats] = {}
        self.started = time.time()

    def add(self, function: str, record: Record) -> None:
        with self._lock:
            self._functions.setdefault(function, FunctionStats()).add(record)

    def pool(self, function: str, hit: bool) -> None:
        with self._lock:
            stats = self._functions.setdefault(function, FunctionStats())
            stats.warm_hits += hit
            stats.warm_misses += not hit

    def forget(self, function: str) -> None:
        with self._lock:
            self._functions.pop(function, None)

    def logs(self, function: str, limit: int) -> list[dict[str, Any]]:
        """The last requests, newest first."""
        with self._lock:
            stats = self._functions.get(function)
            records = list(stats.last)[::-1][:limit] if stats else []
            return [record.as_dict() for record in records]

    def of(self, function: str) -> dict[str, Any]:
        with self._lock:
            return self._functions.get(function, FunctionStats()).as_dict()

    def metrics(self) -> list[str]:
        """Lines of Prometheus' text format. Names of functions need no quoting: they are letters, digits, . _ -"""
        lines = [
            "# HELP faas_requests_total Requests by function and result.",
            "# TYPE faas_requests_total counter",
        ]
        with self._lock:
            functions = sorted(self._functions.items())
            for name, stats in functions:
                for result, count in sorted(stats.results.items()):
                    lines.append(f'faas_requests_total{{function="{name}",result="{result}"}} {count}')
            lines += [
                "# HELP faas_request_seconds From the accepted connection to the end of the container.",
                "# TYPE faas_request_seconds histogram",
            ]
            for name, stats in functions:
                total = 0
                for bound, count in zip((*BUCKETS, "+Inf"), stats.buckets, strict=True):
                    total += count
                    lines.append(f'faas_request_seconds_bucket{{function="{name}",le="{bound}"}} {total}')
                lines.append(f'faas_request_seconds_sum{{function="{name}"}} {stats.seconds:.6f}')
                lines.append(f'faas_request_seconds_count{{function="{name}"}} {total}')
            for word, text in (
                ("hits", "Requests that a parked handler took."),
                ("misses", "Requests that found none."),
            ):
                lines += [f"# HELP faas_pool_{word}_total {text}", f"# TYPE faas_pool_{word}_total counter"]
                for name, stats in functions:
                    lines.append(f'faas_pool_{word}_total{{function="{name}"}} {getattr(stats, f"warm_{word}")}')
        return lines
