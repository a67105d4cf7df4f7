"""RDP servers over HTTP, with an agent in this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from integration.desktops.conftest import OPERATORS, Caller
from integration.desktops.fake_agent import GIB, FakeAgent, FakeAgents
from integration.desktops.test_desktops_poot import poot_like
from labyard.core.clock import now
from labyard.desktops.adapters.agent import AgentRefused, AgentTimeout, AgentUnreachable
from labyard.desktops.models import AuditEntry, DeskSession, PortLease, RdpServer
from labyard.desktops.roles import Role
from labyard.desktops.service import Desktops
from labyard.desktops.settings import Settings
from labyard.testing.waiting import wait_until

SAMPLE: dict[str, Any] = {
    "name": "Test RDP Server",
    "description": "A dynamically created RDP server for testing.",
    "user_id": "test-user-123",
    "configuration": {"desktop_environment": "xfce", "resolution": "1920x1080", "color_depth": 24},
    "resources": {"cpu_limit": 2.0, "memory_limit": 4096, "disk_limit": 20480, "network_bandwidth": 1000},
}
UNKNOWN = "rdp-0000000000000000"


@pytest.fixture
def agents() -> FakeAgents:
    return FakeAgents()


@pytest.fixture
def agent(agents: FakeAgents) -> FakeAgent:
    return agents.agent


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"agent_socket": tmp_path / "agent.sock"})


def create(caller: Caller, **changes: Any) -> dict[str, Any]:
    answer = caller.post("/rdp/servers", json=SAMPLE | changes)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def started(caller: Caller, **changes: Any) -> str:
    server_id = create(caller, **changes)["server_id"]
    answer = caller.post(f"/rdp/servers/{server_id}/start")
    assert answer.status_code == 200, answer.text
    return str(server_id)


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


class TestLife:
    def test_from_create_to_delete(self, operator: Caller, agent: FakeAgent) -> None:
        made = create(operator)
        assert made["status"] == "stopped"
        assert 33890 <= made["port"] <= 33999
        assert made["configuration"] == SAMPLE["configuration"]
        assert made["resources"] == SAMPLE["resources"]
        path = f"/rdp/servers/{made['server_id']}"
        begun = operator.post(f"{path}/start").json()
        assert (begun["status"], begun["port"]) == ("running", made["port"])
        assert begun["started_at"].endswith("Z")
        refused(operator.post(f"{path}/start"), 409, "RDP_STATE")
        units = operator.get(f"{path}/service-status").json()
        assert (units["xrdp_status"], units["xrdp_sesman_status"], units["main_pid"]) == ("active", "active", 7)
        assert units["since"] == "2026-01-31T12:00:00.000000Z"
        assert operator.get(f"{path}/resources").json() == SAMPLE["resources"]
        shown = operator.get(path).json()
        assert (shown["desktop_effective"], shown["enforcement"]["cpu"]) == ("icewm", "cgroup")
        ended = operator.post(f"{path}/stop").json()
        assert (ended["status"], ended["stopped_at"] is not None) == ("stopped", True)
        refused(operator.post(f"{path}/stop"), 409, "RDP_STATE")
        assert operator.post(f"{path}/start").json()["port"] == made["port"]  # its own
        assert operator.delete(path).status_code == 204
        refused(operator.get(path), 404, "RDP_NOT_FOUND")
        assert not agent.servers

    def test_the_next_server_gets_another_port(self, operator: Caller, agent: FakeAgent) -> None:
        agent.taken_ports = {33890, 33892}
        first, second = create(operator), create(operator)
        assert (first["port"], second["port"]) == (33891, 33893)
        operator.delete(f"/rdp/servers/{first['server_id']}")
        assert create(operator)["port"] == 33891

    def test_ten_at_once(self, operator: Caller) -> None:
        with ThreadPoolExecutor(10) as pool:
            made = list(pool.map(lambda _: create(operator), range(10)))
            answers = list(pool.map(lambda one: operator.post(f"/rdp/servers/{one['server_id']}/start"), made))
        assert len({one["port"] for one in made}) == 10
        assert {answer.json()["status"] for answer in answers} == {"running"}

    def test_two_starts_of_one_server(self, operator: Caller, agent: FakeAgent) -> None:
        server_id = create(operator)["server_id"]
        agent.gate.clear()
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(operator.post, f"/rdp/servers/{server_id}/start") for _ in range(2)]
            wait_until(lambda: any(answer.done() for answer in answers), "one of them is refused")
            agent.gate.set()
        assert sorted(answer.result().status_code for answer in answers) == [200, 409]

    def test_lists(self, operator: Caller) -> None:
        ids = [create(operator, user_id=user)["server_id"] for user in ("a", "b", "a")]
        found = operator.get("/rdp/servers?user_id=a&limit=1").json()
        assert ([one["server_id"] for one in found["servers"]], found["total"]) == ([ids[0]], 2)
        assert found["has_next"]
        assert operator.get("/rdp/servers?status=running").json()["total"] == 0


class TestInput:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""),
            ("name", "x" * 256),
            ("name", None),
            ("description", "x" * 1001),
            ("user_id", ""),
            ("configuration", {"desktop_environment": "cde"}),
            ("configuration", {"resolution": "639x480"}),
            ("configuration", {"resolution": "wide"}),
            ("configuration", {"color_depth": 8}),
            ("configuration", {"use_tls": "yes"}),
            ("configuration", {"something": "else"}),
            ("resources", SAMPLE["resources"] | {"cpu_limit": 0}),
            ("resources", SAMPLE["resources"] | {"cpu_limit": 8.1}),
            ("resources", SAMPLE["resources"] | {"cpu_limit": 0.123}),
            ("resources", SAMPLE["resources"] | {"memory_limit": -1}),
            ("resources", SAMPLE["resources"] | {"disk_limit": 102401}),
            ("resources", SAMPLE["resources"] | {"network_bandwidth": 99}),
            ("resources", None),
        ],
    )
    def test_what_is_wrong_is_named(self, operator: Caller, field: str, value: Any) -> None:
        answer = operator.post("/rdp/servers", json=SAMPLE | {field: value})
        refused(answer, 400, "VALIDATION_FAILED")
        assert answer.json()["error"]["details"][0]["field"].startswith(field)
        assert operator.get("/rdp/servers").json()["total"] == 0

    def test_an_unknown_id_is_404_on_every_route(self, operator: Caller) -> None:
        calls = [
            ("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop"), ("POST", "/restart"),
            ("GET", "/service-status"), ("GET", "/resources"), ("POST", "/test-connection"), ("GET", "/usage"),
            ("GET", "/usage/history?duration=bad"), ("GET", "/alerts"), ("GET", "/sessions"),
            ("GET", "/configuration"), ("PUT", "/configuration"), ("GET", "/credentials"),
        ]  # fmt: skip
        for method, rest in calls:
            refused(operator.request(method, f"/rdp/servers/{UNKNOWN}{rest}"), 404, "RDP_NOT_FOUND")

    def test_configuration_is_what_was_sent(self, operator: Caller) -> None:
        server_id = started(operator)
        path = f"/rdp/servers/{server_id}/configuration"
        assert operator.get(path).json() == SAMPLE["configuration"]
        assert not operator.get(f"/rdp/servers/{server_id}").json()["restart_required"]
        wanted = {"resolution": "1280x720", "clipboard": False}
        assert operator.put(path, json=wanted).json() == wanted
        assert operator.get(path).json() == wanted
        assert operator.get(f"/rdp/servers/{server_id}").json()["restart_required"]
        refused(operator.put(path, json={"color_depth": 25}), 400, "VALIDATION_FAILED")
        assert operator.get(path).json() == wanted
        assert operator.post(f"/rdp/servers/{server_id}/restart").json()["status"] == "running"
        assert not operator.get(f"/rdp/servers/{server_id}").json()["restart_required"]


class TestWho:
    def test_a_user_has_his_own(self, caller: Callable[..., Caller], operator: Caller) -> None:
        alice, bob = caller("alice", Role.RDP_USER), caller("bob", Role.RDP_USER)
        refused(alice.post("/rdp/servers", json=SAMPLE), 403, "AUTH_FORBIDDEN")
        hers = create(alice, user_id="alice")["server_id"]
        given = create(operator, user_id="alice")["server_id"]
        assert {one["server_id"] for one in alice.get("/rdp/servers").json()["servers"]} == {hers, given}
        assert bob.get("/rdp/servers").json()["total"] == 0
        refused(bob.post(f"/rdp/servers/{hers}/start"), 404, "RDP_NOT_FOUND")
        refused(caller("eve", Role.AUDITOR).post(f"/rdp/servers/{hers}/start"), 403, "AUTH_FORBIDDEN")
        assert caller("eve", Role.AUDITOR).get(f"/rdp/servers/{hers}").status_code == 200

    def test_credentials_are_on_the_audit_log(self, operator: Caller, agent: FakeAgent, service: Desktops) -> None:
        server_id = started(operator)
        found = operator.get(f"/rdp/servers/{server_id}/credentials").json()
        assert found["password"] == agent.specs[server_id].password
        assert found["username"] == agent.specs[server_id].account
        with service.database.read() as session:
            entries = session.scalars(select(AuditEntry).where(AuditEntry.action == "credential_read")).all()
            row = session.get_one(RdpServer, server_id)
        assert [entry.resource_id for entry in entries] == [server_id]
        assert found["password"] not in row.password_sealed

    def test_no_answer_has_the_password(self, operator: Caller, agent: FakeAgent) -> None:
        server_id = started(operator)
        password = agent.specs[server_id].password
        for path in ("", "/service-status", "/resources", "/configuration", "/sessions"):
            assert password not in operator.get(f"/rdp/servers/{server_id}{path}").text


class TestConnection:
    def test_right_and_wrong_and_stopped(self, operator: Caller) -> None:
        server_id = create(operator)["server_id"]
        path = f"/rdp/servers/{server_id}/test-connection"
        stopped = operator.post(path)
        assert stopped.status_code == 200
        assert (stopped.json()["connection_available"], stopped.json()["login"]["succeeded"]) == (False, False)
        operator.post(f"/rdp/servers/{server_id}/start")
        assert operator.post(path).json()["login"]["succeeded"]
        wrong = operator.post(path, json={"username": server_id, "password": "no"}).json()
        assert (wrong["connection_available"], wrong["login"]["succeeded"]) == (True, False)
        refused(operator.post(path, json={"username": "x"}), 400, "VALIDATION_FAILED")


class TestUsage:
    def test_history_alerts_and_connections(self, operator: Caller, agent: FakeAgent) -> None:
        server_id = create(operator)["server_id"]
        path = f"/rdp/servers/{server_id}"
        refused(operator.get(f"{path}/usage"), 409, "RDP_STATE")
        operator.post(f"{path}/start")
        usage = operator.get(f"{path}/usage").json()
        assert (usage["cpu_percent"], usage["source"]) == (50.0, "cgroup")
        wait_until(
            lambda: operator.get(f"{path}/usage/history?duration=1h").json()["usage_history"], "a sample of its usage"
        )
        wait_until(lambda: operator.get(f"{path}/sessions").json()["connections"], "its connection is seen")
        assert operator.get(f"{path}/sessions").json()["active_sessions"] == []
        assert operator.get(f"{path}/alerts").json()["active_alerts"] == []
        agent.usage = agent.usage.__class__("", 50.0, 91.0, 1.0, 0.0, 0.0, "cgroup", {"connections": []})
        alert = wait_until(lambda: operator.get(f"{path}/alerts").json()["active_alerts"], "an alert")[0]
        assert (alert["resource_type"], alert["threshold"], alert["resource_id"]) == ("memory", 80, server_id)
        assert operator.get(f"{path}/sessions").json()["connections"] == []
        operator.post(f"{path}/stop")
        assert operator.get(f"{path}/alerts").json()["alert_history"][0]["resolved"]

    def test_who_was_killed_for_memory_raises_an_alert_at_once(self, operator: Caller, agent: FakeAgent) -> None:
        path = f"/rdp/servers/{started(operator)}"
        hog = agent.usage.__class__("", 1.0, 100.0, 1.0, 0.0, 0.0, "cgroup", {"killed_for_memory": 1})
        once = iter([hog])
        calm = agent.usage
        agent.server_usage = lambda _: replace(next(once, calm), at=now().isoformat())  # type: ignore[method-assign]

        def seen() -> Any:
            alerts = operator.get(f"{path}/alerts").json()
            return alerts["active_alerts"] + alerts["alert_history"]

        assert wait_until(seen, "an alert")[0]["resource_type"] == "memory"


class TestQuality:
    def test_probes_move_the_score_of_the_node(
        self, operator: Caller, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each server is probed as soon as it runs; one that answers slowly counts as one that does not."""
        monkeypatch.setattr("labyard.desktops.service.rdp_watch.PROBE", 3600)  # the first one not again meanwhile

        def quality() -> Any:
            poot = operator.post("/poot/submit", json=poot_like(node_id="node_local")).json()["poot_id"]
            return operator.post(f"/poot/{poot}/validate").json()["inputs"]["session_quality"]

        assert quality() == 0
        started(operator)
        wait_until(lambda: quality() == 1, "the first server answers quickly")
        agent.latency_ms = 900.0
        started(operator)
        wait_until(lambda: quality() == 0.5, "the second one does not")


