"""The netboot service in this process, over real files and a real database, with fakes for the daemons (contract 1.5).

The same service against real daemons is in tests/flows and tests/faults.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from labyard.netboot.adapters.factory import make_adapters
from labyard.netboot.app import build
from labyard.netboot.models import Image, ImageStatus
from labyard.netboot.service import Netboot
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE, wait_until

PASSWORD = "Correct-horse-7"
MACHINE = {
    "name": "test-workstation",
    "mac_address": "00:11:22:33:44:55",
    "ip_address": "192.168.1.101",
    "boot_mode": "bios",
}
GIB = 1024**3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        iscsi_backend="fake",
        dhcp_backend="fake",
        export_backend="fake",
        power_backend="fake",
        service_manager="none",
        tftp_root=tmp_path / "tftp",
        images_dir=tmp_path / "images",
        overlay_dir=tmp_path / "overlays",
        dhcp_config=tmp_path / "dhcp.conf",
        secret_key="k" * 40,
        admin_password=PASSWORD,
        observer_interval_seconds=3600,
        step_timeout_seconds=PATIENCE,
        dhcp_timeout_seconds=PATIENCE,
    )


@dataclass
class Client:
    """Calls the API as one user."""

    http: TestClient
    token: str | None = None

    def call(self, method: str, path: str, **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return self.http.request(method, path, headers=headers | given.pop("headers", {}), **given)

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.call("GET", path, **given)

    def post(self, path: str, **given: Any) -> httpx.Response:
        return self.call("POST", path, **given)

    def put(self, path: str, **given: Any) -> httpx.Response:
        return self.call("PUT", path, **given)

    def delete(self, path: str, **given: Any) -> httpx.Response:
        return self.call("DELETE", path, **given)


@pytest.fixture(autouse=True)
def patient_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still is no silent daemon. The contract's limit is the subject of one test."""
    monkeypatch.setattr("labyard.netboot.service.network.WITHIN", PATIENCE)
    monkeypatch.setattr("labyard.netboot.adapters.services.STATUS_SECONDS", PATIENCE)


def until_looked(client: TestClient) -> None:
    """Until the observer's first look is over: it mends what it finds, also what a test breaks meanwhile."""
    observer = client.app.state.netboot.observer  # type: ignore[attr-defined]
    wait_until(lambda: observer.last, "the observer has looked")


@pytest.fixture
def make_service(settings: Settings, quick_hashes: None) -> Iterator[Callable[[], TestClient]]:
    """Starts the service; called again, it is the service after a restart. Its observer has looked once."""
    running: list[TestClient] = []

    def start() -> TestClient:
        while running:
            running.pop().__exit__(None, None, None)
        client = TestClient(build(settings, make_adapters(settings)), raise_server_exceptions=False)
        client.__enter__()
        running.append(client)
        until_looked(client)
        return client

    yield start
    while running:
        running.pop().__exit__(None, None, None)


@pytest.fixture
def service(make_service: Callable[[], TestClient]) -> TestClient:
    return make_service()


@pytest.fixture
def netboot(service: TestClient) -> Netboot:
    found: Netboot = service.app.state.netboot  # type: ignore[attr-defined]
    return found


@pytest.fixture
def login(service: TestClient) -> Callable[[str, str], Client]:
    def log_in(username: str, password: str) -> Client:
        answer = service.post("/api/v1/auth/login", json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        return Client(service, answer.json()["access_token"])

    return log_in


@pytest.fixture
def admin(login: Callable[[str, str], Client]) -> Client:
    return login("admin", PASSWORD)


@pytest.fixture
def operator(admin: Client, login: Callable[[str, str], Client]) -> Client:
    return _user(admin, login, "operator")


@pytest.fixture
def viewer(admin: Client, login: Callable[[str, str], Client]) -> Client:
    return _user(admin, login, "viewer")


def _user(admin: Client, login: Callable[[str, str], Client], role: str) -> Client:
    made = admin.post("/auth/users", json={"username": role, "password": PASSWORD, "role": role})
    assert made.status_code == 201, made.text
    return login(role, PASSWORD)


@pytest.fixture
def test_machine(operator: Client) -> dict[str, Any]:
    """Machine 1 of the requirement's test data."""
    made = operator.post("/machines", json=MACHINE)
    assert made.status_code == 201, made.text
    answer: dict[str, Any] = made.json()
    return answer


@pytest.fixture
def test_image(netboot: Netboot) -> Image:
    """Image 1 of the requirement's test data: ready, VHDX, 1 GiB."""
    path = netboot.settings.images_dir / "test.vhdx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, GIB)
    with netboot.database.write() as session:
        image = Image(
            name="test-image",
            filename="test.vhdx",
            file_path=str(path),
            format="vhdx",
            status=ImageStatus.READY,
            size_bytes=GIB,
            virtual_size_bytes=GIB,
            created_by=1,
        )
        session.add(image)
        session.flush()
        return image


@pytest.fixture
def test_session(operator: Client, test_machine: dict[str, Any], test_image: Image) -> dict[str, Any]:
    """Session 1 of the requirement's test data: machine 1, image 1, target 1, active."""
    made = operator.post("/api/v1/sessions/start", json={"machine_id": test_machine["id"], "image_id": test_image.id})
    assert made.status_code == 201, made.text
    answer: dict[str, Any] = made.json()
    return answer
