"""What the role desktop_node promises: its agent makes real RDP servers, each in its own slice, and takes them away."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Api, assert_gone, assert_runs, wait_until_ready

from labyard.lab import LabHost
from labyard.testing.lab_plugin import load_lab
from labyard.testing.waiting import wait_until

UNIT, SERVICE = "labyard-desktop-agent.service", "labyard-desktops.service"


class Agent:
    """Calls the agent over its socket, as the service does."""

    def __init__(self, host: LabHost) -> None:
        self.host = host

    def call(self, verb: str, **request: Any) -> Any:
        status, answer = self.ask(verb, **request)
        assert status == 200, answer
        return answer

    def ask(self, verb: str, **request: Any) -> tuple[int, Any]:
        answer, _, status = self.host.check(
            "curl --silent --max-time 60 --write-out %s --unix-socket %s --data %s %s",
            "\n%{http_code}",
            self.host.value("desktop_node_socket"),
            json.dumps(request),
            f"http://agent/verbs/{verb}",
        ).rpartition("\n")
        return int(status), json.loads(answer)


@pytest.fixture(scope="module", autouse=True)
def alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where the service runs, too, it would soon take away servers that it has not made."""
    hosts = [host for host in load_lab(request.config).hosts() if {"desktop_node", "desktops"} <= set(host.roles)]
    for host in hosts:
        host.check(f"systemctl stop {SERVICE}")
    yield
    for host in hosts:
        host.check(f"systemctl start {SERVICE}")
        url = f"http://{host.value('desktops_http_host')}:{host.value('desktops_http_port')}"
        wait_until_ready(Api(host, url), "/ready")


@pytest.fixture
def agent(host: LabHost) -> Agent:
    return Agent(host)


@pytest.fixture
def server(host: LabHost, agent: Agent) -> Iterator[dict[str, Any]]:
    """The specification of a server that is made, and gone at the end. The last port, which a service takes last."""
    key = secrets.token_hex(8)
    spec = {
        "server_id": f"rdp-{key}",
        "port": host.value("desktop_node_last_port"),
        "account": f"rdp-{key}",
        "password": secrets.token_urlsafe(32),
        "configuration": {"desktop_environment": "icewm", "resolution": "1280x720", "color_depth": 24},
        "cpu_limit": 0.5,
        "memory_limit": 512,
        "disk_limit": 1024,
        "network_bandwidth": 1000,
    }
    agent.call("server.create", spec=spec, request_id=secrets.token_hex(8))
    try:
        yield spec
    finally:
        agent.call("server.delete", server_id=spec["server_id"], request_id=secrets.token_hex(8))


@pytest.fixture
def running(agent: Agent, server: dict[str, Any]) -> dict[str, Any]:
    agent.call("server.start", spec=server, request_id=secrets.token_hex(8))
    return server


def slice_of(spec: dict[str, Any]) -> str:
    return f"labyard-rdp-{spec['server_id'].removeprefix('rdp-')}.slice"


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, UNIT)

    def test_the_distributions_instance_is_masked(self, host: LabHost) -> None:
        for unit in ("xrdp.service", "xrdp-sesman.service"):
            assert host.run("systemctl is-enabled %s", unit).stdout.strip() == "masked"
            assert not host.shell.service(unit).is_running

    def test_the_socket_is_closed_to_others(self, host: LabHost) -> None:
        socket = host.shell.file(host.value("desktop_node_socket"))
        assert (socket.mode, socket.group) == (0o660, host.value("desktop_node_socket_group"))

    def test_knows_its_hardware(self, host: LabHost, agent: Agent) -> None:
        assert agent.call("node.ping")["node_id"] == host.value("desktop_node_id")
        memory = agent.call("node.hardware")["memory"]["total_bytes"]
        assert memory == int(host.check("awk '/MemTotal/ {print $2}' /proc/meminfo")) * 1024

    def test_no_other_program_gets_the_servers_ports(self, host: LabHost) -> None:
        first, last, offset = (
            host.value(f"desktop_node_{name}") for name in ("first_port", "last_port", "sesman_offset")
        )
        reserved = host.check("cat /proc/sys/net/ipv4/ip_local_reserved_ports").strip()
        assert reserved == f"{first}-{last},{first + offset}-{last + offset}"

    def test_a_server_runs_in_its_slice_and_lets_in_its_account_only(
        self, agent: Agent, running: dict[str, Any]
    ) -> None:
        status = agent.call("server.status", server_id=running["server_id"])
        assert {status["xrdp"], status["sesman"], status["xorg"]} == {"active"}
        login = {"server_id": running["server_id"], "username": running["account"]}
        good = agent.call("server.probe", **login, password=running["password"])
        assert (good["connection_available"], good["login"]["succeeded"]) == (True, True), good
        assert not agent.call("server.probe", **login, password="wrong")["login"]["succeeded"]

    def test_every_process_is_in_the_slice(self, host: LabHost, running: dict[str, Any]) -> None:
        def alive() -> list[str]:
            mine = host.check("ps -ww --user %s -o stat=,cgroup=", running["account"]).splitlines()
            return [line for line in mine if not line.startswith("Z")]

        # The last of them begin, and helpers end, while this looks.
        wait_until(lambda: len(alive()) >= 3, "Xorg, the window manager and the channel server run")
        wait_until(lambda: all(slice_of(running) in line for line in alive()), lambda: f"all in the slice: {alive()}")

    def test_limits_are_in_force(self, host: LabHost, agent: Agent, running: dict[str, Any]) -> None:
        shown = dict(
            line.split("=", 1)
            for line in host.check(
                "systemctl show --property CPUQuotaPerSecUSec,MemoryMax,TasksMax %s", slice_of(running)
            ).splitlines()
        )
        assert shown == {"CPUQuotaPerSecUSec": "500ms", "MemoryMax": str(512 * 2**20), "TasksMax": "512"}
        enforced = agent.call("server.status", server_id=running["server_id"])["enforcement"]
        assert (enforced["cpu"], enforced["memory"]) == ("cgroup", "cgroup"), enforced

    def test_stop_ends_all_of_it_and_delete_leaves_nothing(
        self, host: LabHost, agent: Agent, running: dict[str, Any]
    ) -> None:
        server_id, account = running["server_id"], running["account"]
        agent.call("server.stop", server_id=server_id, request_id=secrets.token_hex(8))
        # They have ended; a moment later they are forgotten, too.
        wait_until(lambda: host.run("pgrep --uid %s", account).stdout == "", "no process of it")
        agent.call("server.delete", server_id=server_id, request_id=secrets.token_hex(8))
        assert host.run("getent passwd %s", account).rc == 2
        key = server_id.removeprefix("rdp-")
        assert host.run("find /run/systemd %s -name %s", host.value("desktop_node_state_dir"), f"*{key}*").stdout == ""
        assert key not in host.check("systemctl list-units --plain --no-legend")

    def test_a_restart_of_the_agent_touches_no_server(
        self, host: LabHost, agent: Agent, running: dict[str, Any]
    ) -> None:
        before = agent.call("server.status", server_id=running["server_id"])
        host.check(f"systemctl restart {UNIT}")
        assert agent.call("server.status", server_id=running["server_id"]) == before
        assert agent.call("server.usage", server_id=running["server_id"])["cpu_percent"] is not None


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(
            host,
            "desktop_node",
            host.value("desktop_node_state_dir"),
            host.value("desktop_node_keys_dir"),
            "/etc/labyard/desktop-agent.env",
            f"/etc/systemd/system/{UNIT}",
            "/run/systemd/system/labyard-xrdp@.service",
        )
        assert "RDP server" not in host.check("getent passwd")
