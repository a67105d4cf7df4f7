"""The VM manager in this process, over a real database and real files, in dry run (contract section 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from labyard.vms.app import build
from labyard.vms.service.manager import VmManager
from labyard.vms.settings import Settings


@pytest.fixture
def dry_settings(tmp_path: Path) -> Settings:
    return Settings(storage_path=tmp_path / "vman", operator_dry_run=True, observer_interval=3600, stop_timeout=0.2)


@pytest.fixture
def make_dry(dry_settings: Settings) -> Iterator[Callable[..., TestClient]]:
    """Starts the service; called again, it is the service after a restart. Takes changes of the settings."""
    running: list[TestClient] = []

    def stop() -> None:
        while running:
            running.pop().__exit__(None, None, None)

    def start(**changes: Any) -> TestClient:
        stop()
        settings = Settings.model_validate(dry_settings.model_dump() | changes)
        client = TestClient(build(settings), raise_server_exceptions=False)
        client.__enter__()
        running.append(client)
        return client

    yield start
    stop()


@pytest.fixture
def dry(make_dry: Callable[..., TestClient]) -> TestClient:
    return make_dry()


@pytest.fixture
def manager(dry: TestClient) -> VmManager:
    found: VmManager = dry.app.state.vms  # type: ignore[attr-defined]
    return found


@pytest.fixture
def sql(manager: VmManager) -> Callable[..., list[Any]]:
    """Another program at the database: rows of any kind, foreign keys unchecked."""

    def run(statement: str, **values: Any) -> list[Any]:
        with manager.database.engine.connect() as connection:
            connection.execute(text("PRAGMA foreign_keys=OFF"))
            result = connection.execute(text(statement), values)
            rows = list(result) if result.returns_rows else []
            connection.commit()
            connection.execute(text("PRAGMA foreign_keys=ON"))
        return rows

    return run


@pytest.fixture
def small(dry: TestClient) -> str:
    assert dry.post("/templates", json={"name": "small", "cpu_count": 1, "ram_amount": 512}).status_code == 201
    return "small"


@pytest.fixture
def make_vm(dry: TestClient, small: str) -> Callable[..., str]:
    def make(name: str = "web", running: bool = False) -> str:
        made = dry.post("/vms", json={"template_name": small, "name": name})
        assert made.status_code == 201, made.text
        if running:
            assert dry.post(f"/vms/{name}/actions/start").status_code == 202
        return name

    return make


@pytest.fixture
def make_disk(dry: TestClient) -> Callable[..., str]:
    def make(**given: Any) -> str:
        made = dry.post("/disks", json={"size": 1} | given)
        assert made.status_code == 201, made.text
        found: str = made.json()["id"]
        return found

    return make
