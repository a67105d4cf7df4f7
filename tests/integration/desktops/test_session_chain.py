"""From the HTTP API of sessions to real xrdp desktops, through a real agent with real recorders, and back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.desktops.test_desktops_rdp import SAMPLE as SERVER
from integration.desktops.test_desktops_rdp import create
from integration.desktops.test_rdp_chain import agent_settings, agents, servers
from integration.desktops.test_rdp_servers import FIRST_PORT
from integration.desktops.test_rdp_servers import pytestmark as needs_xrdp
from labyard.desktops.agent.displays import NodeDisplays
from labyard.desktops.agent.listen import serve_until, unix_socket
from labyard.desktops.agent.node import NodeFacts
from labyard.desktops.agent.rdp.servers import Servers
from labyard.desktops.agent.settings import Settings as AgentSettings
from labyard.desktops.agent.verbs import Verbs
from labyard.desktops.recorder.recorders import Recorders
from labyard.desktops.settings import Settings

from .conftest import Caller
from .media import colours
from .test_sessions import chunks, sample, started, stopped, verified
from .units import ProcessUnits

__all__ = ["agent_settings", "agents", "servers"]
pytestmark = needs_xrdp


@pytest.fixture
def settings(settings: Settings, agent_settings: AgentSettings, servers: Servers, tmp_path: Path) -> Iterator[Settings]:
    units = ProcessUnits(tmp_path / "recorders.log")
    displays = NodeDisplays(servers, tmp_path / "cookies")
    recorders = Recorders(units.runtime, tmp_path / "spool", units, displays)
    node = NodeFacts("node_local", agent_settings.state_dir)
    end = threading.Event()
    listening = (unix_socket(agent_settings.socket, ""), None)
    serving = serve_until(Verbs(node, servers, recorders), [listening], end)
    thread = threading.Thread(target=lambda: asyncio.run(serving))
    thread.start()
    yield settings.model_copy(update={"agent_socket": agent_settings.socket, "rdp_first_port": FIRST_PORT})
    end.set()
    thread.join()
    units.close()


def test_a_server_and_its_recording(operator: Caller, servers: Servers, tmp_path: Path) -> None:
    configuration = SERVER["configuration"] | {"desktop_environment": "icewm", "resolution": "1280x720"}
    server_id = create(operator, configuration=configuration)["server_id"]
    server = f"/rdp/servers/{server_id}"
    assert operator.post(f"{server}/start").status_code == 200
    session_id = started(operator)
    binding = operator.get(f"/sessions/{session_id}").json()["binding"]
    assert (binding["kind"], binding["server_id"]) == ("owner", server_id)
    assert [each["session_id"] for each in operator.get(f"{server}/sessions").json()["active_sessions"]] == [session_id]
    assert operator.post(f"{server}/stop").status_code == operator.delete(server).status_code == 409
    chunk = chunks(operator, session_id, 2)[0]
    assert (chunk["width"], chunk["height"]) == (1280, 720)
    body = stopped(operator, session_id)
    assert operator.get(f"{server}/sessions").json()["active_sessions"] == []
    usage = body["final_statistics"]["rdp_resource_usage"]
    assert (usage["server_id"], usage["samples"] >= 1) == (server_id, True)
    assert body["final_statistics"]["node_performance"]["load_average"]
    content = operator.get(f"/sessions/{session_id}/chunks/{chunk['chunk_id']}/content").content
    assert len(colours(content)) == chunk["frame_count"]
    assert verified(operator, session_id, tmp_path) == 0
    assert operator.post(f"{server}/stop").status_code == 200
    assert operator.delete(server).status_code == 204
    assert operator.get(f"/sessions/{session_id}/statistics").json() == body["final_statistics"]
    (poot,) = operator.get(f"/sessions/{session_id}").json()["poot_references"]
    assert operator.get(f"/poot/{poot}").json()["node_id"] == "node_local"


def test_a_server_of_the_sessions_own(operator: Caller, servers: Servers) -> None:
    answer = operator.post("/sessions", json=sample(rdp_config={"provisioning": "auto"}))
    provisioning = answer.json()["provisioning"]
    assert (answer.status_code, provisioning["state"]) == (201, "provisioned"), answer.text
    session_id, server_id = answer.json()["session_id"], provisioning["server_id"]
    assert operator.get(f"/rdp/servers/{server_id}").json()["status"] == "running"
    binding = operator.post(f"/sessions/{session_id}/start").json()["binding"]
    assert (binding["kind"], binding["server_id"]) == ("auto", server_id)
    chunks(operator, session_id)
    stopped(operator, session_id)
    assert operator.get(f"/rdp/servers/{server_id}").status_code == 404
    assert servers.known() == ()