class TestRoom:
    def test_none_left(self, operator: Caller, make_http: Any, service: Desktops) -> None:
        """4 cores, 8 GiB, 100 GiB, without overcommit."""
        self._no_overcommit(service)
        first, second, third = (create(operator)["server_id"] for _ in range(3))
        for server_id in (first, second):
            assert operator.post(f"/rdp/servers/{server_id}/start").status_code == 200
        answer = operator.post(f"/rdp/servers/{third}/start")
        refused(answer, 503, "CAPACITY_EXHAUSTED")
        assert "Retry-After" in answer.headers
        assert operator.get(f"/rdp/servers/{third}").json()["status"] == "stopped"
        operator.post(f"/rdp/servers/{first}/stop")
        assert operator.post(f"/rdp/servers/{third}/start").status_code == 200

    def test_two_take_the_last_room(self, operator: Caller, service: Desktops) -> None:
        self._no_overcommit(service)
        ids = [create(operator, resources=SAMPLE["resources"] | {"cpu_limit": 3.0})["server_id"] for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda one: operator.post(f"/rdp/servers/{one}/start").status_code, ids))
        assert sorted(answers) == [200, 503, 503, 503]

    def test_the_machine_must_have_it_too(self, operator: Caller, agent: FakeAgent) -> None:
        server_id = create(operator)["server_id"]
        agent.free_memory = GIB // 4
        refused(operator.post(f"/rdp/servers/{server_id}/start"), 503, "CAPACITY_EXHAUSTED")
        assert operator.get(f"/rdp/servers/{server_id}").json()["status"] == "stopped"

    def test_no_node(self, operator: Caller) -> None:
        server_id = create(operator)["server_id"]
        assert operator.post("/nodes/node_local/stop").status_code == 200
        refused(operator.post("/rdp/servers", json=SAMPLE), 503, "NO_ACTIVE_NODE")
        refused(operator.post(f"/rdp/servers/{server_id}/start"), 503, "NO_ACTIVE_NODE")

    def test_all_ports_taken_and_the_quota(self, operator: Caller, agent: FakeAgent, service: Desktops) -> None:
        service.settings.rdp_last_port = 33891
        service.settings.rdp_user_quota = 2
        create(operator), create(operator)
        many = operator.post("/rdp/servers", json=SAMPLE)
        refused(many, 429, "QUOTA_EXCEEDED")
        assert many.headers["retry-after"]
        refused(operator.post("/rdp/servers", json=SAMPLE | {"user_id": "other"}), 503, "PORTS_EXHAUSTED")

    def test_a_node_that_is_drained(self, operator: Caller, agent: FakeAgent) -> None:
        server_id = started(operator)
        refused(operator.post("/nodes/node_local/stop"), 409, "NODE_STATE")
        assert operator.post("/nodes/node_local/stop?drain=true").status_code == 200
        assert operator.get(f"/rdp/servers/{server_id}").json()["status"] == "stopped"
        assert agent.servers[server_id].xrdp == "inactive"

    def _no_overcommit(self, service: Desktops) -> None:
        from labyard.desktops.models import Node

        with service.database.transaction() as session:
            session.execute(update(Node).values(overcommit={"cpu": 1, "memory": 1, "disk": 1}))


