"""The controller's link to one member: GET /status, then its web socket; configuration goes over POST /config.

Contract 6.2. Whatever fails, it is tried again after min(60, 2^n) s.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from labyard.evse.clock import Clock
from labyard.evse.sharing import wire
from labyard.evse.sharing.calls import CallError, Calls, unverified
from labyard.evse.sharing.demand import Report
from labyard.evse.sharing.group import Offer
from labyard.evse.sharing.peers import Peer, PeerBook

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

log = structlog.get_logger(__name__)

PING = 15.0  # s, real; twice as long without an answer is stale
MAX_WAITING = 64  # offers that wait to be sent, or for their pong
MAX_MESSAGE = 64 * 1024


class Owner(Protocol):
    """What the controller wants to know of its links."""

    def peer_reported(self, host: str, report: Report, acked: int | None) -> None: ...
    def peer_heard(self, host: str) -> None: ...
    def peer_linked(self, host: str) -> None: ...
    def peer_lost(self, host: str) -> None: ...
    def peer_acked(self, host: str, seq: int, sent_at: float) -> None: ...
    def acknowledged(self, host: str) -> int: ...
    def member_config(self) -> dict[str, Any]: ...
    def heartbeat_timeout(self) -> float: ...


def retry_delay(failures: int) -> float:
    """Seconds after the n-th failure in a row."""
    return float(min(60, 2 ** min(failures, 6)))


class PeerLink:
    def __init__(self, peer: Peer, owner: Owner, book: PeerBook, calls: Calls, clock: Clock) -> None:
        self.peer = peer
        self.status: dict[str, Any] = {}
        self.url = ""
        self.last_seen: float | None = None  # real clock
        self._owner = owner
        self._book = book
        self._calls = calls
        self._clock = clock
        self._failures = 0
        self._outgoing: asyncio.Queue[tuple[Offer, float]] = asyncio.Queue(MAX_WAITING)
        self._pings: deque[tuple[int, float]] = deque()
        self._push_wanted = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._linked = False
        self._retry = asyncio.Event()
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """Until cancelled, or until it turns out that the peer is here under another name."""
        while True:
            try:
                if not await self._introduce():
                    return
                await self._talk()
            except CallError as problem:
                log.info("peer is not to be reached", peer=self.peer.host, problem=str(problem))
            except Exception:  # whatever a peer may do, it is tried again
                log.exception("link to a peer failed", peer=self.peer.host)
            finally:
                self._unlink()
            delay = retry_delay(self._failures)
            self._failures += 1
            await self._pause(delay)

    def retry(self) -> None:
        """It has come back: do not wait any longer."""
        self._retry.set()

    def send(self, offer: Offer, now: float) -> None:
        if not self._linked:
            return
        if self._outgoing.full() or len(self._pings) >= MAX_WAITING:  # it reads nothing, or does not answer
            self.cut()
            return
        self._outgoing.put_nowait((offer, now))

    def cut(self) -> None:
        """End the connection, and lose what is still on its way."""
        self._unlink()
        if self._socket is not None:
            connection = self._socket.transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.transport.abort()

    def push(self) -> None:
        """Send it the configuration of a member, again."""
        self._push_wanted.set()

    def look(self) -> None:
        """Ask for its status now: a fresh report would help."""
        if self._linked and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_quietly())

    async def _pause(self, seconds: float) -> None:
        ends = [asyncio.create_task(self._clock.sleep(seconds)), asyncio.create_task(self._retry.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            # Not before: it may come back while an attempt is failing that began before.
            self._retry.clear()
        finally:
            for end in ends:
                end.cancel()

    async def _introduce(self) -> bool:
        """Who and how it is. False: it is another peer under a second name."""
        self.url, self.peer.address = await self._book.where(self.peer)
        await self._look()
        if wire.report(self.status) is None:
            raise CallError(f"{self.url}/status: it tells no state and pilot")
        config = await self._calls.get(self.peer.host, f"{self.url}/config")
        device_id = _text(config.get("wifi_serial")).lower()
        return self._book.learned(self.peer, device_id, _text(config.get("hostname")), _text(config.get("version")))

    async def _look(self) -> None:
        acked = self._owner.acknowledged(self.peer.host)
        status = await self._calls.get(self.peer.host, f"{self.url}/status")
        self._take(status, acked)

    async def _look_quietly(self) -> None:
        try:
            await self._look()
        except CallError as problem:
            log.info("peer does not tell its status", peer=self.peer.host, problem=str(problem))

    async def _talk(self) -> None:
        """Over the web socket, until it ends: always with a CallError."""
        # With the first peer; a gateway that is alone does without.
        from websockets.exceptions import WebSocketException

        try:
            await self._calls.faults.call(self.peer.host)
            await self._converse()
        except ExceptionGroup as problems:
            expected, other = problems.split((WebSocketException, OSError, TimeoutError, CallError))
            if other is not None:
                raise other from None
            raise CallError(f"{self.url}/ws: {_first(expected)}") from None
        except (WebSocketException, OSError, TimeoutError) as problem:
            raise CallError(f"{self.url}/ws: {problem}") from None

    async def _converse(self) -> None:
        from websockets.asyncio.client import connect

        class Connect(connect):
            def process_redirect(self, exc: Exception) -> Exception | str:
                return exc  # a peer does not say where else we call

        async with Connect(
            f"ws{self.url.removeprefix('http')}/ws",
            additional_headers=self._calls.authorization(),
            max_size=MAX_MESSAGE,
            ping_interval=PING,
            ping_timeout=PING,
            proxy=None,
            ssl=unverified() if self.url.startswith("https") else None,
        ) as connection:
            self._socket = connection
            self._link()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all(connection))
                group.create_task(self._push_forever())
                group.create_task(self._receive(connection))

    def _link(self) -> None:
        self._failures = 0
        self._pings.clear()
        while not self._outgoing.empty():
            self._outgoing.get_nowait()
        self._linked = True
        self._push_wanted.set()
        self._owner.peer_linked(self.peer.host)

    def _unlink(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._linked:
            self._linked = False
            self._owner.peer_lost(self.peer.host)

    async def _receive(self, connection: ClientConnection) -> None:
        async for text in connection:
            if await self._calls.faults.message(self.peer.host):
                self._message(text)
        raise CallError("the web socket was closed")

    def _message(self, text: str | bytes) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return
        self.last_seen = time.monotonic()
        if "pong" in message and self._pings:
            self._owner.peer_acked(self.peer.host, *self._pings.popleft())
        self._take(message, None)

    def _take(self, message: dict[str, Any], acked: int | None) -> None:
        self.last_seen = time.monotonic()
        before = self.status.get("config_version")
        is_news = wire.merge(self.status, message)
        if before is not None and self.status.get("config_version") != before and acked is None:
            self.look()
        report = wire.report(self.status) if is_news else None
        if report is None:
            self._owner.peer_heard(self.peer.host)
        else:
            self._owner.peer_reported(self.peer.host, report, acked)

    async def _send_all(self, connection: ClientConnection) -> None:
        """Each offer with a ping behind it: its pong says that the offer has arrived."""
        while True:
            offer, now = await self._outgoing.get()
            if not await self._calls.faults.message(self.peer.host):
                continue
            expires = self._owner.heartbeat_timeout()
            await connection.send(json.dumps(wire.allocation(offer, expires)))
            self._pings.append((offer.seq, now))
            await connection.send('{"ping":1}')

    async def _push_forever(self) -> None:
        failures = 0
        while True:
            await self._push_wanted.wait()
            self._push_wanted.clear()
            try:
                await self._calls.post(self.peer.host, f"{self.url}/config", self._owner.member_config())
                failures = 0
            except CallError as problem:
                log.warning("peer did not take the configuration", peer=self.peer.host, problem=str(problem))
                await self._clock.sleep(retry_delay(failures))
                failures += 1
                self._push_wanted.set()


def _first(problems: BaseExceptionGroup[BaseException] | None) -> object:
    problem: object = problems
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem


def _text(value: Any) -> str:
    return value[:255] if isinstance(value, str) else ""
