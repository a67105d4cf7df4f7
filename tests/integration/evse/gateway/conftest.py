"""The real gateway as a process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port

from integration.evse.patient import GATEWAY
from labyard.testing.waiting import PATIENCE, wait_until

NOBODY = "/nowhere/pty"  # nobody will ever be there


class GatewayProcess:
    """`directory` keeps its files; `log` is what it printed."""

    def __init__(
        self,
        directory: Path,
        rapi: str = NOBODY,
        port: int = 0,
        env: dict[str, str] | None = None,
        *extra: str,
        program: Sequence[str] = GATEWAY,
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.log = directory / "output.log"
        words = ["--rapi-serial", rapi, "--set-config", f"www_http_port={self.port}", *extra]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*program, *words],
                cwd=directory,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if not name.startswith(("LABYARD", "RAPI"))}
                | {"LABYARD_MDNS": "off"}
                | (env or {}),
            )
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE)
        self.until(lambda: self.answers())

    def answers(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"the gateway ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            return self.http.get("/config").status_code in (200, 401)
        except httpx.TransportError:
            return False

    def until(self, holds: Callable[[], Any]) -> Any:
        """What `holds` returns. AssertionError with the end of its log."""
        return wait_until(holds, lambda: f"the gateway said\n{self.log.read_text()[-4000:]}")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/status").json()
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


Start = Callable[..., GatewayProcess]


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Start]:
    started: list[GatewayProcess] = []

    def start(
        *extra: str, name: str = "gateway", rapi: str = NOBODY, port: int = 0, env: dict[str, str] | None = None
    ) -> GatewayProcess:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        process = GatewayProcess(directory, rapi, port, env, *extra)
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One without an EVSE, for all tests of a file that leave it as it was."""
    process = GatewayProcess(tmp_path_factory.mktemp("lone"))
    yield process
    process.stop()
