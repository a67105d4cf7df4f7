"""/ws: {"type": "state_change" | "status_update" | "error", "data": {…}}."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect

from labyard.evse.emulator import status
from labyard.evse.emulator.emulator import Emulator

_MOST_CLIENTS = 64
_MOST_WAITING = 100  # frames for a client that does not read; then it is dropped
_TRY_AGAIN_LATER = 1013
_SHORTEST_PAUSE = 0.2  # s between status updates: time may run fast


def refuse(_: Emulator) -> None:
    """Who asks without an upgrade."""
    raise HTTPException(426, "/ws is a web socket", headers={"Upgrade": "websocket"})


async def serve(socket: WebSocket, emulator: Emulator) -> None:
    """One client, until it goes. What it sends is ignored."""
    await socket.accept()
    if len(emulator.listeners) >= _MOST_CLIENTS:
        await socket.close(_TRY_AGAIN_LATER)
        return
    waiting: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_MOST_WAITING)
    updated = 0.0

    def listen(kind: str, data: dict[str, Any]) -> None:
        nonlocal updated
        if kind == "status_update":
            if time.monotonic() - updated < _SHORTEST_PAUSE:
                return
            updated = time.monotonic()
        if waiting.full():
            emulator.listeners.discard(listen)
            while not waiting.empty():
                waiting.get_nowait()
            waiting.put_nowait(None)
        else:
            waiting.put_nowait({"type": kind, "data": data})

    emulator.listeners.add(listen)
    listen("status_update", status.both(emulator.evse))
    try:
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(_send(socket, waiting))
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
            sender.cancel()
    finally:
        emulator.listeners.discard(listen)


async def _send(socket: WebSocket, waiting: asyncio.Queue[dict[str, Any] | None]) -> None:
    try:
        while (frame := await waiting.get()) is not None:
            await socket.send_json(frame)
        await socket.close(_TRY_AGAIN_LATER)
    except (WebSocketDisconnect, RuntimeError):
        return  # it went while we were sending
