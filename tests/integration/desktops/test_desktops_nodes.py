"""Nodes and pools (contract section 7)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from labyard.core.clock import as_text, now
from labyard.desktops.adapters.agent import Usage
from labyard.desktops.models import NodeStatus, PoolAssignment
from labyard.desktops.roles import Role
from labyard.desktops.service import Desktops
from labyard.desktops.service.usage import NodeUsage
from labyard.testing.waiting import PATIENCE, wait_until

from .conftest import Caller

NODE: dict[str, Any] = {
    "name": "test-node-001",
    "node_type": "worker",
    "hardware_info": {
        "cpu": {"cores": 8, "frequency_mhz": 3200, "architecture": "x86_64"},
        "memory": {"total_bytes": 17179869184, "type": "DDR4"},
        "storage": {"total_bytes": 1099511627776, "type": "SSD"},
        "gpu": {"model": "NVIDIA RTX 3080", "memory_bytes": 10737418240},
        "network": [{"interface": "eth0", "speed_mbps": 1000}],
    },
    "location": {"country": "US", "region": "CA"},
    "initial_pool_id": "pool_workers",
    "configuration": {"max_sessions": 10},
}
HEARD = {"timestamp": "2026-01-01T00:00:00Z"}


def node_like(**changes: Any) -> dict[str, Any]:
    """The contract's sample, with changes at dotted paths; None takes a field away."""
    body = copy.deepcopy(NODE)
    for path, value in changes.items():
        *way, last = path.split("__")
        place = body
        for step in way:
            place = place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return body


@pytest.fixture
def node(operator: Caller) -> str:
    made = operator.post("/nodes", json=NODE)
    assert made.status_code == 201, made.text
    return str(made.json()["node_id"])


@pytest.fixture
def active(operator: Caller, node: str) -> str:
    assert operator.post(f"/nodes/{node}/start").status_code == 200
    return node


@pytest.fixture(scope="session")
def steady_node(steady: Caller) -> str:
    made = steady.post("/nodes", json=node_like(name="steady node"))
    assert steady.post(f"/nodes/{made.json()['node_id']}/start").status_code == 200
    return str(made.json()["node_id"])


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


class TestRegistration:
    def test_the_sample_is_taken_as_it_is(self, operator: Caller) -> None:
        made = operator.post("/nodes", json=NODE).json()
        assert made["status"] == "inactive" and made["pool_id"] == "pool_workers" and made["last_heartbeat"] is None
        assert made["hardware_info"] == NODE["hardware_info"] and made["location"] == NODE["location"]
        assert made["configuration"] == NODE["configuration"] and made["reputation"] == 50
        assert made["node_id"].startswith("node_") and len(made["node_id"]) == 17
        assert operator.get(f"/nodes/{made['node_id']}").json() == made

    @pytest.mark.parametrize(
        "changes",
        [
            {"hardware_info__cpu__cores": 0}, {"hardware_info__cpu__cores": -1}, {"hardware_info__cpu__cores": 129},
            {"hardware_info__cpu__cores": "8"}, {"hardware_info__cpu__cores": True}, {"hardware_info__cpu": None},
            {"hardware_info__cpu__architecture": "z80"}, {"hardware_info__cpu__frequency_mhz": 99},
            {"hardware_info__memory": None}, {"hardware_info__memory__total_bytes": 0},
            {"hardware_info__memory__total_bytes": 2**41}, {"hardware_info__memory__type": "DDR9"},
            {"hardware_info__storage": None}, {"hardware_info__storage__total_bytes": 1},
            {"hardware_info__storage__type": "tape"}, {"hardware_info__network": [{"interface": "eth0"}]},
            {"hardware_info": None}, {"name": "ab"}, {"name": "  a  "}, {"name": "x" * 101}, {"name": "a\u0007bc"},
            {"node_type": "king"}, {"initial_pool_id": "pool_none"}, {"initial_pool_id": None},
            {"node_id": "a b"}, {"node_id": "x" * 65}, {"node_id": "statistics"}, {"location__country": "usa"},
            {"configuration__max_sessions": 0}, {"configuration__agent_address": "http://10.0.0.1:1"},
            {"configuration__agent_address": "unix:///run/x"},
        ],
    )  # fmt: skip
    def test_bad_bodies(self, steady: Caller, changes: dict[str, Any]) -> None:
        answer = steady.post("/nodes", json=node_like(**changes))
        assert code(answer) == (400, "VALIDATION_FAILED"), answer.text
        field = next(iter(changes)).replace("__", ".")
        assert answer.json()["error"]["details"][0]["field"].startswith(field)
        assert steady.get(f"/nodes?name={NODE['name']}").json()["total"] == 0

    @pytest.mark.parametrize("query", ["status=happy", "node_type=king", "limit=1000", "pool_id=%00"])
    def test_bad_filters(self, steady: Caller, query: str) -> None:
        assert code(steady.get(f"/nodes?{query}")) == (400, "VALIDATION_FAILED")

    def test_names_and_ids_are_unique(self, operator: Caller, node: str) -> None:
        assert code(operator.post("/nodes", json=NODE)) == (409, "NODE_EXISTS")
        assert code(operator.post("/nodes", json=node_like(node_id=node, name="other"))) == (409, "NODE_EXISTS")
        operator.delete(f"/nodes/{node}")
        assert operator.post("/nodes", json=node_like(node_id="mine")).json()["node_id"] == "mine"

    def test_ten_at_once_with_heartbeats(self, operator: Caller) -> None:
        def one(number: int) -> int:
            made = operator.post("/nodes", json=node_like(name=f"node {number}")).json()["node_id"]
            assert operator.post(f"/nodes/{made}/start").status_code == 200
            return int(operator.post(f"/nodes/{made}/heartbeat", json=HEARD).status_code)

        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(one, range(10))) == [200] * 10
        assert operator.get("/nodes/pools/pool_workers/statistics").json()["active_nodes"] == 10


