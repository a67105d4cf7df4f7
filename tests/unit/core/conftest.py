"""A small service on the real core: real SQLite file, real app, and a clock that tests move."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import select

from labyard.core.access import Admin, Operator, Viewer
from labyard.core.app import ServiceInfo, create_app
from labyard.core.auth import Auth
from labyard.core.context import caller
from labyard.core.database import Base, Database
from labyard.core.errors import ServiceError
from labyard.core.health import Check
from labyard.core.models import AuditLog
from labyard.core.ratelimit import Rule
from labyard.core.settings import ServiceSettings
from labyard.testing.waiting import PATIENCE

SERVICE = ServiceInfo("labyard-netboot", "Netboot", "Diskless boot", "1.2.3", "labyard_netboot")
ADMIN = {"username": "admin", "password": "admin123"}
GOOD_PASSWORD = "Correct-horse-9"


class Clock:
    def __init__(self) -> None:
        self.moment = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **parts: float) -> None:
        self.moment += timedelta(**parts)


class Thing(BaseModel):
    name: str
    chap_secret: str = ""


def things() -> APIRouter:
    router = APIRouter(prefix="/things", tags=["things"])

    @router.get("")
    def listed(who: Viewer) -> dict[str, str | None]:
        return {"who": who.username, "caller": caller().username, "address": caller().address}

    @router.post("", status_code=201)
    def made(body: Thing, who: Operator) -> Thing:
        return body

    @router.delete("/{number}")
    def gone(number: int, who: Admin) -> dict[str, int]:
        return {"number": number}

    @router.get("/{number}/broken")
    def broken(number: int) -> None:
        raise RuntimeError("the password is swordfish")

    @router.get("/{number}/failed")
    def failed(number: int) -> None:
        raise ServiceError(500, "dhcp_error", "step dhcp: Kea did not answer")

    @router.post("/stream")
    async def stream(request: Request) -> int:
        return sum([len(piece) async for piece in request.stream()])

    @router.post("/upload")
    def upload(body: dict[str, str]) -> int:
        return len(body)

    return router


def boot() -> APIRouter:
    router = APIRouter(prefix="/ipxe")

    @router.get("/script/{token}")
    def script(token: str) -> str:
        return "#!ipxe"

    return router


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """structlog as it comes draws each exception with all local variables, which takes seconds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def patient_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A health check that has to wait for a busy machine is none that fails."""
    monkeypatch.setattr("labyard.core.health.TIMEOUT", PATIENCE)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(state_dir=tmp_path, secret_key="k" * 40)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, to be copied: making them takes as long as many a test."""
    path = tmp_path_factory.mktemp("database") / "core.db"
    database = Database(f"sqlite:///{path}")
    Base.metadata.create_all(database.engine)
    database.close()
    return path


@pytest.fixture
def database(tmp_path: Path, empty_database: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{shutil.copy(empty_database, tmp_path)}")
    yield database
    database.close()


@pytest.fixture
def auth(database: Database, settings: ServiceSettings, clock: Clock, quick_hashes: None) -> Auth:
    return Auth(database, settings, "labyard-netboot", clock)


MakeApp = Callable[..., FastAPI]


@pytest.fixture
def make_app(database: Database, settings: ServiceSettings, auth: Auth) -> MakeApp:
    def make(checks: list[Check] | None = None, **changes: str) -> FastAPI:
        return create_app(
            SERVICE,
            settings.model_copy(update=changes),
            database,
            auth,
            [things(), boot()],
            rooted=["things"],
            rules=[Rule("*", "/api/v1/ipxe/script/{token}", 60, 60, "token")],
            checks=checks or [],
            body_limits={"/api/v1/things/upload": 2 * 1024 * 1024},
        )

    return make


@pytest.fixture
def client(make_app: MakeApp) -> Iterator[TestClient]:
    with TestClient(make_app()) as client:
        yield client


Login = Callable[..., dict[str, str]]


@pytest.fixture
def login(client: TestClient) -> Login:
    """Headers of a logged-in user."""

    def login(username: str = "admin", password: str = "admin123") -> dict[str, str]:
        answer = client.post("/api/v1/auth/login", json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    return login


@pytest.fixture
def user(client: TestClient, login: Login) -> Callable[[str], dict[str, str]]:
    """Make a user of a role, and log it in: its headers."""

    def make(role: str, username: str = "") -> dict[str, str]:
        name = username or f"a-{role}"
        body = {"username": name, "password": GOOD_PASSWORD, "role": role}
        answer = client.post("/api/v1/auth/users", json=body, headers=login())
        assert answer.status_code == 201, answer.text
        return login(name, GOOD_PASSWORD)

    return make


@pytest.fixture
def audit_log(database: Database) -> Callable[[], list[AuditLog]]:
    def rows() -> list[AuditLog]:
        with database.read() as session:
            return list(session.scalars(select(AuditLog).order_by(AuditLog.id)))

    return rows
