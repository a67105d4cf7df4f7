"""One emulator, a bridge and a gateway, all real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import httpx
from ports import free_port

from integration.evse.gateway.conftest import GatewayProcess
from integration.evse.patient import GATEWAY, PATIENT_GATEWAY
from labyard.testing.waiting import PATIENCE, wait_until

Bridge = Literal["socat", "wait-slave", "none"]


class Pair:
    """`scale` is how fast both live; `bridge` is what is between them: socat, socat that waits until the gateway opens
    the PTY, or nothing but a PTY of the emulator. `patient`: see patient.py."""

    def __init__(
        self,
        directory: Path,
        scale: float = 1.0,
        bridge: Bridge = "socat",
        *emulator_flags: str,
        patient: bool = True,
    ) -> None:
        self.directory = directory
        self.rapi_port, self.web_port = free_port(), free_port()
        self.pty = directory / "pty"
        self._flags = ["--time-scale", str(scale), *emulator_flags]
        self._bridge = bridge
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.web_port}", timeout=PATIENCE)
        self.start_emulator()
        self.start_bridge()
        storage = directory / "gateway"
        storage.mkdir()
        program = PATIENT_GATEWAY if patient else GATEWAY
        self.gateway = GatewayProcess(storage, str(self.pty), 0, None, "--time-scale", str(scale), program=program)

    def start_emulator(self) -> None:
        flags = ["--web-port", str(self.web_port)]
        if self._bridge == "none":
            flags += ["--serial-mode", "pty", "--serial-pty-path", str(self.pty)]
        else:
            flags += ["--serial-mode", "tcp", "--serial-tcp-port", str(self.rapi_port)]
        self._start("emulator", [sys.executable, "-m", "labyard.evse.emulator", *flags, *self._flags])
        wait_until(self._emulator_answers, "the emulator answers", despite=httpx.TransportError)

    def _emulator_answers(self) -> bool:
        assert not self.ended("emulator")
        return self.http.get("/api/status").status_code == 200

    def start_bridge(self) -> None:
        """It needs the emulator."""
        if self._bridge == "none":
            return
        pty = f"PTY,link={self.pty},rawer" + (",wait-slave" if self._bridge == "wait-slave" else "")
        self._start("bridge", ["socat", pty, f"TCP:localhost:{self.rapi_port}"])

    def stop(self, name: str) -> None:
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        if name == "bridge":
            self.pty.unlink(missing_ok=True)  # socat has no time to

    def ended(self, name: str) -> bool:
        return self._running[name].poll() is not None

    def close(self) -> None:
        self.gateway.stop(signal.SIGKILL)
        for name in list(self._running):
            self.stop(name)
        self.http.close()

    def ready(self) -> None:
        self.until(lambda: self.gateway.status()["evse_connected"] == 1)

    def until(self, holds: Any) -> None:
        self.gateway.until(holds)

    def wait(self, **wanted: Any) -> dict[str, Any]:
        """Until the gateway's status is so; that status."""

        def as_wanted() -> dict[str, Any] | None:
            status = self.gateway.status()
            return status if {key: status[key] for key in wanted} == wanted else None

        found: dict[str, Any] = self.gateway.until(as_wanted)
        return found

    def do(self, path: str, **content: Any) -> None:
        """Something at the emulator: do("ev/connect"), do("ev/soc", soc=80)."""
        answer = self.http.post(f"/api/{path}", json=content)
        assert answer.status_code == 200, answer.text

    def request(self) -> None:
        """A car that wants to charge."""
        self.do("ev/connect")
        self.do("ev/request_charge")

    def charge(self) -> None:
        self.request()
        self.wait(state=3, vehicle=1)

    def rapi(self, command: str) -> dict[str, Any]:
        found: dict[str, Any] = self.gateway.http.get("/r", params={"json": 1, "rapi": command}).json()
        return found

    def _start(self, name: str, words: list[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as output:
            self._running[name] = subprocess.Popen(
                words, cwd=self.directory, stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ)
            )
