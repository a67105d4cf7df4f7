"""A controller and peers that are not what they should be: contract 5.5, 6.2."""

from __future__ import annotations

import http
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from integration.evse.sharing.conftest import Gateways
from integration.evse.sharing.pairs import GROUP, Gateway
from labyard.testing.waiting import wait_until

STATUS = {"amp": 0, "voltage": 240, "pilot": 16, "state": 1, "vehicle": 0, "config_version": 1}


class Peer:
    """Says on each path what it is told to say, and on its web socket what is in `messages`."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"status": STATUS, "config": {"wifi_serial": "ABCD", "hostname": "peer"}} | answers
        self.messages: list[str | bytes] = []
        self.told: list[dict[str, Any]] = []
        self.moved_to: str | None = None
        self._server = serve(self._talk, "127.0.0.1", 0, process_request=self._answer)
        self.port = self._server.socket.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.strip("/")
        if self.moved_to is not None and path == ("ws" if "status" in self.answers else "status"):
            response = connection.respond(http.HTTPStatus.TEMPORARY_REDIRECT, "")
            response.headers["Location"] = f"{self.moved_to}/{path}"
            return response
        if path == "ws":
            return None
        answer = self.answers[path]
        return connection.respond(http.HTTPStatus.OK, answer if isinstance(answer, str) else json.dumps(answer))

    def _talk(self, connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            for message in self.messages:
                connection.send(message)
            for text in connection:
                message = json.loads(text)
                if "loadsharing" in message:
                    self.told.append(message["loadsharing"])
                if "ping" in message:
                    connection.send('{"pong": 1}')


@contextmanager
def listening() -> Iterator[tuple[int, list[object]]]:
    """A port that takes calls and never answers; who called is kept."""
    callers: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            with suppress(OSError):
                while True:
                    callers.append(server.accept())

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield server.getsockname()[1], callers
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def controller(gateways: Gateways) -> Gateway:
    (made,) = gateways(1, mdns="off")
    made.configure(**{key.removeprefix("loadsharing_"): value for key, value in GROUP.items()})
    return made


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def entry(controller: Gateway, host: str) -> dict[str, Any]:
    (found,) = [entry for entry in controller.peers if entry["host"] == host]
    return found


def join(controller: Gateway, *peers: Peer) -> None:
    for peer in peers:
        assert controller.add(peer.host).json() == {"msg": "done"}


@pytest.mark.parametrize(
    "message",
    [
        "1" + "0" * 400,
        '{"state": 1' + "0" * 400 + "}",
        '{"amp": 1e999, "pilot": NaN, "state": -Infinity}',
        '{"amp": -5000, "pilot": -3, "voltage": "high", "state": "three", "loadsharing_min_current": -6}',
        '{"pilot": 100000000, "amp": 100000000, "loadsharing_max_current": 100000000}',
        "[" * 30000,
        "null",
        b"\xff\xfe\x00",
    ],
    ids=["number", "huge", "no-numbers", "other-types", "large", "deep", "null", "binary"],
)
def test_whatever_a_peer_says_it_stays_linked_and_gets_no_more_than_there_is(
    controller: Gateway, peer: Peer, message: str | bytes
) -> None:
    peer.answers["status"] = STATUS | {"state": 3, "vehicle": 1, "amp": 16000}
    peer.messages = [message, json.dumps(peer.answers["status"])]
    join(controller, peer)
    wait_until(lambda: any(told["target_current"] > 0 for told in peer.told), "it is offered current")
    assert entry(controller, peer.host)["online"] is True
    budget = controller.group["budget"]
    assert all(0 <= told["target_current"] <= budget for told in peer.told)
    assert "Traceback" not in controller.log()


@pytest.mark.parametrize("answer", ["[" * 30000, '{"state": 1' + "0" * 400 + "}", "[]", "", "\x00", '{"pilot": 1e999}'])
def test_a_status_that_is_none_is_asked_for_again(controller: Gateway, peer: Peer, answer: str) -> None:
    peer.answers["status"] = answer
    join(controller, peer)
    wait_until(lambda: "peer is not to be reached" in controller.log(), "it was asked")
    assert entry(controller, peer.host)["online"] is False
    peer.answers["status"] = STATUS
    wait_until(lambda: entry(controller, peer.host)["online"], "it is asked again")
    assert "Traceback" not in controller.log()


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_peer_does_not_say_where_else_a_gateway_calls(controller: Gateway, peer: Peer, scheme: str) -> None:
    if scheme == "http":
        del peer.answers["status"]
    with listening() as (port, callers):
        peer.moved_to = f"{scheme}://127.0.0.1:{port}"
        join(controller, peer)
        wait_until(lambda: controller.log().count("peer is not to be reached") >= 2, "it is not followed")
        assert callers == []


def test_one_that_never_answers_holds_up_nobody(controller: Gateway, peer: Peer) -> None:
    with listening() as (port, callers):
        for number in range(8):
            assert controller.add(f"127.0.0.{number + 1}:{port}").status_code == (200 if number == 0 else 400)
        wait_until(lambda: callers, "it was called")
        join(controller, peer)
        wait_until(lambda: entry(controller, peer.host)["online"], "the other one is online")
        assert entry(controller, f"127.0.0.1:{port}")["online"] is False
        assert controller.stop() == 0


def test_itself_under_another_name_is_dropped(controller: Gateway, peer: Peer) -> None:
    peer.answers["config"] = {"wifi_serial": controller.http.get("/config").json()["wifi_serial"]}
    join(controller, peer)
    wait_until(lambda: controller.peers == [], "it is no peer")
    assert controller.status["loadsharing_state"] == "controller"


def test_two_that_say_they_are_one_are_one(controller: Gateway, peer: Peer) -> None:
    other = Peer()
    try:
        join(controller, peer)
        wait_until(lambda: entry(controller, peer.host)["id"] == "abcd", "it said its id")
        join(controller, other)
        wait_until(lambda: [found["host"] for found in controller.peers] == [peer.host], "they are merged")
    finally:
        other.close()
