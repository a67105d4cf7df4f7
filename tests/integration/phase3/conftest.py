"""The suite of the requirement document, over real HTTP, against a running service (contract section 14).

LABYARD_DESKTOPS_URL and LABYARD_DESKTOPS_TOKEN name one that runs already, LABYARD_DESKTOPS_DATABASE_URL and
LABYARD_DESKTOPS_REDIS_URL what it stands on. Otherwise each worker starts one of its own, with PostgreSQL and Redis.
LABYARD_DESKTOPS_RESULT names a file, from the checkout, for what came of the run.
"""

from __future__ import annotations

import copy
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redis
from sqlalchemy.orm import Session

from integration import postgresql, redis_server
from integration.desktops.service_process import ServiceProcess
from integration.results import outcome, write_result
from labyard.core.clock import as_text, now
from labyard.core.database import Database

ROLES = "session_manager,rdp_operator,node_operator"
URL, TOKEN = "LABYARD_DESKTOPS_URL", "LABYARD_DESKTOPS_TOKEN"
DATABASE_URL, REDIS_URL = "LABYARD_DESKTOPS_DATABASE_URL", "LABYARD_DESKTOPS_REDIS_URL"
_began = time.monotonic()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    path, found = os.environ.get("LABYARD_DESKTOPS_RESULT"), outcome(terminalreporter)
    if path and found is not None:
        write_result(config.rootpath / path, {**found, "seconds": round(time.monotonic() - _began, 1)})


@dataclass(frozen=True)
class Running:
    url: str
    token: str
    database_url: str
    redis_url: str


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if url := os.environ.get(URL):
        names = (TOKEN, DATABASE_URL, REDIS_URL)
        missing = [name for name in names if not os.environ.get(name)]
        assert not missing, f"{URL} is set, and so must be {', '.join(missing)}"
        yield Running(url, *(os.environ[name] for name in names))
        return
    with ExitStack() as stack:
        database = stack.enter_context(stack.enter_context(postgresql.server()).database(name=postgresql.DESKTOPS))
        store = stack.enter_context(redis_server.server()).url
        process = ServiceProcess(tmp_path_factory.mktemp("phase3"), database, store)
        stack.callback(process.stop)
        yield Running(f"http://127.0.0.1:{process.port}", process.token(ROLES), database, store)


@pytest.fixture
def test_db(running: Running) -> Iterator[Session]:
    """A session of the service's database, to look behind what it answers."""
    database = Database(running.database_url)
    with database.read() as session:
        yield session
    database.close()


@pytest.fixture
def test_redis(running: Running) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(running.redis_url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture(scope="session")
def auth_headers(running: Running) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.token}"}


def _client(running: Running, headers: dict[str, str], path: str) -> httpx.Client:
    return httpx.Client(base_url=f"{running.url}/api/v1{path}", headers=headers, timeout=60)


@pytest.fixture
def session_client(running: Running, auth_headers: dict[str, str]) -> Iterator[httpx.Client]:
    with _client(running, auth_headers, "/sessions") as client:
        yield client


@pytest.fixture
def rdp_client(running: Running, auth_headers: dict[str, str]) -> Iterator[httpx.Client]:
    with _client(running, auth_headers, "/rdp") as client:
        yield client


@pytest.fixture
def node_client(running: Running, auth_headers: dict[str, str]) -> Iterator[httpx.Client]:
    """Of nodes and of PoOT: paths begin with /nodes or /poot."""
    with _client(running, auth_headers, "") as client:
        yield client