class TestLists:
    def test_many_at_once_see_what_they_have_made_and_are_told_their_own(self, operator: Caller) -> None:
        def made_and_listed(number: int) -> tuple[bool, str, str]:
            name = f"node {number}"
            assert operator.post("/nodes", json=node_like(name=name)).status_code == 201
            answer = operator.get("/nodes", headers={"X-Request-ID": name.replace(" ", "-")})
            found = name in [node["name"] for node in answer.json()["nodes"]]
            return found, answer.headers["X-Request-ID"], answer.headers["X-RateLimit-Remaining"]

        with ThreadPoolExecutor(10) as threads:
            seen = list(threads.map(made_and_listed, range(30)))
        assert [(found, asked) for found, asked, _ in seen] == [(True, f"node-{number}") for number in range(30)]
        assert len({remaining for _, _, remaining in seen}) > 1  # each was counted

    def test_a_wrong_question_is_wrong_for_all(self, steady: Caller) -> None:
        with ThreadPoolExecutor(10) as threads:
            answers = list(threads.map(lambda _: steady.get("/nodes?limit=0"), range(20)))
        assert {answer.status_code for answer in answers} == {400}
        assert len({answer.json()["error"]["request_id"] for answer in answers}) == 20


class TestLife:
    def test_from_start_to_delete(self, operator: Caller, node: str) -> None:
        started = operator.post(f"/nodes/{node}/start")
        assert started.status_code == 200 and started.json()["status"] == "active" and started.json()["started_at"]
        assert code(operator.post(f"/nodes/{node}/start")) == (409, "NODE_STATE")
        assert code(operator.delete(f"/nodes/{node}")) == (409, "NODE_STATE")
        stopped = operator.post(f"/nodes/{node}/stop")
        assert stopped.json()["status"] == "inactive" and stopped.json()["stopped_at"].endswith("Z")
        assert code(operator.post(f"/nodes/{node}/stop")) == (409, "NODE_STATE")
        assert operator.delete(f"/nodes/{node}").status_code == 204
        assert code(operator.get(f"/nodes/{node}")) == (404, "NODE_NOT_FOUND")

    def test_two_starts_at_once(self, operator: Caller, node: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            codes = pool.map(lambda _: operator.post(f"/nodes/{node}/start").status_code, range(4))
        assert sorted(codes) == [200, 409, 409, 409]

    def test_heartbeats(self, operator: Caller, active: str) -> None:
        before = now()
        answer = operator.post(f"/nodes/{active}/heartbeat", json={"timestamp": as_text(before - timedelta(hours=1))})
        assert answer.status_code == 200 and answer.json()["status"] == "active"
        assert datetime.fromisoformat(answer.json()["last_heartbeat"]) >= before
        assert -3700 < answer.json()["clock_skew_seconds"] < -3500
        assert operator.get(f"/nodes/{active}").json()["last_heartbeat"] == answer.json()["last_heartbeat"]

    @pytest.mark.parametrize("stamp", ["2026-01-01T00:00:00", "2026-01-01T01:00:00+01:00", "2026-01-01 00:00:00Z"])
    def test_forms_of_time(self, operator: Caller, active: str, stamp: str) -> None:
        found = operator.post(f"/nodes/{active}/heartbeat", json={"timestamp": stamp}).json()
        sent = datetime.fromisoformat(found["last_heartbeat"]) + timedelta(seconds=found["clock_skew_seconds"])
        assert abs((sent - datetime.fromisoformat("2026-01-01T00:00:00Z")).total_seconds()) < 0.01

    @pytest.mark.parametrize("body", [{}, {"timestamp": "soon"}, {"timestamp": 5}, {"timestamp": None}, [], "x"])
    def test_bad_heartbeats(self, steady: Caller, steady_node: str, body: Any) -> None:
        assert code(steady.post(f"/nodes/{steady_node}/heartbeat", json=body)) == (400, "VALIDATION_FAILED")
        assert code(steady.post("/nodes/nobody/heartbeat", json=body)) == (404, "NODE_NOT_FOUND")

    def test_a_stopped_node_is_not_heard(self, operator: Caller, node: str) -> None:
        assert code(operator.post(f"/nodes/{node}/heartbeat", json=HEARD)) == (409, "NODE_STATE")

    def test_a_silent_node_is_unreachable_until_it_is_heard(
        self, make_http: Callable[..., TestClient], operator: Caller, active: str
    ) -> None:
        again = Caller(make_http(node_lost_after=0.2, node_live_interval=0.1), operator.token)
        wait_until(lambda: again.get(f"/nodes/{active}").json()["status"] == "unreachable", "the node is unreachable")
        make_http()
        again = Caller(make_http(), operator.token)
        assert again.post(f"/nodes/{active}/heartbeat", json=HEARD).json()["status"] == "active"

    def test_maintenance(self, operator: Caller, active: str) -> None:
        assert operator.post(f"/nodes/{active}/maintenance").json()["status"] == "maintenance"
        assert operator.post(f"/nodes/{active}/heartbeat", json=HEARD).json()["status"] == "maintenance"
        assert operator.post(f"/nodes/{active}/start").json()["status"] == "active"

    def test_a_start_that_a_crash_cut_off_can_be_repeated(
        self, service: Desktops, make_http: Callable[..., TestClient], operator: Caller, node: str
    ) -> None:
        service.node_life._back_to(node, NodeStatus.STARTING)
        again = Caller(make_http(), operator.token)
        assert again.post(f"/nodes/{node}/start").status_code == 200

    def test_enrolment_needs_an_agent(self, operator: Caller, node: str) -> None:
        assert code(operator.post(f"/nodes/{node}/enrolment")) == (409, "NODE_STATE")
        body = node_like(name="remote", configuration__agent_address="https://10.0.0.1:8444")
        remote = operator.post("/nodes", json=body).json()
        assert remote["agent"]["address"] == "https://10.0.0.1:8444"
        answer = operator.post(f"/nodes/{remote['node_id']}/enrolment").json()
        assert len(answer["enrolment_token"]) >= 40 and answer["expires_at"] > as_text(now())


class TestPools:
    def test_move_shows_at_once(self, operator: Caller, node: str, service: Desktops) -> None:
        assert operator.get(f"/nodes/{node}/pool").json()["node_count"] == 1
        moved = operator.put(f"/nodes/{node}/pool", json={"pool_id": "pool_compute"}).json()
        assert moved["pool_id"] == "pool_compute" and moved["node_count"] == 1 and moved["assigned_at"]
        assert operator.get(f"/nodes/{node}").json()["pool_id"] == "pool_compute"
        listed = operator.get("/nodes?pool_id=pool_compute").json()
        assert [row["node_id"] for row in listed["nodes"]] == [node] and not listed["has_next"]
        assert operator.get("/nodes?pool_id=pool_workers").json()["nodes"] == []
        with service.database.read() as session:
            rows = session.scalars(select(PoolAssignment).order_by(PoolAssignment.id)).all()
        assert [(row.pool_id, row.released_at is None) for row in rows] == [
            ("pool_workers", False), ("pool_compute", True),
        ]  # fmt: skip

    def test_bad_moves(self, operator: Caller, admin: Caller, node: str) -> None:
        path = f"/nodes/{node}/pool"
        assert code(operator.put(path, json={"pool_id": "pool_none"})) == (400, "VALIDATION_FAILED")
        assert code(operator.put(path, json={})) == (400, "VALIDATION_FAILED")
        assert code(operator.put("/nodes/nobody/pool", json={})) == (404, "NODE_NOT_FOUND")
        admin.post("/nodes/pools", json={"pool_id": "pool_small", "name": "small", "max_nodes": 1})
        other = operator.post("/nodes", json=node_like(name="other", initial_pool_id="pool_small"))
        assert other.status_code == 201
        assert code(operator.put(path, json={"pool_id": "pool_small"})) == (409, "POOL_FULL")
        full = node_like(name="third", initial_pool_id="pool_small")
        assert code(operator.post("/nodes", json=full)) == (409, "POOL_FULL")
        assert operator.get(path).json()["pool_id"] == "pool_workers"

    def test_moves_at_once_lose_nothing(self, operator: Caller, admin: Caller, service: Desktops) -> None:
        for name in ("a", "b"):
            admin.post("/nodes/pools", json={"pool_id": f"pool_{name}", "name": name, "max_nodes": 3})
        ids = [operator.post("/nodes", json=node_like(name=f"n {n}")).json()["node_id"] for n in range(6)]
        with ThreadPoolExecutor(12) as threads:
            codes = list(
                threads.map(
                    lambda n: (
                        operator.put(
                            f"/nodes/{ids[n % 6]}/pool", json={"pool_id": "pool_a" if n % 2 else "pool_b"}
                        ).status_code
                    ),
                    range(12),
                )
            )
        assert set(codes) <= {200, 409}
        with service.database.read() as session:
            open_ones = session.scalars(select(PoolAssignment).where(PoolAssignment.released_at.is_(None))).all()
        assert {row.node_id: row.pool_id for row in open_ones} == {
            row["node_id"]: row["pool_id"] for row in operator.get("/nodes").json()["nodes"]
        }
        assert all(operator.get(f"/nodes/pools/pool_{name}").json()["node_count"] <= 3 for name in "ab")

    def test_the_first_pools_are_there(self, operator: Caller) -> None:
        found = {pool["pool_id"] for pool in operator.get("/nodes/pools").json()["pools"]}
        assert found == {"pool_workers", "pool_storage", "pool_compute", "pool_local"}

    def test_administration(self, admin: Caller, operator: Caller, node: str) -> None:
        body = {"pool_id": "pool_x", "name": "X", "description": "for tests", "max_nodes": 5}
        assert operator.post("/nodes/pools", json=body).status_code == 403
        assert admin.post("/nodes/pools", json=body).json()["node_count"] == 0
        assert code(admin.post("/nodes/pools", json=body)) == (409, "POOL_EXISTS")
        assert admin.put("/nodes/pools/pool_x", json={"name": "Y"}).json()["name"] == "Y"
        assert admin.delete("/nodes/pools/pool_x").status_code == 204
        assert code(admin.get("/nodes/pools/pool_x")) == (404, "POOL_NOT_FOUND")
        assert code(admin.delete("/nodes/pools/pool_workers")) == (409, "POOL_STATE")
        assert code(admin.post("/nodes/pools", json={**body, "pool_id": "x"})) == (400, "VALIDATION_FAILED")

    def test_statistics(self, operator: Caller, active: str) -> None:
        operator.post("/nodes", json=node_like(name="second", initial_pool_id="pool_storage"))
        found = operator.get("/nodes/pools/pool_workers/statistics").json()
        assert found == {
            "pool_id": "pool_workers", "total_nodes": 1, "active_nodes": 1, "inactive_nodes": 0, "total_cpu_cores": 8,
            "total_memory_bytes": 17179869184, "total_storage_bytes": 1099511627776, "average_reputation": 50.0,
        }  # fmt: skip
        total = operator.get("/nodes/statistics").json()
        assert (total["total_nodes"], total["inactive_nodes"], total["total_pools"]) == (2, 1, 4)
        assert total["total_cpu_cores"] == 16
        assert code(operator.get("/nodes/pools/pool_none/statistics")) == (404, "POOL_NOT_FOUND")


class TestUsage:
    def test_is_of_the_services_host_and_says_so(self, operator: Caller, active: str) -> None:
        found = operator.get(f"/nodes/{active}/usage").json()
        assert found["source"] == "service-host" and found["shared"] is True
        assert all(0 <= found[name] <= 100 for name in ("cpu_percent", "memory_percent", "disk_percent"))
        assert found["network_in"] >= 0 and found["detail"]["memory"]["total_bytes"] > 0
        assert operator.get(f"/nodes/{active}").json()["hardware_observed"] is None

    def test_history_begins_at_the_start_and_grows(self, operator: Caller, active: str) -> None:
        first = operator.get(f"/nodes/{active}/usage/history").json()["usage_history"]
        assert len(first) >= 1
        wait_until(
            lambda: len(operator.get(f"/nodes/{active}/usage/history").json()["usage_history"]) > len(first),
            "the history grows",
        )

    def test_without_redis_keys_too(self, operator: Caller, active: str, service: Desktops) -> None:
        service.live.clear()
        assert operator.get(f"/nodes/{active}/usage").status_code == 200
        assert operator.get(f"/nodes/{active}/usage/history").json()["usage_history"]

    def test_an_inactive_node_uses_nothing(self, operator: Caller, node: str) -> None:
        assert code(operator.get(f"/nodes/{node}/usage")) == (409, "NODE_STATE")
        assert operator.get(f"/nodes/{node}/usage/history").json()["usage_history"] == []

    @pytest.mark.parametrize("duration", ["31d", "0h", "1w", "h", "-1h", "", "1.5h"])
    def test_bad_durations(self, steady: Caller, steady_node: str, duration: str) -> None:
        path = f"/usage/history?duration={duration}"
        assert code(steady.get(f"/nodes/{steady_node}{path}")) == (400, "VALIDATION_FAILED")
        assert code(steady.get(f"/nodes/nobody{path}")) == (404, "NODE_NOT_FOUND")

    def test_alerts_come_and_go(self, operator: Caller, service: Desktops, node: str) -> None:
        usage = NodeUsage(service.shared)  # the service's own looks at active nodes only

        def judge(cpu: float) -> None:
            sample = Usage(as_text(now()), cpu, 10.0, 10.0, 0.0, 0.0, "agent")
            usage.judge(node, NODE["hardware_info"], sample)

        def active() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = operator.get(f"/nodes/{node}/alerts").json()["active_alerts"]
            return found

        judge(75)
        assert active() == []
        judge(75)
        (alert,) = active()
        assert (alert["resource_type"], alert["severity"], alert["threshold"]) == ("cpu", "medium", 70)
        assert alert["resource_id"] == node and alert["resolved"] is False
        judge(95), judge(95)
        (worse,) = active()
        assert worse["severity"] == "critical" and worse["alert_id"] == alert["alert_id"]
        judge(86)
        assert active(), "within the hysteresis"
        judge(50)
        assert active() == []
        (past,) = operator.get(f"/nodes/{node}/alerts").json()["alert_history"]
        assert past["resolved"] and past["resolved_at"]


class TestRoles:
    def test_a_viewer_reads_and_changes_nothing(self, caller: Callable[..., Caller], active: str) -> None:
        viewer = caller("v", Role.NODE_VIEWER)
        assert viewer.get(f"/nodes/{active}").status_code == 200
        for method, path in (
            ("POST", "/nodes"), ("POST", f"/nodes/{active}/stop"), ("DELETE", f"/nodes/{active}"),
            ("POST", "/nodes/nobody/start"), ("PUT", f"/nodes/{active}/pool"), ("POST", f"/nodes/{active}/heartbeat"),
        ):  # fmt: skip
            assert viewer.request(method, path).status_code == 403, path

    def test_others_do_not_even_read(self, caller: Callable[..., Caller], active: str) -> None:
        assert caller("s", Role.SESSION_MANAGER).get(f"/nodes/{active}").status_code == 403


class TestDatabaseAway:
    def test_503_and_recovery(self, postgresql: Any, operator: Caller, active: str, service: Desktops) -> None:
        name = service.database.engine.url.database
        with_force = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        postgresql._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgresql._execute(with_force)
        began = time.monotonic()
        answer = operator.get(f"/nodes/{active}")
        assert code(answer) == (503, "DB_UNAVAILABLE") and answer.headers["retry-after"]
        assert time.monotonic() - began < PATIENCE  # it does not wait for the database
        assert operator.http.get("/ready").status_code == 503
        assert operator.http.get("/health").status_code == 200
        postgresql._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        wait_until(lambda: operator.get(f"/nodes/{active}").status_code == 200, "the database is found again")
        assert operator.post(f"/nodes/{active}/heartbeat", json=HEARD).status_code == 200


def test_samples_are_kept_by_month(service: Desktops, operator: Caller, active: str) -> None:
    with service.database.read() as session:
        found = session.execute(text("SELECT tableoid::regclass::text, count(*) FROM usage_samples GROUP BY 1")).all()
    assert [row[0] for row in found] == [f"usage_samples_{now():%Y_%m}"]
