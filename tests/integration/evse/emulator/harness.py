"""The real program as a process, and clients of its RAPI line."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from ports import free_port

from labyard.evse.emulator.config import KEYS
from labyard.evse.rapi import Checksum, LineReader, decode, encode
from labyard.testing.waiting import PATIENCE, wait_until

_OURS = {key.env for key in KEYS.values()}


class EmulatorProcess:
    """Started with these arguments in a folder; as a context it is ended with SIGTERM and must exit with 0."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.web_port = free_port()
        self.log_file = folder / f"emulator-{self.web_port}.log"
        self.url = f"http://127.0.0.1:{self.web_port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE)
        clean = {name: value for name, value in os.environ.items() if name not in _OURS}
        with self.log_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "labyard.evse.emulator", "--web-port", str(self.web_port), *arguments],
                cwd=folder,
                env=clean | (env or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> Self:
        wait_until(self._is_ready, f"{self.url}/api/status")
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.http.get("/api/status").status_code == 200
        except httpx.TransportError:
            return False

    def post(self, path: str, **body: object) -> None:
        answer = self.http.post(path, json=body) if body else self.http.post(path)
        assert (answer.status_code, answer.json()) == (200, {"success": True}), answer.text

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            code = self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        if kind is None:
            assert code == 0, self.log()


class Rapi:
    """One end of the line, over a descriptor: a TCP connection or a PTY's slave."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._reader = LineReader(limit=100)
        self._lines: list[str] = []

    @classmethod
    def tcp(cls, port: int) -> Rapi:
        return cls(socket.create_connection(("127.0.0.1", port), PATIENCE).detach())

    @classmethod
    def pty(cls, path: Path) -> Rapi:
        return cls(os.open(path, os.O_RDWR | os.O_NOCTTY))

    def write(self, data: bytes) -> None:
        assert os.write(self._descriptor, data) == len(data)

    def send(self, command: str) -> None:
        self.write(encode(*command.split()))

    def line(self) -> str:
        """The next one, its checksum looked at and left out. EOFError: the other side has hung up."""
        end = time.monotonic() + PATIENCE
        while not self._lines:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
            assert ready, "no line came"
            try:
                data = os.read(self._descriptor, 4096)
            except OSError:
                data = b""
            if not data:
                raise EOFError
            for raw in self._reader.feed(data):
                assert decode(raw).checksum is Checksum.GOOD, raw
                self._lines.append(raw.decode("latin-1").rpartition("^")[0])
        return self._lines.pop(0)

    def ask(self, command: str) -> str:
        """The reply; asynchronous lines before it are passed over."""
        self.send(command)
        while True:
            line = self.line()
            if not line.startswith("$A"):
                return line

    def wait_for(self, line: str) -> None:
        """Passes over what comes before it."""
        seen = []
        while not seen or seen[-1] != line:
            try:
                seen.append(self.line())
            except AssertionError:
                raise AssertionError(f"{line} did not come, but {seen}") from None

    def is_silent(self) -> bool:
        """Whether nothing has come until a moment from now in which anything would have."""
        ready, _, _ = select.select([self._descriptor], [], [], 0.2)
        return not ready and not self._lines

    def close(self) -> None:
        """A second time is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
