"""RDP servers: made on demand, started, tried, measured, stopped, deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.desktops.models import PortLease
from labyard.testing.waiting import wait_until

pytestmark = [pytest.mark.phase3_integration, pytest.mark.rdp_creation]

FIRST_PORT, LAST_PORT = 33890, 33999
Make = Callable[..., dict[str, Any]]


class TestWorkflow:
    def test_create_start_try_stop_delete(self, rdp_client: httpx.Client, make_server: Make, test_db: Session) -> None:
        server = make_server(start=False)
        path = f"/servers/{server['server_id']}"
        assert server["status"] == "stopped" and FIRST_PORT <= server["port"] <= LAST_PORT
        started = rdp_client.post(f"{path}/start")
        assert started.status_code == 200, started.text
        assert started.json()["status"] == "running" and started.json()["port"] == server["port"]
        assert rdp_client.post(f"{path}/start").status_code == 409
        status = rdp_client.get(f"{path}/service-status").json()
        assert status["xrdp_status"] == status["xrdp_sesman_status"] == "active"
        tried = rdp_client.post(f"{path}/test-connection").json()
        assert tried["connection_available"] and tried["port_open"] and tried["login"]["succeeded"]
        credentials = rdp_client.get(f"{path}/credentials").json()
        wrong = {"username": credentials["username"], "password": "wrong"}
        assert rdp_client.post(f"{path}/test-connection", json=wrong).json()["login"]["succeeded"] is False
        stopped = rdp_client.post(f"{path}/stop")
        assert stopped.status_code == 200 and stopped.json()["status"] == "stopped"
        status = rdp_client.get(f"{path}/service-status").json()
        assert status["xrdp_status"] == status["xrdp_sesman_status"] == "inactive"
        tried = rdp_client.post(f"{path}/test-connection").json()
        assert not tried["connection_available"] and not tried["port_open"]
        assert (
            test_db.scalar(select(PortLease.port).where(PortLease.server_id == server["server_id"])) == server["port"]
        )
        assert rdp_client.delete(path).status_code == 204
        assert rdp_client.get(path).status_code == 404
        assert test_db.scalar(select(PortLease.port).where(PortLease.server_id == server["server_id"])) is None

    def test_started_again_it_keeps_its_port(self, rdp_client: httpx.Client, make_server: Make) -> None:
        server = make_server()
        path = f"/servers/{server['server_id']}"
        rdp_client.post(f"{path}/stop")
        assert rdp_client.post(f"{path}/start").json()["port"] == server["port"]


class TestResources:
    def test_echo(self, rdp_client: httpx.Client, make_server: Make, sample_rdp_server_request: dict[str, Any]) -> None:
        server = make_server(start=False)
        found = rdp_client.get(f"/servers/{server['server_id']}/resources").json()
        assert found == sample_rdp_server_request["resources"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("cpu_limit", -1), ("cpu_limit", 0), ("cpu_limit", 100), ("memory_limit", 1), ("memory_limit", 10**9),
            ("disk_limit", 0), ("network_bandwidth", 1),
        ],
    )  # fmt: skip
    def test_limits(
        self, rdp_client: httpx.Client, sample_rdp_server_request: dict[str, Any], name: str, value: float
    ) -> None:
        sample_rdp_server_request["resources"][name] = value
        answer = rdp_client.post("/servers", json=sample_rdp_server_request)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "VALIDATION_FAILED"

    def test_usage(
        self, rdp_client: httpx.Client, make_server: Make, sample_rdp_server_request: dict[str, Any]
    ) -> None:
        path = f"/servers/{make_server()['server_id']}"
        usage = rdp_client.get(f"{path}/usage").json()
        assert 0 <= usage["cpu_percent"] <= 100 * sample_rdp_server_request["resources"]["cpu_limit"]
        assert 0 <= usage["memory_percent"] <= 100 and usage["source"]
        time.sleep(2)  # what the requirement waits for
        wait_until(
            lambda: rdp_client.get(f"{path}/usage/history", params={"duration": "1h"}).json()["usage_history"],
            "a sample of its usage",
        )
        alerts = rdp_client.get(f"{path}/alerts").json()
        assert isinstance(alerts["active_alerts"], list) and isinstance(alerts["alert_history"], list)
        assert rdp_client.get(f"{path}/sessions").json()["active_sessions"] == []
        rdp_client.post(f"{path}/stop")
        assert rdp_client.get(f"{path}/usage").status_code == 409


class TestConfiguration:
    def test_replaced_and_read_again(self, rdp_client: httpx.Client, make_server: Make) -> None:
        path = f"/servers/{make_server(start=False)['server_id']}/configuration"
        wanted = {"desktop_environment": "icewm", "resolution": "1280x720", "color_depth": 16}
        assert rdp_client.put(path, json=wanted).json() == wanted
        assert rdp_client.get(path).json() == wanted
        assert rdp_client.put(path, json=wanted | {"resolution": "huge"}).status_code == 400
        assert rdp_client.get(path).json() == wanted


class TestConcurrency:
    def test_ten_servers(self, rdp_client: httpx.Client, make_server: Make) -> None:
        with ThreadPoolExecutor(10) as pool:
            servers = list(pool.map(lambda number: make_server(name=f"server {number}"), range(10)))
        assert len({server["port"] for server in servers}) == 10
        for server in servers:
            assert rdp_client.get(f"/servers/{server['server_id']}").json()["status"] == "running"

    def test_one_start_counts(self, rdp_client: httpx.Client, make_server: Make) -> None:
        path = f"/servers/{make_server(start=False)['server_id']}/start"
        with ThreadPoolExecutor(4) as pool:
            codes = pool.map(lambda _: rdp_client.post(path).status_code, range(4))
        assert sorted(codes) == [200, 409, 409, 409]


class TestErrors:
    def test_unknown_server(self, rdp_client: httpx.Client) -> None:
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop"), ("GET", "/service-status"),
            ("GET", "/resources"), ("POST", "/test-connection"), ("GET", "/usage"), ("GET", "/usage/history"),
            ("GET", "/alerts"), ("GET", "/sessions"), ("GET", "/configuration"), ("PUT", "/configuration"),
        ):  # fmt: skip
            answer = rdp_client.request(method, f"/servers/unknown{path}")
            assert answer.status_code == 404 and answer.json()["error"]["code"] == "RDP_NOT_FOUND", path

    def test_bad_configuration(self, rdp_client: httpx.Client, sample_rdp_server_data: dict[str, Any]) -> None:
        for name, value in (("resolution", "0x0"), ("color_depth", 7), ("desktop_environment", "twm")):
            body = sample_rdp_server_data | {"configuration": {name: value}}
            assert rdp_client.post("/servers", json=body).status_code == 400, name
