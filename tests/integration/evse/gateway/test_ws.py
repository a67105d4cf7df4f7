"""`/ws`: contract 5.6."""

from __future__ import annotations

import json
from typing import Any

from websockets.sync.client import ClientConnection, connect

from integration.evse.gateway.conftest import GatewayProcess
from labyard.testing.waiting import PATIENCE


def receive(socket: ClientConnection, key: str) -> Any:
    """The next message that has that key."""
    for _ in range(20):
        message = json.loads(socket.recv(PATIENCE))
        if key in message:
            return message
    raise AssertionError(f"no {key} in 20 messages")


def open_socket(gateway: GatewayProcess) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{gateway.port}/ws", open_timeout=PATIENCE)


def test_begins_with_the_whole_status(lone: GatewayProcess) -> None:
    with open_socket(lone) as socket:
        first = json.loads(socket.recv(PATIENCE))
    assert first.keys() == lone.status().keys()


def test_answers_pings(lone: GatewayProcess) -> None:
    with open_socket(lone) as socket:
        socket.recv(PATIENCE)
        socket.send('{"ping":1}')
        assert receive(socket, "pong") == {"pong": 1}
        assert socket.ping().wait(PATIENCE)


def test_tells_what_to_fetch_again(lone: GatewayProcess) -> None:
    with open_socket(lone) as first, open_socket(lone) as second:
        for socket in (first, second):
            before = json.loads(socket.recv(PATIENCE))
        lone.http.post("/config", json={"lang": "fr"})
        lone.http.post("/override", json={"state": "disabled"})
        lone.http.delete("/override")
        for socket in (first, second):
            assert receive(socket, "config_version") == {"config_version": before["config_version"] + 1}
            assert receive(socket, "override_version") == {"override_version": before["override_version"] + 1}
            assert receive(socket, "status")["manual_override"] in (0, 1)


def test_tells_the_modes(lone: GatewayProcess) -> None:
    with open_socket(lone) as socket:
        lone.http.post("/divertmode", content="divertmode=2")
        lone.http.post("/divertmode", content="divertmode=1")
        lone.http.post("/shaper", content="shaper=0")
        receive(socket, "state")  # the whole status
        assert receive(socket, "divertmode") == {"divertmode": 2, "divert_active": True}
        assert receive(socket, "divertmode") == {"divertmode": 1, "divert_active": False}
        assert receive(socket, "shaper") == {"shaper": 0}


def test_nonsense_is_no_end(lone: GatewayProcess) -> None:
    with open_socket(lone) as socket:
        socket.recv(PATIENCE)
        for nonsense in ("", "{", "[]", "5", "[" * 50000, '{"nothing": 1}'):
            socket.send(nonsense)
        socket.send(b'{"ping":1}')
        socket.send('{"ping":1}')
        assert receive(socket, "pong") == {"pong": 1}


def test_one_that_does_not_read_does_not_hold_up_the_others(lone: GatewayProcess) -> None:
    with open_socket(lone) as idle, open_socket(lone) as reader:
        reader.recv(PATIENCE)
        for number in range(300):
            lone.http.post("/config", json={"lang": f"x{number}"})
            receive(reader, "config_version")
        assert idle.socket.fileno() >= 0
    assert lone.http.get("/config").status_code == 200