SESSION: dict[str, Any] = {
    "name": "Test Session",
    "description": "Test session description",
    "rdp_config": {
        "host": "192.168.1.100", "port": 3389, "username": "testuser", "domain": "TESTDOMAIN", "use_tls": True,
        "ignore_cert": False,
    },
    "recording_config": {
        "frame_rate": 30, "resolution": "1920x1080", "quality": "high", "compression": "zstd", "audio_enabled": True,
        "cursor_enabled": True,
    },
    "storage_config": {
        "retention_days": 30, "max_size_gb": 10, "encryption_enabled": True, "compression_enabled": True,
        "backup_enabled": False, "archive_enabled": False,
    },
    "metadata": {
        "project": "labyard", "environment": "test", "tags": ["test", "automated"], "owner": "test-user-123",
        "priority": "normal",
    },
}  # fmt: skip
SERVER: dict[str, Any] = {
    "name": "Test RDP Server",
    "description": "A dynamically created RDP server for testing.",
    "user_id": "test-user-123",
    "configuration": {"desktop_environment": "xfce", "resolution": "1920x1080", "color_depth": 24},
    "resources": {"cpu_limit": 2.0, "memory_limit": 4096, "disk_limit": 20480, "network_bandwidth": 1000},
}
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


@pytest.fixture
def sample_session_data() -> dict[str, Any]:
    return copy.deepcopy(SESSION)


@pytest.fixture
def sample_rdp_server_request() -> dict[str, Any]:
    return copy.deepcopy(SERVER)


@pytest.fixture
def sample_rdp_server_data(sample_rdp_server_request: dict[str, Any]) -> dict[str, Any]:
    return sample_rdp_server_request


@pytest.fixture
def sample_node_data() -> dict[str, Any]:
    """With a name of its own: names are unique."""
    return copy.deepcopy(NODE) | {"name": f"test-node-{secrets.token_hex(4)}"}


@pytest.fixture
def sample_poot_data() -> dict[str, Any]:
    """Fresh, and of a node that nobody has heard of."""
    return {
        "node_id": f"test-node-{secrets.token_hex(4)}",
        "output_data": "base64_encoded_output_data_for_poot",
        "timestamp": as_text(now()),
        "nonce": f"unique_nonce_for_poot_validation-{secrets.token_hex(8)}",
    }


@pytest.fixture
def register(node_client: httpx.Client, sample_node_data: dict[str, Any]) -> Iterator[Callable[..., dict[str, Any]]]:
    """Registers nodes like the sample, each with a name of its own, and takes them away again."""
    made: list[str] = []

    def make(**changes: Any) -> dict[str, Any]:
        body = copy.deepcopy(sample_node_data) | {"name": f"test-node-{secrets.token_hex(4)}"} | changes
        answer = node_client.post("/nodes", json=body)
        assert answer.status_code == 201, answer.text
        node: dict[str, Any] = answer.json()
        made.append(node["node_id"])
        return node

    yield make
    for node_id in made:
        node_client.post(f"/nodes/{node_id}/stop")
        assert node_client.delete(f"/nodes/{node_id}").status_code in (204, 404)


@pytest.fixture
def desktops(running: Running) -> None:
    """Real desktops: the service's host runs the agent, with systemd, xrdp and Xorg."""
    agent = httpx.get(f"{running.url}/ready", timeout=60).json()["checks"]["agent"]
    if agent["status"] != "healthy":
        pytest.skip(f"real desktops need an agent beside the service: {agent.get('detail', agent['status'])}")


@pytest.fixture
def make_server(
    desktops: None, rdp_client: httpx.Client, sample_rdp_server_request: dict[str, Any]
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes RDP servers like the sample, started unless told not to, and takes them away again."""
    made: list[str] = []

    def make(start: bool = True, **changes: Any) -> dict[str, Any]:
        answer = rdp_client.post("/servers", json=copy.deepcopy(sample_rdp_server_request) | changes)
        assert answer.status_code == 201, answer.text
        server: dict[str, Any] = answer.json()
        made.append(server["server_id"])
        if start:
            started = rdp_client.post(f"/servers/{server['server_id']}/start")
            assert started.status_code == 200, started.text
        return server

    yield make
    for server_id in made:
        assert rdp_client.delete(f"/servers/{server_id}").status_code in (204, 404)
