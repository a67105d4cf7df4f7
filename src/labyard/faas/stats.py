"""Counters and times of each function's requests; what became of each goes to the history (contract 4.2)."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any

from labyard.faas.history import History

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
RECENT = 100  # requests whose times make the median


@dataclass(frozen=True)
class Record:
    """One request. `result` is a word of its own (docs/faas.md); `status` is 0 where the handler answered."""

    id: str
    time: str
    client: str
    result: str
    status: int
    ms: float
    warm: bool
    exit_code: int | None
    stderr: str


@dataclass
class FunctionStats:
    results: Counter[str] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0
    warm_hits: int = 0
    warm_misses: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # ms, of those that went well

    def add(self, record: Record) -> None:
        self.results[record.result] += 1
        seconds = record.ms / 1000
        self.seconds += seconds
        self.buckets[next((i for i, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))] += 1
        if record.result == "ok":
            self.times.append(record.ms)

    def as_dict(self) -> dict[str, Any]:
        times = sorted(self.times)
        return {
            "requests": sum(self.results.values()),
            "results": dict(self.results),
            "warm_hits": self.warm_hits,
            "warm_misses": self.warm_misses,
            "median_ms": round(times[len(times) // 2], 2) if times else None,
            "worst_ms": round(times[-1], 2) if times else None,
        }


class Stats:
    """Of functions between `begin` and `forget`; a request that outlives its function counts for nobody."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lock = threading.Lock()
        self._functions: dict[str, FunctionStats] = {}

    def begin(self, function: str) -> None:
        """A function is there; known already is fine."""
        with self._lock:
            self._functions.setdefault(function, FunctionStats())

    def forget(self, function: str) -> None:
        """A function is there no more: its history goes, too."""
        with self._lock:
            self._functions.pop(function, None)
        self._history.forget(function)

    def add(self, function: str, record: Record) -> None:
        with self._lock:
            if stats := self._functions.get(function):
                stats.add(record)
                self._history.add(function, asdict(record))

    def pool(self, function: str, hit: bool) -> None:
        with self._lock:
            if stats := self._functions.get(function):
                stats.warm_hits += hit
                stats.warm_misses += not hit

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
