"""RAPI's TCP connections, with a transport that only takes down what it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from labyard.evse.emulator.line import Line
from labyard.evse.emulator.tcp import Client


class Transport:
    def __init__(self) -> None:
        self.socket, self._other = socket.socketpair()
        self.is_reading = True

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("127.0.0.1", 1), "socket": self.socket}[name]

    def set_write_buffer_limits(self, high: int) -> None: ...

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.socket.close()
        self._other.close()


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport()
    yield made
    made.close()


async def test_one_who_floods_it_gives_the_others_a_turn(transport: Transport) -> None:
    commands: list[bytes] = []
    client = Client(Line(lambda _, text: commands.append(text), lambda: None, lambda: 0.0), lambda _: None)
    client.connection_made(cast(asyncio.Transport, transport))

    def receive(data: bytes) -> int:
        buffer = client.get_buffer(65536)
        taken = data[: len(buffer)]
        buffer[: len(taken)] = taken
        client.buffer_updated(len(taken))
        return len(taken)

    assert receive(b"$GS\r" * 10_000) < 1000
    assert 0 < len(commands) < 250
    assert not transport.is_reading
    await asyncio.sleep(0)
    assert transport.is_reading
    receive(b"$GS\r")
    assert transport.is_reading, "one who asks and waits is not held up"
