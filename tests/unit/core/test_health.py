"""/health and /metrics (contract section 5.8)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi.testclient import TestClient

from labyard.core.adapter import AdapterError
from labyard.core.database import Database
from labyard.core.health import Check
from labyard.testing.waiting import PATIENCE, wait_until

from .conftest import MakeApp


def fail_with(error: Exception) -> Mapping[str, Any]:
    raise error


class TestHealth:
    def test_basic(self, client: TestClient) -> None:
        body = client.get("/health").json()
        assert set(body) == {"status", "timestamp", "service", "version"}
        assert (body["status"], body["service"], body["version"]) == ("healthy", "labyard-netboot", "1.2.3")
        assert body["timestamp"].endswith("Z")

    def test_live_and_ready(self, client: TestClient) -> None:
        assert client.get("/health/live").json() == {"status": "alive"}
        assert client.get("/health/ready").json() == {"status": "ready"}

    def test_detailed_has_the_system_and_the_service_s_checks(self, make_app: MakeApp) -> None:
        app = make_app([Check("dhcp", lambda: None), Check("iscsi", lambda: {"status": "degraded", "targets": 3})])
        with TestClient(app) as client:
            body = client.get("/api/v1/health/detailed").json()
        checks = body["checks"]
        assert body["status"] == "degraded"
        assert checks["database"]["status"] == checks["dhcp"]["status"] == "healthy"
        assert checks["iscsi"] == {"status": "degraded", "targets": 3}
        for name in ("cpu_percent", "memory_percent", "disk_percent"):
            assert 0 <= checks["system"][name] <= 100

    def test_an_adapter_s_error_is_told_and_any_other_is_not(self, make_app: MakeApp) -> None:
        checks = [
            Check("dhcp", lambda: fail_with(AdapterError("Kea does not answer"))),
            Check("storage", lambda: fail_with(RuntimeError("password=swordfish"))),
        ]
        with TestClient(make_app(checks)) as client:
            answer = client.get("/health/detailed")
        assert answer.status_code == 200
        assert answer.json()["status"] == "unhealthy"
        assert answer.json()["checks"]["dhcp"] == {"status": "unhealthy", "detail": "Kea does not answer"}
        assert "swordfish" not in answer.text

    def test_run_side_by_side_and_a_hung_one_is_given_up(self, make_app: MakeApp) -> None:
        together, released = threading.Barrier(5), threading.Event()

        def meet() -> None:
            together.wait(PATIENCE)  # BrokenBarrierError unless all five run at the same time

        def hang() -> None:
            released.wait()

        checks = [Check(f"slow{i}", meet, timeout=PATIENCE) for i in range(5)]
        checks.append(Check("hung", hang, timeout=0.5))
        with TestClient(make_app(checks)) as client:
            try:
                for _ in range(2):
                    body = client.get("/health/detailed").json()
                    assert body["checks"]["hung"] == {"status": "unhealthy", "detail": "no answer within 0.5 s"}
                    assert body["checks"]["slow4"]["status"] == "healthy"
                assert client.get("/health/live").json() == {"status": "alive"}
            finally:
                released.set()

    def test_a_hung_check_holds_one_thread_however_often_it_is_asked(self, make_app: MakeApp) -> None:
        calls: list[int] = []
        released = threading.Event()

        def hang() -> None:
            calls.append(1)
            released.wait()

        with TestClient(make_app([Check("hung", hang, timeout=0.05)])) as client:
            try:
                for _ in range(5):
                    client.get("/health/detailed")
                wait_until(lambda: calls, "it has begun")
                assert len(calls) == 1
            finally:
                released.set()

    @pytest.mark.parametrize(("required", "status"), [(True, 503), (False, 200)])
    def test_not_ready_while_something_required_is_away(self, make_app: MakeApp, required: bool, status: int) -> None:
        check = Check("dhcp", lambda: fail_with(AdapterError("away")), required=required)
        with TestClient(make_app([check])) as client:
            answer = client.get("/health/ready")
        assert answer.status_code == status
        assert answer.json() == {"status": "ready" if status == 200 else "not_ready"}

    def test_not_ready_without_the_database(
        self, client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database.engine, "connect", lambda: fail_with(OSError("gone")))
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


class TestMetrics:
    def lines(self, client: TestClient) -> list[str]:
        answer = client.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain")
        return answer.text.splitlines()

    def test_counts_by_template(self, client: TestClient) -> None:
        client.get("/things/1/failed")
        client.get("/api/v1/things/2/failed/")
        client.get("/no/such/path/a")
        client.get("/no/such/path/b")
        client.request("BREW", "/things")
        lines = self.lines(client)
        name = "labyard_netboot_http_requests_total"
        assert f'{name}{{method="GET",path="/api/v1/things/{{number}}/failed",status="500"}} 2.0' in lines
        assert f'{name}{{method="GET",path="unmatched",status="404"}} 2.0' in lines
        assert f'{name}{{method="OTHER",path="/api/v1/things",status="405"}} 1.0' in lines

    def test_durations_are_a_true_histogram(self, client: TestClient) -> None:
        for _ in range(3):
            client.get("/things")
        lines = self.lines(client)
        assert "# TYPE labyard_netboot_http_request_duration_seconds histogram" in lines
        name = "labyard_netboot_http_request_duration_seconds"
        assert f'{name}_count{{method="GET",path="/api/v1/things"}} 3.0' in lines
        assert f'{name}_bucket{{le="+Inf",method="GET",path="/api/v1/things"}} 3.0' in lines

    def test_two_apps_count_apart(self, make_app: MakeApp) -> None:
        with TestClient(make_app()) as one, TestClient(make_app()) as two:
            one.get("/things")
            assert not [line for line in self.lines(two) if "/api/v1/things" in line]
