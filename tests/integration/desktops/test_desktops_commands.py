"""`labyard desktops servers`, `nodes`, `pools`, `poot`, `login` against the service, over real HTTP. Its node keeps
servers in memory; test_external.py has a real RDP client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from click.testing import Result
from live_server import LiveServer
from structlog.testing import capture_logs
from typer.testing import CliRunner

from labyard.cli import app
from labyard.client import commands
from labyard.desktops.roles import Role
from labyard.desktops.service import Desktops
from labyard.testing.waiting import wait_until

from .conftest import OPERATORS
from .fake_agent import FakeAgents
from .test_desktops_modules import agents, live

__all__ = ["agents", "live"]
PASSWORD = "correct horse battery"

Run = Callable[..., str]


@pytest.fixture
def run(live: LiveServer, quick_hashes: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(commands.console, "_width", 200)
    token = service(live).auth.issue("labyard", list(OPERATORS), timedelta(hours=1))

    def call(*words: str, status: int = 0, **given: Any) -> str:
        environment = {"LABYARD_DESKTOPS_URL": live.url, "LABYARD_DESKTOPS_TOKEN": token} | given.pop("env", {})
        done: Result = CliRunner(env=environment).invoke(app, ["desktops", *words], **given)
        assert done.exit_code == status, f"{words}: {done.output} {done.exception!r}"
        return done.output

    with capture_logs():  # the service's, which go to what the commands print to
        yield call


def service(live: LiveServer) -> Desktops:
    found: Desktops = live.app.state.desktops
    return found


def test_a_server_from_making_to_deletion(run: Run, agents: FakeAgents) -> None:
    assert "Make one" in run("servers", "list")
    made = json.loads(run("servers", "create", "demo", "--cpu", "0.5", "--desktop", "icewm", "--json"))
    server_id = made["server_id"]
    assert (made["status"], made["resources"]["cpu_limit"]) == ("stopped", 0.5)
    assert "is stopped" in run("servers", "test", "demo", status=1)
    assert "start it: labyard desktops servers start demo" in run("servers", "screenshot", "demo", "-o", "x", status=1)
    assert f"credentials {server_id}" in run("servers", "start", "demo")
    assert server_id in run("servers", "list", "--status", "running")
    shown = run("servers", "show", server_id)
    assert "0.5 cores" in shown and "sesman active" in shown
    wait_until(
        lambda: "10.0.0.9:5000" in run("servers", "show", server_id), "the connection is shown"
    )  # the service looks once a second
    assert "refused" in run("servers", "test", "demo", "--user", "me", input="wrong\n", status=1)
    access = json.loads(run("servers", "credentials", "demo", "--json"))
    assert access["password"] == agents.agent.specs[server_id].password
    assert f"/u:{access['username']}" in run("servers", "credentials", "demo")
    assert "good" in run("servers", "test", "demo")
    assert "cgroup" in run("servers", "usage", "demo")
    assert json.loads(run("servers", "usage", "demo", "--history", "1h", "--json"))
    assert "duration" in run("servers", "usage", "demo", "--history", "soon", status=1)
    assert "is running" in run("servers", "restart", "demo")
    assert "is stopped" in run("servers", "stop", "demo")
    run("servers", "create", "demo")
    assert "name of several" in run("servers", "show", "demo", status=1)
    run("servers", "delete", server_id)
    run("servers", "delete", "demo")
    assert "no RDP server has the name demo" in run("servers", "delete", "demo", status=1)


def test_pools_are_an_administrators(run: Run, live: LiveServer) -> None:
    assert "token --roles" in run("pools", "create", "pool_gpu", status=1)
    admin = {"LABYARD_DESKTOPS_TOKEN": service(live).auth.issue("root", [Role.ADMIN], timedelta(hours=1))}
    assert "is made" in run("pools", "create", "pool_gpu", "--max-nodes", "3", env=admin)
    assert "3 more" in run("pools", "show", "pool_gpu")
    assert "is deleted" in run("pools", "delete", "pool_gpu", env=admin)


def test_a_node_and_its_pool(run: Run) -> None:
    hardware = ("--cores", "8", "--memory", "16", "--storage", "500")
    assert "nodes start" in run("nodes", "register", "rack 1", *hardware)
    assert "memory" in run("nodes", "register", "rack 2", *hardware, "--memory-type", "core", status=1)
    node_id = json.loads(run("nodes", "list", "--pool", "pool_workers", "--json"))[0]["node_id"]
    assert "is active" in run("nodes", "start", "rack 1")
    assert "service-host, shared" in run("nodes", "usage", node_id)
    assert "is in pool_compute" in run("nodes", "move", "rack 1", "pool_compute")
    shown = run("nodes", "show", "rack 1")
    assert "16.0 GiB" in shown and "pool_compute" in shown
    assert "1 of 100" in run("pools", "list")
    assert "1 active" in run("pools", "show", "pool_compute")
    assert json.loads(run("nodes", "statistics", "--json"))["active_nodes"] >= 1
    assert "agent_address" in run("nodes", "enrol", "rack 1", status=1)
    assert "nodes enrol" in run("nodes", "register", "rack 3", *hardware, "--agent", "https://10.0.0.3:8444")
    assert json.loads(run("nodes", "enrol", "rack 3", "--json"))["enrolment_token"]
    assert "pool_nowhere" in run("nodes", "move", "rack 1", "pool_nowhere", status=1)
    run("nodes", "delete", "rack 1", status=1)
    run("nodes", "stop", "rack 1")
    run("nodes", "delete", "rack 1")
    assert "rack 1" in run("nodes", "show", "rack 1", status=1)


def test_poot_and_tokens(run: Run, live: LiveServer) -> None:
    poots = [json.loads(run("poot", "submit", "somewhere", "--json"))["poot_id"] for _ in range(3)]
    assert "2.5" in run("poot", "validate", poots[0])
    results = json.loads(run("poot", "validate", *poots, "poot_0", "--json", status=1))
    assert [one["is_valid"] for one in results] == [True] * 3 + [False]
    assert "0.25 USDT are booked for W1" in run("poot", "pay", poots[0], "--wallet", "W1")
    assert "0.500000 USDT" in run("poot", "pay", *poots[1:], "--wallet", "W1")
    run("poot", "pay", poots[0], "--wallet", "W1", status=1)
    assert run("poot", "history", "--node", "somewhere").count("validated") == 3
    assert "3: 0.75 USDT" in run("poot", "statistics", "somewhere")
    assert "(not registered)" in run("poot", "show", poots[0])

    assert "postgresql" in run("status", env={"LABYARD_DESKTOPS_TOKEN": ""})
    service(live).users.create("bob", PASSWORD, [Role.RDP_USER])
    assert "no user bob with that password" in run("login", "bob", input="wrong\n", status=1)
    token = run("login", "bob", input=f"{PASSWORD}\n").split()[-1]
    bob = {"LABYARD_DESKTOPS_TOKEN": token}
    assert "No RDP server" in run("servers", "list", env=bob)
    assert "lacks a role" in run("nodes", "list", env=bob, status=1)
    run("logout", env=bob)
    assert "labyard desktops login" in run("servers", "list", env=bob, status=1)
