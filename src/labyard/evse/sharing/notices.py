"""What peers are told once, beside their links: that they were added, or let go: contract 5.5, 6.2."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import structlog

from labyard.evse.clock import Clock
from labyard.evse.sharing.calls import CallError, Calls
from labyard.evse.sharing.link import retry_delay
from labyard.evse.sharing.peers import Peer, PeerBook

log = structlog.get_logger(__name__)

TIMEOUT = 5.0  # s, real
RESET_TRIES = 3
RESET = {"loadsharing_enabled": False, "loadsharing_role": "", "loadsharing_controller_host": ""}


class Notices:
    """In the background; what a peer is told last counts."""

    def __init__(self, book: PeerBook, calls: Calls, clock: Clock) -> None:
        self._book = book
        self._calls = calls
        self._clock = clock
        self._resets: dict[str, asyncio.Task[None]] = {}  # by host
        self._tasks: set[asyncio.Task[None]] = set()

    def let_go(self, peer: Peer) -> None:
        """It is no member any more. Tried three times."""
        self.keep(peer.host)
        self._resets[peer.host] = self._begin(self._let_go(peer))

    def keep(self, host: str) -> None:
        """It is a member again: it must not be let go by what is still under way."""
        task = self._resets.pop(host, None)
        if task is not None:
            task.cancel()

    def introduce(self, peer: Peer, own_host: str) -> None:
        """That we have added it (`reciprocal`). Once."""
        self._begin(self._introduce(peer, own_host))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _let_go(self, peer: Peer) -> None:
        for failures in range(RESET_TRIES):
            if await self._post(peer, "/config", RESET):
                break
            await self._clock.sleep(retry_delay(failures))
        del self._resets[peer.host]

    async def _introduce(self, peer: Peer, own_host: str) -> None:
        await self._post(peer, "/loadsharing/peers", {"host": own_host, "reciprocal": False})

    async def _post(self, peer: Peer, path: str, content: object) -> bool:
        """Whether it took it."""
        try:
            url, _ = await self._book.where(peer)
            await self._calls.post(peer.host, url + path, content, TIMEOUT)
        except CallError as problem:
            log.info("peer was not told that it was added or removed", peer=peer.host, problem=str(problem))
            return False
        return True
