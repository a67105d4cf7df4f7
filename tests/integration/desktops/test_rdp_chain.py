"""From the HTTP API through a real agent on its socket to real xrdp, and back."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.desktops.conftest import Caller
from integration.desktops.test_desktops_rdp import SAMPLE, create
from integration.desktops.test_rdp_servers import FIRST_PORT, running_servers
from integration.desktops.test_rdp_servers import pytestmark as needs_xrdp
from labyard.desktops.agent.listen import serve_until, unix_socket
from labyard.desktops.agent.node import NodeFacts
from labyard.desktops.agent.rdp.servers import Servers
from labyard.desktops.agent.settings import Settings as AgentSettings
from labyard.desktops.agent.verbs import Verbs
from labyard.desktops.settings import Settings
from labyard.testing.waiting import wait_until

pytestmark = needs_xrdp


@pytest.fixture
def agents() -> None:
    """Those that the database names."""


@pytest.fixture
def agent_settings(tmp_path: Path) -> AgentSettings:
    return AgentSettings(
        state_dir=tmp_path / "agent", unit_prefix=f"t{secrets.token_hex(4)}", socket=tmp_path / "agent.sock"
    )


@pytest.fixture
def servers(agent_settings: AgentSettings) -> Iterator[Servers]:
    with running_servers(agent_settings) as made:
        yield made


@pytest.fixture
def settings(settings: Settings, agent_settings: AgentSettings, servers: Servers) -> Iterator[Settings]:
    node = NodeFacts("node_local", agent_settings.state_dir)
    end = threading.Event()
    listening = (unix_socket(agent_settings.socket, ""), None)
    thread = threading.Thread(target=lambda: asyncio.run(serve_until(Verbs(node, servers, None), [listening], end)))
    thread.start()
    yield settings.model_copy(update={"agent_socket": agent_settings.socket, "rdp_first_port": FIRST_PORT})
    end.set()
    thread.join()


def test_from_create_to_delete(operator: Caller, servers: Servers) -> None:
    made: dict[str, Any] = create(operator, configuration=SAMPLE["configuration"] | {"desktop_environment": "icewm"})
    path = f"/rdp/servers/{made['server_id']}"
    started = operator.post(f"{path}/start")
    assert started.status_code == 200, started.text
    units = operator.get(f"{path}/service-status").json()
    assert {units["xrdp_status"], units["xrdp_sesman_status"], units["xorg_status"]} == {"active"}
    assert operator.get(path).json()["desktop_effective"] == "icewm"
    found = operator.post(f"{path}/test-connection").json()
    assert (found["connection_available"], found["login"]["succeeded"]) == (True, True), found
    wrong = operator.post(f"{path}/test-connection", json={"username": made["server_id"], "password": "no"}).json()
    assert (wrong["connection_available"], wrong["login"]["succeeded"]) == (True, False)
    usage = operator.get(f"{path}/usage").json()
    assert 0 <= usage["cpu_percent"] <= 200 and 0 < usage["memory_percent"] <= 100
    wait_until(
        lambda: operator.get(f"{path}/usage/history?duration=1h").json()["usage_history"], "a sample of its usage"
    )
    assert operator.get("/nodes/node_local").json()["status"] == "active"
    assert operator.post(f"{path}/stop").json()["status"] == "stopped"
    assert operator.delete(path).status_code == 204
    assert servers.known() == ()
