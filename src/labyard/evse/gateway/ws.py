"""`/ws`: the whole status to each new client, then what changes: contract 5.6."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

# Messages that may wait for one client; one that reads no more than this slowly is let go.
MAX_WAITING = 64
MAX_MESSAGE = 64 * 1024

# Gets the value under its key, and the address of the client that sent it.
Handler = Callable[[Any, str], Awaitable[None] | None]


class Hub:
    """All clients of `/ws`."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status
        self._queues: set[asyncio.Queue[str | None]] = set()
        self._handlers: dict[str, Handler] = {}

    @property
    def clients(self) -> int:
        return len(self._queues)

    def handle(self, key: str, handler: Handler) -> None:
        """`handler` gets what clients send under that key."""
        self._handlers[key] = handler

    def publish(self, fields: dict[str, Any]) -> None:
        """Send these fields of the status to all clients."""
        if not self._queues or not fields:
            return
        text = json.dumps(fields)
        for queue in list(self._queues):
            try:
                queue.put_nowait(text)
            except asyncio.QueueFull:
                self._drop(queue)

    def close(self) -> None:
        for queue in list(self._queues):
            self._drop(queue)

    async def serve(self, socket: WebSocket) -> None:
        """One client, until it goes."""
        await socket.accept()
        queue: asyncio.Queue[str | None] = asyncio.Queue(MAX_WAITING)
        queue.put_nowait(json.dumps(self._status()))
        self._queues.add(queue)
        sending = asyncio.create_task(self._send(socket, queue))
        try:
            while (text := await self._receive(socket)) is not None:
                await self._take(text, socket, queue)
        finally:
            self._queues.discard(queue)
            sending.cancel()

    @staticmethod
    async def _receive(socket: WebSocket) -> str | None:
        """The next text; None: the client is gone."""
        try:
            message = await socket.receive()
        except RuntimeError:  # we have closed it
            return None
        if message["type"] == "websocket.disconnect":
            return None
        return message.get("text") or ""  # bytes say nothing here

    async def _take(self, text: str, socket: WebSocket, queue: asyncio.Queue[str | None]) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return
        if "ping" in message:
            try:
                queue.put_nowait('{"pong": 1}')
            except asyncio.QueueFull:
                self._drop(queue)
        client = socket.client.host if socket.client else ""
        for key, handler in self._handlers.items():
            if key in message:
                result = handler(message[key], client)
                if inspect.isawaitable(result):
                    await result

    def _drop(self, queue: asyncio.Queue[str | None]) -> None:
        """Empty its queue and end it: the sender closes the connection."""
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)

    @staticmethod
    async def _send(socket: WebSocket, queue: asyncio.Queue[str | None]) -> None:
        try:
            while (text := await queue.get()) is not None:
                await socket.send_text(text)
            await socket.close(1001)
        except (WebSocketDisconnect, RuntimeError):
            pass  # gone: the receiving side ends as well
