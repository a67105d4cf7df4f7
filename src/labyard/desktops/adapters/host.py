"""This machine: what it has and what it uses, measured with psutil and from /sys. What cannot be read is None."""

from __future__ import annotations

import os
import platform
import threading
import time
from pathlib import Path
from typing import Any, TypeVar

import psutil

from labyard.core.clock import now
from labyard.desktops.adapters.agent import Usage

T = TypeVar("T")

_NET = Path("/sys/class/net")
_BLOCK = Path("/sys/dev/block")
SHORTEST = 0.5  # seconds between two readings that make a rate


def hardware(storage: Path = Path("/")) -> dict[str, Any]:
    """In the form of `hardware_info` (contract 7.2). The storage is the file system that holds `storage`."""
    frequency = psutil.cpu_freq()
    return {
        "cpu": {
            "cores": len(os.sched_getaffinity(0)),
            "frequency_mhz": round(frequency.max or frequency.current) if frequency else None,
            "architecture": platform.machine(),
        },
        "memory": {"total_bytes": psutil.virtual_memory().total, "type": None},
        "storage": {
            "total_bytes": psutil.disk_usage(str(storage)).total,
            "type": _storage_type(storage),
            "interface": None,
        },
        "gpu": _gpu(),
        "network": [
            {"interface": name, "speed_mbps": facts.speed or None, "mac_address": _mac(name)}
            for name, facts in sorted(_real(psutil.net_if_stats()).items())
            if facts.isup
        ],
    }


class HostMeter:
    """What the machine uses now, over the time since the last reading. `storage` is as in `hardware`."""

    def __init__(self, storage: Path = Path("/")) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._before = _Reading()
        self._last: tuple[float, dict[str, Any]] | None = None

    def sample(self, source: str) -> Usage:
        """Within half a second of the last one, by whomever: that one again. The first takes half a second."""
        with self._lock:
            if self._last is None:
                time.sleep(max(0.0, self._before.at + SHORTEST - time.monotonic()))
            if self._last is None or time.monotonic() - self._before.at >= SHORTEST:
                after = _Reading()
                self._last = (after.at, self._rates(self._before, after))
                self._before = after
            return Usage(**self._last[1], source=source)

    def _rates(self, before: _Reading, after: _Reading) -> dict[str, Any]:
        seconds = after.at - before.at
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        disk = psutil.disk_usage(str(self._storage))
        frequency = psutil.cpu_freq()
        busy, total = after.busy - before.busy, after.total - before.total
        cpu = min(100.0, max(0.0, 100 * busy / total)) if total > 0 else None

        def rate(name: str) -> float | None:
            first, second = getattr(before, name), getattr(after, name)
            # A counter that went back belongs to an interface or a disk that is gone.
            return None if first is None or second is None else max(0.0, second - first) / seconds

        return {
            "at": now().isoformat(),
            "cpu_percent": None if cpu is None else round(cpu, 2),
            "memory_percent": memory.percent,
            "disk_percent": disk.percent,
            "network_in": rate("received"),
            "network_out": rate("sent"),
            "detail": {
                "interval_seconds": round(seconds, 3),
                "cpu": {
                    "cores": psutil.cpu_count(),
                    "frequency_mhz": round(frequency.current) if frequency else None,
                    "load": list(os.getloadavg()),
                    "temperature": _temperature(),
                },
                "memory": {"total_bytes": memory.total, "used_bytes": memory.used, "available_bytes": memory.available},
                "swap": {"total_bytes": swap.total, "used_bytes": swap.used},
                "disk": {
                    "total_bytes": disk.total,
                    "used_bytes": disk.used,
                    "free_bytes": disk.free,
                    "read_bytes_per_second": rate("read"),
                    "write_bytes_per_second": rate("written"),
                    "iops": rate("operations"),
                },
                "network": after.interfaces,
                "gpu": None,
            },
        }


class _Reading:
    def __init__(self) -> None:
        self.at = time.monotonic()
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # Guests' time is in the user's already.
        self.total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        self.busy = self.total - idle
        counters = _real(psutil.net_io_counters(pernic=True))
        self.received: float | None = sum(facts.bytes_recv for facts in counters.values())
        self.sent: float | None = sum(facts.bytes_sent for facts in counters.values())
        self.interfaces = {name: facts._asdict() for name, facts in counters.items()}
        disks = psutil.disk_io_counters()
        self.read: float | None = disks.read_bytes if disks else None
        self.written: float | None = disks.write_bytes if disks else None
        self.operations: float | None = disks.read_count + disks.write_count if disks else None


def _real(interfaces: dict[str, T]) -> dict[str, T]:
    """Those with a device behind them: what goes through a bridge would count twice. In containers all but loopback."""
    found = {name: facts for name, facts in interfaces.items() if (_NET / name / "device").exists()}
    return found or {name: facts for name, facts in interfaces.items() if name != "lo"}


def _mac(interface: str) -> str | None:
    try:
        return (_NET / interface / "address").read_text().strip() or None
    except OSError:
        return None


def _storage_type(storage: Path) -> str | None:
    """SSD, HDD, NVMe or eMMC; None where the file system has no disk of its own, as in containers."""
    device = storage.stat().st_dev
    folder = _BLOCK / f"{os.major(device)}:{os.minor(device)}"
    try:
        name = folder.resolve(strict=True).name
        queue = folder / "queue"
        if not queue.exists():  # a partition
            queue = folder.resolve().parent / "queue"
        rotates = (queue / "rotational").read_text().strip() == "1"
    except OSError:
        return None
    if name.startswith("nvme"):
        return "NVMe"
    if name.startswith("mmcblk"):
        return "eMMC"
    return "HDD" if rotates else "SSD"


def _gpu() -> dict[str, Any] | None:
    for card in sorted(Path("/sys/class/drm").glob("card[0-9]")):
        try:
            memory = int((card / "device" / "mem_info_vram_total").read_text())
            return {"model": (card / "device" / "device").read_text().strip(), "memory_bytes": memory}
        except (OSError, ValueError):
            continue
    return None


def _temperature() -> float | None:
    readings = psutil.sensors_temperatures()
    found = [entry.current for entries in readings.values() for entry in entries if entry.current]
    return max(found, default=None)
