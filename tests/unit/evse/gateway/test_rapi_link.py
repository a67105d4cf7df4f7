from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from labyard.evse.gateway import rapi_client, rapi_link
from labyard.evse.gateway.rapi_client import RapiClient
from labyard.evse.gateway.rapi_link import PtyLink
from labyard.evse.rapi import decode, encode
from labyard.testing.waiting import PATIENCE, wait_until_async


class Terminal:
    """The other end of a PTY; it repeats each command behind OK."""

    def __init__(self, path: Path) -> None:
        self.master, self._slave = os.openpty()
        os.set_blocking(self.master, False)
        path.unlink(missing_ok=True)
        path.symlink_to(os.ttyname(self._slave))
        asyncio.get_running_loop().add_reader(self.master, self._answer)

    def hang_up(self) -> None:
        asyncio.get_running_loop().remove_reader(self.master)
        os.close(self._slave)
        os.close(self.master)

    def say(self, data: bytes) -> None:
        os.write(self.master, data)

    def _answer(self) -> None:
        for line in os.read(self.master, 4096).split(b"\r"):
            if line:
                self.say(encode("OK", *decode(line).tokens))


class Gateway:
    def __init__(self, path: Path) -> None:
        self.events: list[Sequence[str]] = []
        self.client = RapiClient(self.events.append, lambda _: None)
        self.link = PtyLink(str(path), self.client, lambda: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pty"


@pytest.fixture
async def gateway(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(rapi_link, "REOPEN", 0.02)
    monkeypatch.setattr(rapi_client, "TIMEOUT", PATIENCE)
    made = Gateway(path)
    running = asyncio.create_task(made.link.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


async def test_bytes_pass_as_they_are(gateway: Gateway, path: Path) -> None:
    terminal = Terminal(path)
    await wait_until_async(lambda: gateway.link.opened, "the link is open")
    reply = await gateway.client.send("$FP 0 0 a b")
    assert reply.words == ("FP", "0", "0", "a\xfeb")
    terminal.say(b"$AB 00 8.2.1^1C\r")
    await wait_until_async(lambda: gateway.events == [("AB", "00", "8.2.1")], "the event is told")
    terminal.hang_up()


async def test_it_comes_late_goes_and_comes_again(gateway: Gateway, path: Path) -> None:
    await asyncio.sleep(0.05)
    assert gateway.link.opened == 0
    for times in (1, 2):
        terminal = Terminal(path)
        await wait_until_async(lambda times=times: gateway.link.opened == times, f"it is open, time {times}")
        assert (await gateway.client.send("$GV")).ok
        path.unlink()  # the kernel may give the terminal's number to another program at once
        terminal.hang_up()
        await wait_until_async(lambda: not gateway.client.connected, "the link is closed")


async def test_another_terminal_at_the_path_is_taken(gateway: Gateway, path: Path) -> None:
    old = Terminal(path)
    await wait_until_async(lambda: gateway.link.opened == 1, "the first terminal is open")
    new = Terminal(path)  # while the old one still lives
    await wait_until_async(lambda: gateway.link.opened == 2, "the second terminal is open")
    assert (await gateway.client.send("$GV")).ok
    path.unlink()
    await wait_until_async(lambda: not gateway.client.connected, "the link is closed")
    old.hang_up()
    new.hang_up()


async def test_what_is_no_terminal_is_not_written_to(gateway: Gateway, path: Path) -> None:
    path.write_text("precious")
    await asyncio.sleep(0.05)
    assert gateway.link.opened == 0
    assert path.read_text() == "precious"


async def test_a_terminal_that_nobody_reads_costs_the_command_only(gateway: Gateway, path: Path) -> None:
    terminal = Terminal(path)
    await wait_until_async(lambda: gateway.link.opened, "the link is open")
    asyncio.get_running_loop().remove_reader(terminal.master)
    for _ in range(20000):  # until its buffer is full
        gateway.link._write(b"x" * 80)
    assert gateway.link.opened == 1
    terminal.hang_up()
