"""A real PTY, in a moment that cannot be hit from outside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from labyard.evse.clock import Clock
from labyard.evse.emulator.config import build
from labyard.evse.emulator.emulator import Emulator
from labyard.evse.emulator.pty import Pty
from labyard.testing.waiting import PATIENCE, wait_until_async


@pytest.fixture
def opened() -> Iterator[Callable[[str], int]]:
    """Opens the slave of that name."""
    with ExitStack() as ends:

        def begin(name: str) -> int:
            slave = os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            ends.callback(os.close, slave)
            return slave

        yield begin


async def _read(slave: int, marker: bytes) -> bytes:
    """What has come, up to and with this."""
    data = b""
    async with asyncio.timeout(PATIENCE):
        while marker not in data:
            try:
                data += os.read(slave, 4096)
            except BlockingIOError:
                await asyncio.sleep(0.001)
    return data


async def test_who_opens_it_and_writes_while_it_is_read_is_greeted_first(
    opened: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = Emulator(build({}), Clock())
    pty = Pty(emulator.line, tmp_path / "link", 115200, emulator.greet)
    pty.open()
    try:
        await _read(opened(pty.name), b"$AB")
        read, late = os.read, []

        def read_late(descriptor: int, length: int) -> bytes:
            if os.isatty(descriptor) and not late:
                late.append(opened(pty.name))
                os.write(late[0], b"$GV\r")
            return read(descriptor, length)

        with monkeypatch.context() as patched:
            patched.setattr(os, "read", read_late)
            os.write(opened(pty.name), b"$F1\r")
            await wait_until_async(lambda: late, "the PTY is read")
        answer = await _read(late[0], b"$OK 8.2.1")
        # The third one has read nothing: what is for all three stands before.
        assert answer.rindex(b"$AB") < answer.index(b"$OK")
    finally:
        pty.close()
