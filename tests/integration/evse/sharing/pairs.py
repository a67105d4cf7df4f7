"""Pairs of real emulator, bridge and gateway on one host, started side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from ports import free_port

from integration.evse.patient import PATIENT_GATEWAY
from labyard.testing.waiting import PATIENCE, wait_until

GROUP = {
    "loadsharing_enabled": True,
    "loadsharing_role": "controller",
    "loadsharing_group_max_current": 32,
    "loadsharing_group_id": "test",
}


class Gateway:
    """The gateway of a pair, or one without an EVSE."""

    def __init__(self, folder: Path, rapi: str = "/nowhere/pty", mdns: str = "own", **env: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE)
        self._rapi = rapi
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LABYARD", "RAPI"))}
        self._env = clean | {"LABYARD_MDNS": mdns} | env
        self.start()

    def start(self) -> None:
        with (self.folder / "gateway.log").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(*PATIENT_GATEWAY, "--rapi-serial", self._rapi),
                    *("--set-config", f"www_http_port={self.port}"),
                ],
                cwd=self.folder,
                env=self._env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def ready(self) -> None:
        wait_until(self._answers, f"{self.url}/config")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/status").json()
        return found

    @property
    def group(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/loadsharing/status").json()
        return found

    @property
    def peers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get("/loadsharing/peers").json()
        return found

    @property
    def hostname(self) -> str:
        return str(self.http.get("/config").json()["hostname"])

    def configure(self, **values: Any) -> None:
        answer = self.http.post("/config", json={f"loadsharing_{key}": value for key, value in values.items()})
        assert answer.status_code == 200, answer.text

    def add(self, host: str, **more: Any) -> httpx.Response:
        return self.http.post("/loadsharing/peers", json={"host": host} | more)

    def targets(self) -> list[float]:
        return sorted(entry["target_current"] for entry in self.group["allocations"])

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.http.get("/config").status_code == 200
        except httpx.TransportError:
            return False


class Pair(Gateway):
    def __init__(self, folder: Path, **env: str) -> None:
        (folder / "emulator").mkdir(parents=True)
        self._emulator_folder = folder / "emulator"
        self._pty = folder / "pty"
        self._rapi_port, self.web_port = free_port(), free_port()
        self.emulator = httpx.Client(base_url=f"http://127.0.0.1:{self.web_port}/api", timeout=PATIENCE)
        self._others = [
            self._run(
                *(sys.executable, "-m", "labyard.evse.emulator", "--web-port", str(self.web_port)),
                *("--serial-mode", "tcp", "--serial-tcp-port", str(self._rapi_port)),
                env=env,
            )
        ]
        super().__init__(folder / "gateway", str(self._pty), **env)

    def ready(self) -> None:
        wait_until(self._emulator_answers, "emulator")
        self.plug()
        super().ready()
        wait_until(lambda: self.status["evse_connected"], f"{self.url}: EVSE ready")

    def plug(self) -> None:
        """Start the bridge between gateway and EVSE."""
        self._bridge = self._run("socat", f"PTY,link={self._pty},rawer", f"TCP:localhost:{self._rapi_port}")
        self._others.append(self._bridge)

    def unplug(self) -> None:
        self._bridge.terminate()
        self._bridge.wait(PATIENCE)

    def do(self, path: str, **content: Any) -> None:
        answer = self.emulator.post(path, json=content)
        assert answer.status_code == 200, answer.text

    def charge(self) -> None:
        self.do("ev/connect")
        self.do("ev/request_charge")

    @property
    def amps(self) -> float:
        """What the car draws."""
        return float(self.emulator.get("evse/status").json()["actual_current"])

    @property
    def offer(self) -> int:
        """What the EVSE offers, 0 while it sleeps."""
        status = self.emulator.get("evse/status").json()
        return 0 if status["state"] >= 254 else int(status["current_capacity"])

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        for process in self._others:
            process.kill()
            process.wait(PATIENCE)

    def _run(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self._emulator_folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                words, cwd=self._emulator_folder, env=os.environ | (env or {}), stdout=output, stderr=subprocess.STDOUT
            )

    def _emulator_answers(self) -> bool:
        try:
            return self.emulator.get("status").status_code == 200
        except httpx.TransportError:
            return False


def names_of(found: list[dict[str, Any]]) -> str:
    return json.dumps([(entry["host"], entry["online"], entry["joined"]) for entry in found])
