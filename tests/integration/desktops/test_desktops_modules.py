"""The modules desktop_node, rdp_server and desktop_session against the service, over real HTTP."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from fastapi import FastAPI
from live_server import LiveServer
from ports import free_port

from labyard.desktops.app import build
from labyard.desktops.settings import Settings

from .conftest import OPERATORS
from .fake_agent import FakeAgents
from .test_desktops_nodes import NODE

COLLECTIONS = Path(__file__).parents[3] / "collections"
MODULES = COLLECTIONS / "ansible_collections/labyard/lab/plugins/modules"
HARDWARE = {name: NODE["hardware_info"][name] for name in ("cpu", "memory", "storage")}
RESOURCES = {"cpu_limit": 2, "memory_limit": 4096, "disk_limit": 20480, "network_bandwidth": 1000}

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def agents() -> FakeAgents:
    return FakeAgents()


@pytest.fixture
def live(settings: Settings, agents: FakeAgents, tmp_path: Path) -> Iterator[LiveServer]:
    changed = Settings.model_validate(settings.model_dump() | {"agent_socket": tmp_path / "agent.sock"})

    def make() -> FastAPI:
        return build(changed, agents)

    server = LiveServer(make, free_port())
    yield server
    server.stop()


@pytest.fixture
def run(live: LiveServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a module as Ansible does: arguments in, one JSON object out."""
    monkeypatch.syspath_prepend(str(COLLECTIONS))
    for name in [name for name in sys.modules if name.startswith("ansible_collections.labyard")]:
        monkeypatch.delitem(sys.modules, name)
    token = live.app.state.desktops.auth.issue("ansible", list(OPERATORS), timedelta(hours=1))

    def call(module: str, /, *, check: bool = False, **given: Any) -> dict[str, Any]:
        spec = importlib.util.spec_from_file_location(module, MODULES / f"{module}.py")
        assert spec and spec.loader
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        arguments = {"url": live.url, "token": token} | given
        options = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(tmp_path)}
        capsys.readouterr()
        with patch_module_args(arguments | options), pytest.raises(SystemExit):
            loaded.main()
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        answer: dict[str, Any] = json.loads(lines[-1])
        assert token not in lines[-1]
        return answer

    return call


def converges(run: Run, module: str, **given: Any) -> dict[str, Any]:
    """Check mode says that it changes, the run does, a second one does not, and check mode agrees."""
    foreseen = run(module, check=True, **given)
    done = run(module, **given)
    assert foreseen["changed"] and done["changed"], (foreseen, done)
    assert foreseen["diff"] == done["diff"]
    assert not run(module, **given)["changed"] and not run(module, check=True, **given)["changed"]
    return done


def test_a_node_from_registration_to_removal(run: Run) -> None:
    given = {"name": "rack 1", "node_type": "worker", "hardware_info": HARDWARE, "max_sessions": 5}
    made = converges(run, "desktop_node", **given)["node"]
    assert made["status"] == "inactive" and made["pool_id"] == "pool_workers"
    assert made["configuration"] == {"max_sessions": 5}
    assert converges(run, "desktop_node", **given, state="started")["node"]["status"] == "active"
    moved = converges(run, "desktop_node", name="rack 1", pool="pool_compute")["node"]
    assert moved["pool_id"] == "pool_compute" and moved["status"] == "active"
    assert converges(run, "desktop_node", name="rack 1", state="stopped")["node"]["status"] == "inactive"
    converges(run, "desktop_node", name="rack 1", state="absent")


def test_what_a_node_keeps_and_lacks(run: Run) -> None:
    assert "give its node_type and hardware_info" in run("desktop_node", name="rack 1")["msg"]
    run("desktop_node", name="rack 1", node_type="worker", hardware_info=HARDWARE)
    other = {**HARDWARE, "cpu": {**HARDWARE["cpu"], "cores": 4}}
    failed = run("desktop_node", name="rack 1", hardware_info=other)
    assert "another hardware_info.cpu.cores" in failed["msg"]
    bad = {**HARDWARE, "cpu": {**HARDWARE["cpu"], "architecture": "z80"}}
    failed = run("desktop_node", name="rack 2", node_type="worker", hardware_info=bad)
    assert failed["failed"] and "hardware_info.cpu.architecture" in failed["msg"]
    assert "token" in run("desktop_node", name="rack 1", token="nonsense")["msg"]


def test_a_server_from_making_to_deletion(run: Run) -> None:
    given = {"name": "alice", "user_id": "alice", "resources": RESOURCES, "configuration": {"color_depth": 24}}
    made = converges(run, "rdp_server", **given)["server"]
    assert made["status"] == "stopped" and made["port"]
    assert converges(run, "rdp_server", **given, state="started")["server"]["status"] == "running"
    changed = {"configuration": {"color_depth": 16, "resolution": "1600x900"}}
    again = converges(run, "rdp_server", **given | changed)["server"]
    assert again["configuration"] == changed["configuration"] and again["status"] == "running"
    assert not again["restart_required"]
    failed = run("rdp_server", **given | {"resources": RESOURCES | {"cpu_limit": 1}})
    assert "another cpu_limit" in failed["msg"]
    assert converges(run, "rdp_server", **given | changed, state="stopped")["server"]["status"] == "stopped"
    converges(run, "rdp_server", name="alice", user_id="alice", state="absent")


def test_a_session_that_is_made_told_about_and_deleted(run: Run) -> None:
    given = {"name": "demo", "rdp_config": {"host": "127.0.0.1", "port": 3389, "username": "u", "password": "hush"}}
    made = converges(run, "desktop_session", **given, metadata={"project": "p"})
    assert made["session"]["status"] == "created" and "hush" not in json.dumps(made)
    told = converges(run, "desktop_session", **given, metadata={"priority": "high"})["session"]["metadata"]
    assert (told["project"], told["priority"]) == ("p", "high")
    assert not run("desktop_session", name="demo", state="stopped")["changed"]
    failed = run("desktop_session", **given, state="recording")
    assert failed["failed"], "there is no RDP server to record"
    converges(run, "desktop_session", name="demo", state="absent")
    assert "give its rdp_config" in run("desktop_session", name="demo")["msg"]
