"""The serial line to the EVSE: a PTY that may come, go and come again: contract 2.5."""

from __future__ import annotations

import asyncio
import os
import termios
import tty
from collections.abc import Callable
from pathlib import Path

import structlog

from labyard.evse.gateway.rapi_client import RapiClient

REOPEN = 1.0  # seconds, of the real clock
log = structlog.get_logger(__name__)


class PtyLink:
    """Keeps `client` attached to the terminal at `path` as far as there is one."""

    def __init__(self, path: str, client: RapiClient, on_open: Callable[[], None]) -> None:
        self.opened = 0
        self._path = path
        self._client = client
        self._on_open = on_open
        self._fd: int | None = None
        self._problem = ""

    async def run(self) -> None:
        """Open it, look after it each second, close it when cancelled."""
        try:
            while True:
                if self._fd is None:
                    self._open()
                elif not self._is_the_one_at_path(self._fd):
                    self._close("the terminal at the path is another one, or gone")
                await asyncio.sleep(REOPEN)
        finally:
            self._close("the gateway ends")

    def _open(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as problem:
            self._cannot_open(os.strerror(problem.errno or 0))
            return
        try:
            tty.setraw(fd, termios.TCSANOW)
        except termios.error:
            os.close(fd)
            self._cannot_open("it is not a terminal")
            return
        self._fd, self._problem = fd, ""
        self.opened += 1
        asyncio.get_running_loop().add_reader(fd, self._read)
        log.info("serial line open", path=self._path, times=self.opened)
        self._client.attach(self._write)
        self._on_open()

    def _cannot_open(self, problem: str) -> None:
        if problem != self._problem:  # not each second
            log.warning("serial line is not there yet", path=self._path, problem=problem)
            self._problem = problem

    def _is_the_one_at_path(self, fd: int) -> bool:
        try:
            return Path(self._path).stat().st_rdev == os.fstat(fd).st_rdev
        except OSError:
            return False

    def _read(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return
        except OSError as problem:
            self._close(os.strerror(problem.errno or 0))
            return
        if data:
            self._client.received(data)
        else:
            self._close("the other end closed it")

    def _write(self, data: bytes) -> None:
        """What the terminal does not take is lost, as on a real line: the command times out."""
        if self._fd is None:
            return
        try:
            os.write(self._fd, data)
        except BlockingIOError:
            log.warning("serial line takes no more", path=self._path)
        except OSError as problem:
            self._close(os.strerror(problem.errno or 0))

    def _close(self, why: str) -> None:
        if self._fd is None:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = None
        log.warning("serial line closed", path=self._path, why=why)
        self._client.detach()
