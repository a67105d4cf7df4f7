"""The netboot service over real HTTP, with fakes for the daemons (contract 1.5): for client, commands and modules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer
from ports import free_port
from structlog.testing import capture_logs

from labyard.netboot.app import build
from labyard.netboot.client import Client
from labyard.netboot.service import Netboot
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE, wait_until

PASSWORD = "Correct-horse-7"
DISK = b"\0" * 510 + b"\x55\xaa"  # a disk with a boot sector


@dataclass
class Service:
    """The running service, its settings and an admin's client."""

    settings: Settings
    server: LiveServer
    url: str
    password: str
    client: Client

    @property
    def netboot(self) -> Netboot:
        found: Netboot = self.server.app.state.netboot
        return found

    def image(self, name: str, folder: Path) -> dict[str, Any]:
        """An uploaded image that is ready."""
        file = folder / f"{name}.raw"
        file.write_bytes(DISK)
        return dict(self.client.ingest(self.client.upload(file, name)["id"]))

    def event(self, session_id: int, kind: str) -> None:
        """A boot event, by hand."""
        self.client._call(dict[str, Any], "POST", f"/api/v1/sessions/{session_id}/events", json={"type": kind})


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_hashes: None) -> Iterator[Service]:
    """The service, and an environment in which tokens are kept below tmp_path."""
    for name in [name for name in os.environ if name.startswith("LABYARD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # A machine that stands still is no silent daemon.
    monkeypatch.setattr("labyard.netboot.service.network.WITHIN", PATIENCE)
    monkeypatch.setattr("labyard.core.health.TIMEOUT", PATIENCE)
    settings = Settings(
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
        http_host="127.0.0.1",
        http_port=free_port(),
    )
    url = f"http://127.0.0.1:{settings.http_port}"
    # Its log would be in what commands and modules print.
    with capture_logs(), Client(url, "admin", PASSWORD, cache=tmp_path / "cache/labyard") as client:
        server = LiveServer(lambda: build(settings), settings.http_port)
        service = Service(settings, server, url, PASSWORD, client)
        # It mends what it finds, also what a test breaks meanwhile.
        wait_until(lambda: service.netboot.observer.last, "the observer has looked")
        yield service
        server.stop()


@pytest.fixture
def make_user(live: Service) -> Callable[[str], tuple[str, str]]:
    """Makes a user of a role; answers with name and password."""

    def make(role: str) -> tuple[str, str]:
        given = {"username": role, "password": PASSWORD, "role": role}
        live.client._call(dict[str, Any], "POST", "/auth/users", json=given)
        return role, PASSWORD

    return make
