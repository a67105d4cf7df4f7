"""RAPI over TCP: several clients at once, and observers who only listen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import structlog

from labyard.evse.emulator.line import End, Line

# Bytes that may wait for a client which does not read, here and again in the kernel; then it is dropped.
_PATIENCE = 64 * 1024
_MOST_CLIENTS = 64
# Bytes that are read at once, some 100 commands: then it is the others' turn.
_PIECE = 512

log = structlog.get_logger(__name__)


class _Connection(asyncio.BufferedProtocol):
    def __init__(self, line: Line) -> None:
        self._line = line
        self._buffer = bytearray(_PIECE)
        self._transport: asyncio.Transport | None = None
        self.name = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_PATIENCE)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PATIENCE)
        host, port, *_ = transport.get_extra_info("peername")
        self.name = f"{host}:{port}"
        if len(self._line.ends) + len(self._line.observers) >= _MOST_CLIENTS:
            log.warning("refused: too many clients", client=self.name, most=_MOST_CLIENTS)
            self.hang_up()
            return
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received(bytes(self._buffer[:nbytes]))
        if nbytes == _PIECE and self._transport is not None and not self._transport.is_closing():
            # There is more, which uvloop would read at once.
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        log.warning("dropped: it does not read", client=self.name)
        self.hang_up()


class Client(_Connection):
    """`greet` is called with its end when it has come."""

    def __init__(self, line: Line, greet: Callable[[End], None]) -> None:
        super().__init__(line)
        self._greet = greet
        self._end: End | None = None

    def begin(self) -> None:
        self._end = End(self._line, self.name, self)
        self._line.attach(self._end)
        log.info("client connected", client=self.name)
        self._greet(self._end)

    def received(self, data: bytes) -> None:
        if self._end is not None:
            self._end.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._line.detach(self._end)
            log.info("client gone", client=self.name)


class Observer(_Connection):
    def begin(self) -> None:
        self._line.observers.add(self)

    def received(self, data: bytes) -> None:
        """It has no say."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.observers.discard(self)
