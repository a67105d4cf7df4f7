"""What a control group uses and is held to, on version 1 and version 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Taken:
    """`cpu_seconds` since the group began, `memory_bytes` now. `source` says how they were counted. `killed` processes
    were, since the group began, for want of memory."""

    cpu_seconds: float
    memory_bytes: int
    source: str
    killed: int = 0


class Group:
    """`path` as systemd names it, from the root of the hierarchy: /labyard.slice/…"""

    def __init__(self, path: str, root: Path = ROOT) -> None:
        self._path = path.lstrip("/")
        self._root = root
        self._unified = (root / "cgroup.controllers").exists()

    def taken(self) -> Taken:
        """Falls back to the sum over the group's processes: what ended meanwhile is missing there, and `source` says
        so."""
        try:
            memory = "memory.current" if self._unified else "memory.usage_in_bytes"
            used = _number(self._of("memory") / memory)
            return Taken(self._cpu_seconds(), used, "cgroup", self._killed())
        except (OSError, KeyError, ValueError):
            return taken_by(self.processes())

    def processes(self) -> list[int]:
        """Of the group and those below it."""
        found: set[int] = set()
        for folder in (self._of("systemd"), self._of("pids")):
            for file in folder.rglob("cgroup.procs"):
                try:
                    found.update(int(line) for line in file.read_text().split())
                except OSError:  # the group went meanwhile
                    continue
        return sorted(found)

    def cpu_limit(self) -> float | None:
        """Cores; None: none is in force."""
        try:
            if self._unified:
                quota, period = (self._of("cpu") / "cpu.max").read_text().split()
            else:
                quota, period = (
                    (self._of("cpu") / f"cpu.cfs_{what}_us").read_text().strip() for what in ("quota", "period")
                )
            return None if quota in ("max", "-1") else int(quota) / int(period)
        except (OSError, ValueError):
            return None

    def memory_limit(self) -> int | None:
        """Bytes; None: none is in force."""
        try:
            name = "memory.max" if self._unified else "memory.limit_in_bytes"
            text = (self._of("memory") / name).read_text().strip()
        except OSError:
            return None
        return None if text == "max" or int(text) >= 2**60 else int(text)

    def _cpu_seconds(self) -> float:
        accounted = self._of("cpuacct") / "cpuacct.usage"
        if not self._unified and accounted.exists():
            return _number(accounted) / 1e9
        # Version 2 counts time in every group, and beside version 1 systemd keeps its tree too.
        return _fields(self._of("unified") / "cpu.stat")["usage_usec"] / 1e6

    def _killed(self) -> int:
        if self._unified:
            return _fields(self._of("memory") / "memory.events").get("oom_kill", 0)
        # Counted where the process was, and not again above.
        files = self._of("memory").rglob("memory.oom_control")
        return sum(_fields(file).get("oom_kill", 0) for file in files)

    def _of(self, controller: str) -> Path:
        return self._root / self._path if self._unified else self._root / controller / self._path


def taken_by(pids: list[int]) -> Taken:
    """The sum over processes."""
    cpu, memory = 0.0, 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            cpu += times.user + times.system
            memory += process.memory_info().rss
        except psutil.Error:
            continue
    return Taken(cpu, memory, "processes")


def _number(path: Path) -> int:
    return int(path.read_text())


def _fields(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
