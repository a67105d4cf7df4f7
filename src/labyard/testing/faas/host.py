"""A host of its own for faasd on this machine: a network and a mount namespace, in which all paths are the real ones.

An anchor process holds the namespaces, so that they outlive a daemon that is killed.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labyard.testing.faas.groups import Groups
from labyard.testing.waiting import PATIENCE, wait_until

CLONE_NEWNET = 0x40000000
SETUP = """
set -e
ip link set lo up
mount --bind "$1" /var/lib
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
echo ready
exec sleep infinity
"""
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Reply:
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Host:
    def __init__(self, folder: Path, **settings: object) -> None:
        """`settings`: of each daemon that is started here, unless it is given others."""
        self.settings = settings
        self.groups = Groups()
        (folder / "lib").mkdir()
        self.log_path = folder / "faasd.log"
        command = [
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SETUP,
            "sh",
            str(folder / "lib"),
        ]
        self.anchor = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.anchor.stdout is not None
        assert self.anchor.stdout.readline() == b"ready\n"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        self._network = os.open(f"/proc/{self.anchor.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self.daemon and self.daemon.poll() is None:
            self.stop()
        os.close(self._network)
        self.anchor.kill()
        self.anchor.wait()
        self.groups.close()

    # The daemon

    def start(self, *, program: tuple[str, ...] = (sys.executable, "-m", "labyard.faas"), **settings: object) -> None:
        """Start faasd and wait until its API answers. Settings by name, without their prefix; None: its own."""
        self.launch(program=program, **settings)
        wait_until(self.is_up, "the API answers")

    def launch(self, *, program: tuple[str, ...] = (sys.executable, "-m", "labyard.faas"), **settings: object) -> None:
        settings = {**self.settings, **settings}
        given = {f"LABYARD_FAAS_{name.upper()}": str(value) for name, value in settings.items() if value is not None}
        self.environment = {**os.environ, **given}
        with self.log_path.open("ab") as log:
            self.daemon = subprocess.Popen(
                self._inside("sh", "-c", f'{self.groups.enter()} exec "$@"', "sh", *program),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(timeout=PATIENCE)

    def is_up(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.log()
        try:
            return self.api("GET", "/health").status in (200, 401)
        except OSError:
            return False

    def log(self) -> str:
        return self.log_path.read_text()

    # The host

    def _inside(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self.anchor.pid), "--net", "--mount", *words]

    def run(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._inside(*words), capture_output=True, text=True, check=check, timeout=120, **options)

    def path(self, path: str) -> Path:
        """A path of that host, as this process reaches it."""
        return Path(f"/proc/{self.anchor.pid}/root") / path.lstrip("/")

    def listing(self, path: str) -> list[str]:
        """Names in a folder of that host; none where there is no folder."""
        folder = self.path(path)
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    @contextmanager
    def network(self) -> Iterator[None]:
        """In here this thread's sockets are made in that host's network."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._enter(self._network)
            yield
        finally:
            self._enter(own)
            os.close(own)

    @staticmethod
    def _enter(descriptor: int) -> None:
        if libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    # Clients

    def connect(self, ip: str, port: int = 80, timeout: float = PATIENCE) -> socket.socket:
        with self.network():
            return socket.create_connection((ip, port), timeout=timeout)

    def request(
        self,
        ip: str,
        method: str = "GET",
        path: str = "/",
        port: int = 80,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> Reply:
        began = time.monotonic()
        connection = http.client.HTTPConnection(ip, port, timeout=timeout)
        connection.sock = self.connect(ip, port, timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        seconds = time.monotonic() - began
        return Reply(answer.status, answer.reason, {k.lower(): v for k, v in answer.getheaders()}, content, seconds)

    def get(self, ip: str, path: str = "/", timeout: float = PATIENCE) -> Reply:
        return self.request(ip, path=path, timeout=timeout)

    def api(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        return self.request("127.0.0.1", method, path, 8080, body, headers)

    def deploy(self, name: str, archive: bytes, limits: dict[str, Any] | None = None) -> Reply:
        headers = {"X-Image-Name": name}
        if limits is not None:
            headers["X-Faas-Limits"] = json.dumps(limits)
        return self.api("POST", "/api/new", archive, headers)

    def function(self, name: str, archive: bytes, limits: dict[str, Any] | None = None) -> str:
        """Deploy; the address."""
        reply = self.deploy(name, archive, limits)
        assert reply.status == 200, reply.text
        return str(reply.json["ip"])

    def faas(self, *words: str, input: bytes | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self._inside(sys.executable, "-m", "labyard.faas.cli", *words),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env={**os.environ, **environment},
            timeout=120,
        )

    # What there is

    def addresses(self) -> dict[str, str]:
        """Addresses of `lo` with their labels, as `ip` prints them."""
        rows = [line.split() for line in self.run("ip", "addr", "show", "lo").stdout.splitlines()]
        return {row[1]: row[-1] for row in rows if row and row[0] == "inet"}

    def logs(self, name: str) -> list[dict[str, Any]]:
        return list(self.api("GET", f"/api/function/{name}/logs?limit=100").json)

    def last(self, name: str, request_id: str | None = None) -> dict[str, Any]:
        """The last request as the log has it, a moment after the client has its answer.

        Another one may be in the log already: `request_id` tells which is meant.
        """
        return wait_until(
            lambda: next((entry for entry in self.logs(name) if request_id in (None, entry["id"])), None),
            "the request is in the log",
        )

    def leftovers(self) -> dict[str, list[str]]:
        """Whatever requests make and have to take away again."""
        assert self.daemon is not None
        return {
            "bundles": self.listing("/var/lib/faasd/bundles"),
            "warm": self.listing("/run/faasd/warm"),
            "containers": self.listing("/run/faasd/runc"),
            "sockets": [name for name in self.listing("/tmp") if name.startswith("faas-")],
            "scratch": self.listing("/var/lib/faasd/.scratch"),
            "cgroups": self.groups.containers(),
            "processes": [str(pid) for pid in self.children()],
            "mounts": [line for line in self.path("/proc/self/mounts").read_text().splitlines() if "faas-" in line],
        }

    def children(self) -> list[int]:
        """Processes that are the daemon's, zombies too."""
        assert self.daemon is not None
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    stat = (path / "stat").read_text()
                except OSError:
                    continue
                if int(stat.rpartition(")")[2].split()[1]) == self.daemon.pid:
                    found.append(int(path.name))
        return found

    def descriptors(self) -> int:
        assert self.daemon is not None
        return len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))

    def threads(self) -> int:
        assert self.daemon is not None
        return len(list(Path(f"/proc/{self.daemon.pid}/task").iterdir()))

    def settle(self, seconds: float = PATIENCE) -> None:
        """Wait until nothing of any request is left."""
        wait_until(lambda: not any(self.leftovers().values()), lambda: f"nothing is left: {self.leftovers()}", seconds)
