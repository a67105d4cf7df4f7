"""Servers' daemons where no systemd runs: real xrdp and sesman, each in a mount namespace like its unit's.

A session's process that leaves its parent is found by the mark in its environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp.cgroup import Taken, taken_by
from labyard.desktops.agent.rdp.units import INACTIVE, SERVICES, SESMAN, XRDP, Limits, UnitState
from labyard.testing.waiting import PATIENCE

MARK = "LABYARD_TEST_SERVER"
COMMANDS = {
    SESMAN: ("/usr/sbin/xrdp-sesman", "-n", "-c", "/etc/xrdp/sesman.ini"),
    XRDP: (
        "setpriv",
        "--reuid=xrdp",
        "--regid=xrdp",
        "--clear-groups",
        "/usr/sbin/xrdp",
        "-n",
        "-c",
        "/etc/xrdp/xrdp.ini",
    ),
}
SCRIPT = """\
set -e
mount --bind "$1/etc" /etc/xrdp
mkdir -p /run/xrdp /var/log/xrdp
mount --bind "$1/run" /run/xrdp
mount --bind "$1/log" /var/log/xrdp
mount --bind "$1/pam" /etc/pam.d/xrdp-sesman
mount -t tmpfs tmpfs /home
mkdir "/home/$2"
mount --bind "$1/home" "/home/$2"
mkdir -p /run/x-sockets /tmp/.X11-unix
chmod 1777 /tmp/.X11-unix
mount --bind /tmp/.X11-unix /run/x-sockets
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir /tmp/.X11-unix
mount --move /run/x-sockets /tmp/.X11-unix
shift 2
exec "$@"
"""


class Processes:
    """`Units` without limits: nothing is enforced, and it says so."""

    def __init__(self, servers: Path) -> None:
        self._servers = servers
        self._running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def prepare(self) -> None:
        pass

    def limit(self, key: str, limits: Limits) -> None:
        pass

    def enforced(self, key: str, limits: Limits) -> dict[str, str | None]:
        return dict.fromkeys(("cpu", "memory"), "these are plain processes")

    def start(self, key: str, service: str) -> None:
        root = self._servers / key
        command = ["unshare", "--mount", "/bin/sh", "-c", SCRIPT, "sh", str(root), f"rdp-{key}", *COMMANDS[service]]
        with (root / "out.log").open("ab") as out:
            self._running[key, service] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env={"PATH": os.environ["PATH"], MARK: key},
            )  # fmt: skip

    def stop(self, key: str) -> None:
        for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, PATIENCE)):
            _kill(self.processes(key), number)
            until = time.monotonic() + seconds
            while self.processes(key) and time.monotonic() < until:
                self._reap(key)
                time.sleep(0.02)
        self._reap(key)
        if self.processes(key):
            raise AdapterError(f"processes of {key} do not end")

    def forget(self, key: str) -> None:
        for service in SERVICES:
            self._running.pop((key, service), None)

    def state(self, key: str, service: str) -> UnitState:
        process = self._running.get((key, service))
        if process is None:
            return INACTIVE
        if process.poll() is None:
            return UnitState("active", main_pid=process.pid)
        return UnitState("inactive" if process.returncode in (0, -signal.SIGTERM) else "failed")

    def processes(self, key: str) -> list[int]:
        wanted = f"{MARK}={key}".encode()
        found = set()
        for process in psutil.process_iter():
            try:
                marked = wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                # sesman gives a desktop an environment of its own.
                marked |= process.ppid() in found or process.username() == f"rdp-{key}"
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
            except (OSError, psutil.Error):
                continue
        return sorted(found)

    def taken(self, key: str) -> Taken:
        return taken_by(self.processes(key))

    def log(self, key: str, lines: int) -> tuple[str, ...]:
        out = self._servers / key / "out.log"
        return tuple(out.read_text(errors="replace").splitlines()[-lines:]) if out.exists() else ()

    def known(self) -> frozenset[str]:
        return frozenset(key for key, _ in self._running)

    def _reap(self, key: str) -> None:
        for service in SERVICES:
            process = self._running.get((key, service))
            if process is not None:
                process.poll()


def _kill(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
