"""What a server uses, as rates over the time since the last reading."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.desktops.adapters.agent import Usage
from labyard.desktops.agent.rdp.cgroup import Taken
from labyard.desktops.agent.rdp.home import MIB, Used
from labyard.desktops.agent.rdp.network import Counted
from labyard.desktops.agent.rdp.place import Made

SHORTEST = 0.5  # seconds between two readings that make a rate
HOME_EVERY = 10.0  # seconds between two counts of a home's files


@dataclass(frozen=True)
class Sources:
    """Where the figures of one server come from. Each may raise AdapterError: that figure is None then."""

    taken: Callable[[], Taken]
    counted: Callable[[], Counted | None]
    used: Callable[[], Used]


@dataclass(frozen=True)
class _Reading:
    at: float
    taken: Taken | None
    counted: Counted | None


class Meter:
    """Of one server, from its start on. Percent of the limits, networks in bytes per second."""

    def __init__(self, made: Made, sources: Sources) -> None:
        self._made = made
        self._sources = sources
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}
        self._used: tuple[float, Used] | None = None
        self._before = self._read()
        self._last: Usage | None = None

    def usage(self) -> Usage:
        """Within half a second of the last reading: that one again. The first waits until half a second has gone."""
        with self._lock:
            if self._last is None:
                time.sleep(max(0.0, self._before.at + SHORTEST - time.monotonic()))
            elif time.monotonic() - self._before.at < SHORTEST:
                return self._last
            after = self._read()
            self._last = self._between(self._before, after)
            self._before = after
            return self._last

    def _read(self) -> _Reading:
        self._problems = {}
        return _Reading(
            time.monotonic(), self._ask("cpu", self._sources.taken), self._ask("network", self._sources.counted)
        )

    def _ask(self, what: str, source: Callable[[], Any]) -> Any:
        try:
            answer = source()
        except (AdapterError, OSError) as error:
            self._problems[what] = str(error)
            return None
        if answer is None:
            self._problems[what] = "nothing counts it"
        return answer

    def _between(self, before: _Reading, after: _Reading) -> Usage:
        seconds = after.at - before.at
        made = self._made
        cpu = memory = received = sent = None
        if before.taken and after.taken and before.taken.source == after.taken.source:
            spent = max(0.0, after.taken.cpu_seconds - before.taken.cpu_seconds)
            # The kernel settles a quota over periods: for one interval it can be a little above.
            cpu = min(100 * spent / seconds, 100 * made.cpu_limit)
        if after.taken:
            memory = min(100.0, 100 * after.taken.memory_bytes / (made.memory_limit * MIB))
        if before.counted and after.counted:
            received = max(0, after.counted.received - before.counted.received) / seconds
            sent = max(0, after.counted.sent - before.counted.sent) / seconds
        killed = after.taken.killed - before.taken.killed if before.taken and after.taken else 0
        if killed > 0:  # in between it was at its limit, whatever is left now
            memory = 100.0
        used = self._home()
        detail: dict[str, Any] = {"interval_seconds": round(seconds, 3), "disk_source": used.source if used else None}
        if killed > 0:
            detail["killed_for_memory"] = killed
        if self._problems:
            detail["reasons"] = dict(self._problems)
        return Usage(
            at=now().isoformat(),
            cpu_percent=_rounded(cpu),
            memory_percent=_rounded(memory),
            disk_percent=_rounded(min(100.0, 100 * used.used / (made.disk_limit * MIB)) if used else None),
            network_in=_rounded(received),
            network_out=_rounded(sent),
            source=after.taken.source if after.taken else "none",
            detail=detail,
        )

    def _home(self) -> Used | None:
        if self._used is None or time.monotonic() - self._used[0] > HOME_EVERY:
            found = self._ask("disk", self._sources.used)
            if found is None:
                return None
            self._used = (time.monotonic(), found)
        return self._used[1]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
