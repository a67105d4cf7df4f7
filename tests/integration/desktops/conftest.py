"""The service in this process, over a real PostgreSQL and a real Redis."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import make_url

from integration import postgresql as pg
from integration import redis_server
from labyard.core.database import Database
from labyard.desktops import picture
from labyard.desktops.adapters import live
from labyard.desktops.adapters.agent import Agents, NoAgents
from labyard.desktops.api import health
from labyard.desktops.app import PACKAGE, build
from labyard.desktops.recorder import external, recorders
from labyard.desktops.roles import Role
from labyard.desktops.service import Desktops
from labyard.desktops.settings import Settings
from labyard.testing.waiting import PATIENCE

from .openapi import Document

API = "/api/v1"
# Together they may do all 51 operations (contract 4.2).
OPERATORS = (Role.SESSION_MANAGER, Role.RDP_OPERATOR, Role.NODE_OPERATOR)


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """What a service in this process waits for. On a busy machine something that is there may take longer than a user
    would wait for it; what is away is seen at once all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "TIMEOUT", PATIENCE)
        patch.setattr(health, "TIMEOUT", PATIENCE)
        patch.setattr(recorders, "FIRST_FRAME", PATIENCE)
        for name in ("ANSWER", "PICTURE"):
            patch.setattr(external, name, PATIENCE)
        patch.setattr(picture, "PAINTED", PATIENCE)
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[pg.Server]:
    with pg.server() as running:
        yield running


@pytest.fixture(scope="session")
def template(postgresql: pg.Server) -> Iterator[str]:
    """The name of a database with all tables, for copies: quicker than making them for each test."""
    with postgresql.database() as url:
        database = Database(url)
        database.migrate(PACKAGE)
        database.close()
        yield str(make_url(url).database)


@pytest.fixture
def url(postgresql: pg.Server, template: str) -> Iterator[str]:
    with postgresql.database(template, pg.DESKTOPS) as address:
        yield address


@pytest.fixture(scope="session")
def redis() -> Iterator[redis_server.Server]:
    with redis_server.server() as running:
        yield running


@pytest.fixture
def settings(url: str, redis: redis_server.Server, tmp_path: Path) -> Settings:
    # An environment of its own keeps the keys of tests apart in one Redis.
    return Settings(
        env=f"test-{secrets.token_hex(4)}", database_url=url, redis_url=redis.url, state_dir=tmp_path / "state"
    )


@pytest.fixture
def agents() -> Agents:
    return NoAgents()


def document(http: TestClient) -> Document:
    """The service's OpenAPI document. It is the same in all tests, and costs a second to make."""
    if not _made:
        _made.append(Document(http.get("/openapi.json").json()))
    return _made[0]


_made: list[Document] = []


class Caller:
    """A client with a token of some roles. `get`, `post`, … take paths below /api/v1.

    Every answer is held against the OpenAPI document.
    """

    def __init__(self, http: TestClient, token: str | None) -> None:
        self.http = http
        self.token = token
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, method: str, path: str, **given: Any) -> Any:
        headers = self.headers | given.pop("headers", {})
        answer = self.http.request(method, f"{API}{path}", headers=headers, **given)
        document(self.http).check(method, answer.request.url.path, answer)
        return answer

    def get(self, path: str, **given: Any) -> Any:
        return self.request("GET", path, **given)

    def post(self, path: str, **given: Any) -> Any:
        return self.request("POST", path, **given)

    def put(self, path: str, **given: Any) -> Any:
        return self.request("PUT", path, **given)

    def delete(self, path: str, **given: Any) -> Any:
        return self.request("DELETE", path, **given)


@pytest.fixture
def make_http(settings: Settings, agents: Agents, quick_hashes: None) -> Iterator[Callable[..., TestClient]]:
    """Starts the service; called again, it is the service after a restart. Takes changes of the settings."""
    running: list[TestClient] = []

    def stop() -> None:
        while running:
            running.pop().__exit__(None, None, None)

    def start(**changes: Any) -> TestClient:
        stop()
        changed = Settings.model_validate(settings.model_dump() | changes)
        client = TestClient(build(changed, agents), raise_server_exceptions=False, client=("127.0.0.1", 50000))
        client.__enter__()
        running.append(client)
        return client

    yield start
    stop()


@pytest.fixture
def http(make_http: Callable[..., TestClient]) -> TestClient:
    return make_http()


@pytest.fixture
def service(http: TestClient) -> Desktops:
    found: Desktops = http.app.state.desktops  # type: ignore[attr-defined]
    return found


@pytest.fixture
def caller(http: TestClient, service: Desktops) -> Callable[..., Caller]:
    """`caller("alice", Role.RDP_USER)`: a client with a token of these roles; without roles, one without a token."""

    def make(subject: str = "somebody", *roles: Role) -> Caller:
        token = service.auth.issue(subject, list(roles), timedelta(hours=1)) if roles else None
        return Caller(http, token)

    return make


@pytest.fixture(scope="session")
def steady(
    postgresql: pg.Server, template: str, redis: redis_server.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Caller]:
    """A caller of every role, of a service that all tests share in which nothing may change: what is refused."""
    with postgresql.database(template) as url:
        folder = tmp_path_factory.mktemp("steady")
        settings = Settings(env="test-steady", database_url=url, redis_url=redis.url, state_dir=folder / "state")
        http = TestClient(build(settings, NoAgents()), raise_server_exceptions=False, client=("127.0.0.1", 50000))
        with http:
            service: Desktops = http.app.state.desktops  # type: ignore[attr-defined]
            roles = [role for role in Role if role != Role.AGENT]
            yield Caller(http, service.auth.issue("steady", roles, timedelta(hours=12)))


@pytest.fixture
def admin(caller: Callable[..., Caller]) -> Caller:
    return caller("root", Role.ADMIN)


@pytest.fixture
def operator(caller: Callable[..., Caller]) -> Caller:
    return caller("operator", *OPERATORS)
