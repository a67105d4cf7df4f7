"""Pairs as child processes, with log files and storage in a folder: contract 1.2."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from labyard.testing.alive import is_alive
from labyard.testing.evse.containers import Containers
from labyard.testing.evse.diagnosis import PairError, owner_of, port_in_use, socat_missing
from labyard.testing.evse.pairs import POLL_NATIVE, wait_for_http_ready
from labyard.testing.evse.settings import Ports, Settings, installed
from labyard.testing.waiting import wait_until

# In this order they are told to end.
PARTS = ("bridge", "emulator", "gateway")
GRACE = 2.0  # s until SIGKILL
SETTLE = 1.0  # s after something was cleaned up
LOG_TAIL = 4000  # characters
# Settings of whoever runs the tests are not those of the pairs; these two are.
OURS = ("LABYARD_", "RAPI_", "SERIAL_", "WEB_", "OPENEVSE_")
MDNS = {"LABYARD_MDNS": "own", "LABYARD_MDNS_INTERFACES": "lo"}


class ProcessBackend:
    """Our programs, or the firmware's native build and the emulator's image in their place."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._native = settings.native_binary
        self._containers = Containers(settings.emulator_image) if settings.emulator_impl == "docker" else None
        self._running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def clean(self, offsets: list[int]) -> None:
        found = [self._clean(offset) for offset in offsets]
        if self._containers is not None:
            found.append(self._containers.remove(offsets))
        if any(found):
            time.sleep(SETTLE)
        for offset in offsets:
            ports = self._settings.ports(offset)
            for port, part in ((ports.gateway, "gateway"), (ports.emulator, "emulator"), (ports.rapi, "rapi")):
                _require_free(port, part)

    def start(self, offset: int) -> None:
        ports = self._settings.ports(offset)
        storage = self._home(offset) / "storage"
        shutil.rmtree(self._home(offset), ignore_errors=True)
        storage.mkdir(parents=True)
        if self._containers is not None:
            containers = self._containers
            containers.start(offset, ports)
            # The engine takes connections to its ports before the container does, and hangs up on them.
            url = f"http://127.0.0.1:{ports.emulator}/api/status"
            wait_for_http_ready(url, self._settings.http_wait, POLL_NATIVE, lambda: containers.ended(offset))
        else:
            self._run(
                *("emulator", offset, str(installed("labyard-evse-emulator"))),
                *("--web-port", str(ports.emulator), "--serial-mode", "tcp", "--serial-tcp-port", str(ports.rapi)),
            )
        self._start_bridge(offset, ports)
        self._start_gateway(offset)

    def stop(self, offsets: list[int]) -> None:
        keys = [(part, offset) for part in PARTS for offset in offsets if (part, offset) in self._running]
        ending = [self._running.pop(key) for key in keys]
        for process in ending:
            process.terminate()
        if self._containers is not None:
            self._containers.remove(offsets)
        _wait_or_kill(ending)
        for offset in offsets:
            _remove_link(self._settings.ports(offset).pty)
            record_file(offset).unlink(missing_ok=True)

    def restart_native(self, offset: int) -> None:
        process = self._running.pop(("gateway", offset))
        process.terminate()
        _wait_or_kill([process])
        self._start_gateway(offset)

    def ended(self, part: str, offset: int) -> bool:
        process = self._running.get((part, offset))
        if process is None:
            return self._containers is None or self._containers.ended(offset)
        return process.poll() is not None

    def log(self, part: str, offset: int) -> str:
        if part == "emulator" and self._containers is not None:
            return self._containers.log(offset)
        path = self._home(offset) / f"{part}.log"
        return path.read_text(errors="replace")[-LOG_TAIL:] if path.exists() else ""

    def _start_bridge(self, offset: int, ports: Ports) -> None:
        socat = shutil.which("socat")
        if socat is None:
            raise PairError(socat_missing())
        # It makes the PTY at once, and tries again until the emulator listens.
        line = f"TCP:localhost:{ports.rapi},retry=300,interval=0.1"
        self._run("bridge", offset, socat, f"PTY,link={ports.pty},rawer", line)

    def _start_gateway(self, offset: int) -> None:
        ports = self._settings.ports(offset)
        words = ["--rapi-serial", str(ports.pty), "--set-config", f"www_http_port={ports.gateway}"]
        env = {}
        if self._native is not None:
            # Native builds of one host have the same name and id otherwise.
            env = {"OPENEVSE_CHIP_ID": f"{0xE5E000 + offset:012x}"}
            words += ["--set-config", f"hostname=openevse-native-{offset}"]
            _wait_for(ports.pty, self._settings.pty_wait)
        binary = self._native or installed("labyard-evse-gateway")
        self._run("gateway", offset, str(binary), *words, cwd=self._home(offset) / "storage", env=env)

    def _run(
        self, part: str, offset: int, *words: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        mdns = {name: os.environ.get(name, value) for name, value in MDNS.items()}
        with (self._home(offset) / f"{part}.log").open("ab") as output:
            self._running[part, offset] = subprocess.Popen(
                words,
                cwd=cwd or self._home(offset),
                env=kept | mdns | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the tests is not for them: they are ended in order
            )
        _record(offset, [process.pid for (_, number), process in self._running.items() if number == offset])

    def _clean(self, offset: int) -> bool:
        """Whether there was anything."""
        left = _recorded(offset)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: not any(map(is_alive, left)), f"what was left of pair {offset} ends")
        record_file(offset).unlink(missing_ok=True)
        return _remove_link(self._settings.ports(offset).pty) or bool(left)

    def _home(self, offset: int) -> Path:
        return self._folder / f"pair-{offset}"


def record_file(offset: int) -> Path:
    """Where the processes of a pair are recorded, for the run after one that was killed."""
    folder = Path(tempfile.gettempdir()) / f"labyard-evse-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PairError(f"{folder} belongs to somebody else: remove it, or set TMPDIR to a folder of your own")
    return folder / f"pair-{offset}.json"


def _record(offset: int, pids: list[int]) -> None:
    entries = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            entries.append([pid, psutil.Process(pid).create_time()])
    path = record_file(offset)
    path.with_suffix(".part").write_text(json.dumps(entries))
    path.with_suffix(".part").replace(path)


def _recorded(offset: int) -> list[psutil.Process]:
    """Those that still run; a number that has gone to another process since is not one of them."""
    try:
        entries = json.loads(record_file(offset).read_text())
    except (FileNotFoundError, ValueError):
        return []
    found = []
    for pid, created in entries:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == created:
                found.append(process)
    return found


def _remove_link(pty: Path) -> bool:
    """Whether there was one. PairError: there is a file of that name, which is never removed."""
    if pty.is_symlink():
        pty.unlink(missing_ok=True)
        return True
    if pty.exists():
        raise PairError(f"{pty} is no link, so it is not ours: move it away")
    return False


def _require_free(port: int, part: str) -> None:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        raise PairError(port_in_use(port, part, owner_of(port))) from None


def _wait_for(path: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)


def _wait_or_kill(processes: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
