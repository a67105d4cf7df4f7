"""A node elsewhere: its agent enrols with the running service, and the service calls it by mutual TLS."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.enrol import enrol
from labyard.desktops.agent.listen import serve_until, tls
from labyard.desktops.agent.node import NodeFacts
from labyard.desktops.agent.settings import Settings
from labyard.desktops.agent.verbs import Verbs

from .service_process import ServiceProcess
from .test_desktops_nodes import node_like
from .test_desktops_process import operator, running

__all__ = ["operator", "running"]


class NoServers:
    """Of a node that hosts none yet."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: ()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    taken = socket.create_server(("127.0.0.1", 0))
    yield taken
    taken.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        node_id=f"far_{tmp_path.name[-8:].replace('-', '_')}", state_dir=tmp_path, tls_host="127.0.0.1",
        certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem", authority=tmp_path / "authority.pem",
    )  # fmt: skip


def registered(operator: httpx.Client, node_id: str, listening: socket.socket) -> str:
    """The token for the node's agent."""
    address = f"https://127.0.0.1:{listening.getsockname()[1]}"
    body = node_like(name=node_id, node_id=node_id, configuration__agent_address=address)
    answer = operator.post("/nodes", json=body)
    assert answer.status_code == 201, answer.text
    return str(operator.post(f"/nodes/{node_id}/enrolment").json()["enrolment_token"])


@contextmanager
def agent(settings: Settings, listening: socket.socket) -> Iterator[NodeFacts]:
    node = NodeFacts(settings.node_id, settings.state_dir)
    verbs = Verbs(node, NoServers(), None)  # type: ignore[arg-type]
    end = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve_until(verbs, [(listening, tls(settings))], end)))
    thread.start()
    yield node
    end.set()
    thread.join()


def test_a_node_elsewhere_is_measured_by_its_agent(
    running: ServiceProcess, operator: httpx.Client, settings: Settings, listening: socket.socket
) -> None:
    token = registered(operator, settings.node_id, listening)
    service = f"https://127.0.0.1:{running.secure_port}"
    assert enrol(settings, service, token, running.folder / "server.pem") == settings.node_id
    assert settings.key and settings.key.stat().st_mode & 0o077 == 0
    with agent(settings, listening) as node:
        started = operator.post(f"/nodes/{settings.node_id}/start")
        assert started.status_code == 200, started.text
        shown = operator.get(f"/nodes/{settings.node_id}").json()
        assert shown["hardware_observed"]["memory"]["total_bytes"] == node.hardware()["memory"]["total_bytes"]
        usage = operator.get(f"/nodes/{settings.node_id}/usage").json()
        assert (usage["source"], usage["shared"]) == ("agent", False)
        assert operator.post(f"/nodes/{settings.node_id}/stop").status_code == 200


def test_an_agent_that_is_away(
    running: ServiceProcess, operator: httpx.Client, settings: Settings, listening: socket.socket
) -> None:
    registered(operator, settings.node_id, listening)
    listening.close()
    answer = operator.post(f"/nodes/{settings.node_id}/start")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "AGENT_UNREACHABLE")
    assert operator.get(f"/nodes/{settings.node_id}").json()["status"] == "inactive"


def test_what_does_not_fit_writes_nothing(
    running: ServiceProcess, operator: httpx.Client, settings: Settings, listening: socket.socket
) -> None:
    service, authority = f"https://127.0.0.1:{running.secure_port}", running.folder / "server.pem"
    with pytest.raises(AdapterError, match="refuses: The enrolment token"):
        enrol(settings, service, "no token", authority)
    token = registered(operator, settings.node_id, listening)
    with pytest.raises(AdapterError, match="does not answer"):
        enrol(settings, service, token, None)  # nobody vouches for the service
    other = settings.model_copy(update={"node_id": "another"})
    with pytest.raises(AdapterError, match="the token is for the node"):
        enrol(other, service, token, authority)
    assert settings.key and not settings.key.exists()
