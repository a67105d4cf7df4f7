"""A link to a peer that cannot be reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from labyard.evse.clock import Clock, settle
from labyard.evse.sharing.calls import CallError
from labyard.evse.sharing.link import PeerLink
from labyard.evse.sharing.peers import Peer


class Nobody:
    """In place of all that a link uses: the peer is nowhere. `attempts` counts how often it was looked for."""

    attempts = 0

    async def where(self, peer: Peer) -> tuple[str, str]:
        self.attempts += 1
        raise CallError("it is nowhere")

    def peer_lost(self, host: str) -> None: ...


@asynccontextmanager
async def running(nobody: Any, clock: Clock) -> AsyncIterator[PeerLink]:
    link = PeerLink(Peer("one.local:8001"), nobody, nobody, nobody, clock)
    task = asyncio.create_task(link.run())
    await settle()
    yield link
    task.cancel()


async def test_it_is_tried_again_after_longer_and_longer() -> None:
    nobody, clock = Nobody(), Clock()
    clock.set("manual")
    async with running(nobody, clock):
        for seconds, attempts in ((1, 2), (1, 2), (1, 3), (4, 4)):
            await clock.advance(seconds)
            await settle()
            assert nobody.attempts == attempts


async def test_it_is_tried_at_once_when_it_has_come_back() -> None:
    nobody, clock = Nobody(), Clock()
    clock.set("manual")
    async with running(nobody, clock) as link:
        for attempts in (2, 3):
            link.retry()
            await settle()
            assert nobody.attempts == attempts
        await settle()
        assert nobody.attempts == 3, "only then"


class Slow(Nobody):
    """Each attempt fails only when `fail` is set."""

    def __init__(self) -> None:
        self.fail = asyncio.Event()

    async def where(self, peer: Peer) -> tuple[str, str]:
        self.attempts += 1
        await self.fail.wait()
        raise CallError("it is nowhere")


async def test_one_that_comes_back_while_an_attempt_is_failing_is_tried_again_at_once() -> None:
    nobody, clock = Slow(), Clock()
    clock.set("manual")
    async with running(nobody, clock) as link:
        link.retry()
        nobody.fail.set()
        await settle()
        assert nobody.attempts == 2
        await settle()
        assert nobody.attempts == 2, "only once"
