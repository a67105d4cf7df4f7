"""Runs the emulator: its ports and its PTY, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from labyard.evse.clock import Clock
from labyard.evse.emulator.api.app import create_app
from labyard.evse.emulator.api.body import LARGEST
from labyard.evse.emulator.config import Config, ConfigError
from labyard.evse.emulator.emulator import Emulator
from labyard.evse.emulator.pty import Pty
from labyard.evse.emulator.tcp import Client, Observer

# Seconds for requests in flight; the whole must end in 2.
_GRACE = 1

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Waits to be told of the end, where uvicorn looks ten times a second: there are many of us on a machine."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = asyncio.Event()

    def end(self) -> None:
        self._end.set()

    async def main_loop(self) -> None:
        await self._end.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are handled below: uvicorn would raise them again when it ends."""
        yield


async def serve(config: Config) -> None:
    """ConfigError: a port is taken, or there is no such address."""
    clock = Clock(config.simulation.time_scale)
    emulator = Emulator(config, clock)
    server = _Server(
        uvicorn.Config(
            create_app(emulator),
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=LARGEST,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    web = _listen(config, "web.port", config.web.port)
    async with AsyncExitStack() as ends:
        upkeep = await _open_line(config, emulator, ends)
        log.info("the HTTP API listens", host=config.web.host, port=config.web.port, pid=os.getpid())
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(work) for work in (emulator.run(), *upkeep)]
            await server.serve(sockets=[web])
            for task in background:
                task.cancel()
    log.info("stopped")


async def _open_line(config: Config, emulator: Emulator, ends: AsyncExitStack) -> list[Coroutine[Any, Any, None]]:
    """Let clients and observers come; `ends` sends them away. Returns what has to run meanwhile."""
    serial, line = config.serial, emulator.line
    loop = asyncio.get_running_loop()
    upkeep: list[Coroutine[Any, Any, None]] = []
    if serial.observer_port is not None:
        listening = _listen(config, "serial.observer_port", serial.observer_port)
        ends.callback((await loop.create_server(lambda: Observer(line), sock=listening)).close)
    if serial.mode == "tcp":
        listening = _listen(config, "serial.tcp_port", serial.tcp_port)
        ends.callback((await loop.create_server(lambda: Client(line, emulator.greet), sock=listening)).close)
        ends.callback(line.hang_up)
        log.info("RAPI is ready", host=config.web.host, port=serial.tcp_port)
    else:
        pty = Pty(line, Path(serial.pty_path), serial.baudrate, emulator.greet)
        try:
            linked = pty.open()
        except OSError as error:
            raise ConfigError(f"serial.mode: cannot make a PTY: {error.strerror}. Free one, or use tcp.") from None
        ends.callback(pty.close)
        if linked:
            upkeep.append(pty.keep_link(serial.reconnect_backoff_ms / 1000, serial.reconnect_timeout_sec))
    return upkeep


def _listen(config: Config, key: str, port: int) -> socket.socket:
    host = config.web.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        code = error.errno or 0
        if code < 0 or code == errno.EADDRNOTAVAIL:  # the resolver's own numbers are negative
            raise ConfigError(f"web.host: {host} is no address of this machine") from None
        raise ConfigError(
            f"{key}: cannot listen on {host} port {port}: {os.strerror(code)}. Give another port, or end what has it."
        ) from None
    listening.setblocking(False)
    return listening