class TestRecorded:
    @pytest.fixture
    def recorded(self, operator: Caller, service: Desktops) -> str:
        server_id = started(operator)
        with service.database.transaction() as session:
            session.add(
                DeskSession(
                    session_id="sess-0000000000000001", owner="x", name="x", status="recording", rdp_config={},
                    recording_config={}, storage_config={}, meta={}, provisioning={}, server_id=server_id,
                )
            )  # fmt: skip
        return server_id

    def test_a_recording_blocks(self, operator: Caller, admin: Caller, recorded: str) -> None:
        path = f"/rdp/servers/{recorded}"
        assert operator.get(f"{path}/sessions").json()["active_sessions"][0]["session_id"] == "sess-0000000000000001"
        refused(operator.post(f"{path}/stop"), 409, "RDP_HAS_SESSIONS")
        refused(operator.delete(path), 409, "RDP_HAS_SESSIONS")
        refused(operator.delete(f"{path}?force=true"), 403, "AUTH_FORBIDDEN")
        assert operator.post(f"{path}/stop?force=true").status_code == 200
        assert admin.delete(f"{path}?force=true").status_code == 204


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (AgentRefused("Xorg: /usr/lib/x", "RDP_START_FAILED", ("secret log",)), 503, "RDP_START_FAILED"),
            (AgentUnreachable("away"), 503, "AGENT_UNREACHABLE"),
            (AgentTimeout("slow"), 504, "AGENT_TIMEOUT"),
        ],
    )
    def test_a_start_that_fails(
        self, operator: Caller, agent: FakeAgent, error: Exception, status: int, code: str
    ) -> None:
        server_id = create(operator)["server_id"]
        agent.fail["start"] = error
        answer = operator.post(f"/rdp/servers/{server_id}/start")
        refused(answer, status, code)
        assert "/usr/lib" not in answer.text and "secret log" not in answer.text
        assert operator.get(f"/rdp/servers/{server_id}").json()["status"] == "error"
        agent.fail.clear()
        assert operator.post(f"/rdp/servers/{server_id}/start").status_code == 200

    def test_the_agent_is_told_whether_another_desktop_will_do(
        self, operator: Caller, agent: FakeAgent, service: Desktops
    ) -> None:
        assert agent.specs[create(operator)["server_id"]].fallback
        service.settings.rdp_desktop_fallback = "refuse"
        assert not agent.specs[create(operator)["server_id"]].fallback

    def test_a_create_that_fails_leaves_nothing(self, operator: Caller, agent: FakeAgent, service: Desktops) -> None:
        agent.fail["create"] = AgentRefused("no useradd")
        refused(operator.post("/rdp/servers", json=SAMPLE), 500, "INTERNAL")
        with service.database.read() as session:
            assert not session.scalars(select(RdpServer)).all()
            assert not session.scalars(select(PortLease)).all()

    def test_a_delete_that_fails_can_be_repeated(self, operator: Caller, agent: FakeAgent) -> None:
        server_id = create(operator)["server_id"]
        agent.fail["delete"] = AgentUnreachable("away")
        refused(operator.delete(f"/rdp/servers/{server_id}"), 503, "AGENT_UNREACHABLE")
        assert operator.get(f"/rdp/servers/{server_id}").status_code == 200
        agent.fail.clear()
        assert operator.delete(f"/rdp/servers/{server_id}").status_code == 204

    def test_a_server_that_dies_by_itself(self, operator: Caller, agent: FakeAgent) -> None:
        server_id = started(operator)
        agent.servers[server_id] = agent.servers[server_id].__class__(
            server_id, "active", "failed", "failed", None, None, 0, None, None, None, {}
        )
        path = f"/rdp/servers/{server_id}"
        wait_until(lambda: operator.get(path).json()["status"] == "error", "its end is noticed")
        wait_until(lambda: agent.servers[server_id].xrdp == "inactive", "what is left of it is stopped")

    def test_a_crash_in_the_middle(
        self, operator: Caller, agent: FakeAgent, service: Desktops, make_http: Callable[..., TestClient]
    ) -> None:
        """Rows that say `starting` and `stopping` become what their servers are."""
        half, whole, gone = create(operator)["server_id"], started(operator), started(operator)
        marked, orphan = create(operator)["server_id"], "rdp-00000000000000aa"
        agent.servers[orphan] = agent.servers[half]
        with service.database.transaction() as session:
            for server_id, values in (
                (half, {"status": "starting"}),
                (whole, {"status": "starting"}),
                (gone, {"status": "stopping"}),
                (marked, {"deleted_at": service.shared.database and session.get_one(RdpServer, marked).created_at}),
            ):
                session.execute(update(RdpServer).where(RdpServer.server_id == server_id).values(**values))
        agent.server_stop(gone, "x")
        again = Caller(make_http(), operator.token)
        seen = {one["server_id"]: one["status"] for one in again.get("/rdp/servers").json()["servers"]}
        assert seen == {half: "stopped", whole: "running", gone: "stopped"}
        wait_until(lambda: orphan not in agent.servers and marked not in agent.servers, "those of nobody are gone")


def test_operators_may_do_all(caller: Callable[..., Caller]) -> None:
    everyone = caller("operator", *OPERATORS)
    assert create(everyone)["user_id"] == "test-user-123"
