"""The OCI configuration of a function's container (contract 8.2)."""

from __future__ import annotations

import platform
import resource
from typing import Any

from labyard.faas.adapters.cgroups import Cgroups
from labyard.faas.adapters.seccomp import profile
from labyard.faas.limits import Limits
from labyard.faas.registry import Function

MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")
CPU_PERIOD = 100_000  # µs
# The hard limit of this process is as far as it goes: not everywhere may one be raised.
OPEN_FILES = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def make_config(
    container: str, function: Function, limits: Limits, rootfs: str, socket: str, cgroups: Cgroups
) -> dict[str, Any]:
    """config.json for one container. `rootfs` and `socket` are paths on the host."""
    uid, gid = function.user
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": gid, "additionalGids": list(function.groups)},
            "args": list(function.cmd),
            "env": list(function.env),
            "cwd": function.workdir,
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": OPEN_FILES, "soft": OPEN_FILES},
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            ],
            "noNewPrivileges": True,
        },
        "root": {"path": rootfs, "readonly": True},
        "hostname": function.name,
        "mounts": _mounts(socket, limits.tmp),
        "linux": {
            "cgroupsPath": cgroups.path_of(container),
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "resources": _resources(limits, cgroups),
            "seccomp": profile(platform.machine()),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }


def _mounts(socket: str, tmp_size: int) -> list[dict[str, Any]]:
    def mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": source or kind, "options": list(options)}

    safe = ("nosuid", "noexec", "nodev")
    return [
        mount("/proc", "proc", *safe),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", *safe, "mode=1777", "size=65536k", source="shm"),
        mount("/dev/mqueue", "mqueue", *safe),
        mount("/sys", "sysfs", *safe, "ro"),
        mount("/sys/fs/cgroup", "cgroup", *safe, "relatime", "ro"),
        mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777", f"size={tmp_size}"),
        mount("/control.sock", "bind", "bind", "ro", source=socket),
    ]


def _resources(limits: Limits, cgroups: Cgroups) -> dict[str, Any]:
    """Only what the host can enforce: the runtime refuses to start with a limit that it cannot set."""
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if "memory" in cgroups.enforced:
        resources["memory"] = {"limit": limits.memory}
        if cgroups.swap:
            resources["memory"]["swap"] = limits.memory  # memory and swap together: so none of it is swap
    if "cpu" in cgroups.enforced:
        resources["cpu"] = {"quota": max(1000, int(limits.cpu * CPU_PERIOD)), "period": CPU_PERIOD}
    if "pids" in cgroups.enforced:
        resources["pids"] = {"limit": limits.pids}
    return resources
