"""`labyard-desktops`, and resetting a test environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, inspect, select
from typer.testing import CliRunner

from labyard.core.database import Database
from labyard.desktops import audit
from labyard.desktops.admin import app
from labyard.desktops.app import PACKAGE
from labyard.desktops.keyring import KeyFileError, Keyring
from labyard.desktops.models import AuditEntry
from labyard.desktops.service import Desktops
from labyard.desktops.settings import Settings

from .conftest import Caller
from .test_desktops_nodes import NODE

Command = Callable[..., Any]


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command with the service's settings in its environment."""
    monkeypatch.setenv("DESKTOPS_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("DESKTOPS_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("DESKTOPS_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("LABYARD_ENV", settings.env)
    settings.state_dir.mkdir(parents=True, exist_ok=True)

    def run(*arguments: str, env: dict[str, str] | None = None) -> Any:
        return CliRunner().invoke(app, list(arguments), env=env)

    return run


class TestTokens:
    def test_a_running_service_takes_them(self, http: TestClient, command: Command, admin: Caller) -> None:
        done = command("token", "issue", "--sub", "robot", "--roles", "node_operator,auditor", "--ttl", "12h")
        assert done.exit_code == 0, done.output
        robot = Caller(http, done.stdout.strip())
        assert robot.get("/nodes").status_code == 200
        entry = admin.get("/audit?event_type=token&limit=1").json()["entries"][0]
        assert entry["details"]["for"] == "robot" and entry["actor"]["sub"] == "labyard-desktops"
        assert done.stdout.strip() not in admin.get("/audit").text

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("--roles", "king"), "choose among"),
            (("--roles", "agent"), "choose among"),
            (("--roles", ""), "choose among"),
            (("--roles", "admin", "--ttl", "25h"), "24 h"),
            (("--roles", "admin", "--ttl", "soon"), "such as 12h"),
        ],
    )
    def test_bad_ones(self, http: TestClient, command: Command, arguments: tuple[str, ...], expected: str) -> None:
        done = command("token", "issue", "--sub", "x", *arguments)
        assert done.exit_code == 1 and expected in done.output and "Traceback" not in done.output


class TestKeys:
    def test_what_was_sealed_stays_readable(self, service: Desktops, command: Command) -> None:
        ring = service.shared.keyring
        sealed, before = ring.seal(b"secret", "of x"), ring.current
        assert command("key", "rotate").exit_code == 0
        other = Keyring(service.settings.keys / "key-encryption.json")
        assert other.current != before
        fresh = other.seal(b"newer", "of y")
        assert ring.open(sealed, "of x") == other.open(sealed, "of x") == b"secret"
        assert ring.open(fresh, "of y") == b"newer", "a running service finds the new key"
        for bad in (sealed[:-4] + "AAA=", sealed.replace(":", "x:")):
            with pytest.raises(ValueError, match=r"altered|sealed with"):
                ring.open(bad, "of x")
        with pytest.raises(ValueError, match="something else"):
            ring.open(sealed, "of z")

    def test_token_keys(self, http: TestClient, command: Command, operator: Caller) -> None:
        assert command("key", "rotate", "--tokens").exit_code == 0
        assert operator.get("/nodes").status_code == 200, "older tokens stay good"
        newer = command("token", "issue", "--sub", "robot", "--roles", "admin").stdout.strip()
        assert Caller(http, newer).get("/nodes").status_code == 200, "a running service finds the new key"

    def test_files_that_others_can_read_are_refused(self, http: TestClient, settings: Settings) -> None:
        for name in ("key-encryption.json", "tokens.json"):
            path = settings.keys / name
            assert path.stat().st_mode & 0o777 == 0o400 and path.parent.stat().st_mode & 0o777 == 0o700
        path.chmod(0o440)
        with pytest.raises(KeyFileError, match="chmod 0400"):
            Desktops(settings, Database(settings.database_url), http.app.state.desktops.live)  # type: ignore[attr-defined]


class TestTables:
    def test_forward_and_back(self, postgresql: Any, command: Command) -> None:
        with postgresql.database() as url:
            env = {"DESKTOPS_DATABASE_URL": url}
            assert command("db", "migrate", env=env).exit_code == 0
            assert command("db", "migrate", "--to", "0002", "--back", env=env).exit_code == 0
            database = Database(url)
            tables = inspect(database.engine).get_table_names()
            assert "nodes" in tables and "poots" not in tables
            assert command("db", "migrate", env=env).exit_code == 0
            database.migrate(PACKAGE)
            database.close()


class TestReset:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings.model_validate(settings.model_dump() | {"env": "test"})

    def fill(self, operator: Caller, settings: Settings) -> Path:
        assert operator.post("/nodes", json=NODE).status_code == 201
        settings.chunks.mkdir(exist_ok=True)
        chunk = settings.chunks / "chunk"
        chunk.write_bytes(b"x")
        return chunk

    def emptied(self, operator: Caller, service: Desktops, chunk: Path) -> None:
        assert operator.get("/nodes").json()["total"] == 0 and not chunk.exists()
        assert operator.get("/nodes/pools").json()["total"] == 4
        assert operator.post("/nodes", json=NODE).status_code == 201
        with service.database.read() as session:
            assert session.scalar(select(AuditEntry.event_type).where(AuditEntry.sequence == 0)) == "reset"
            assert session.scalar(select(func.count()).select_from(AuditEntry)) == 2
        assert audit.verify(service.database)["valid"]

    def test_over_http(self, operator: Caller, admin: Caller, service: Desktops, settings: Settings) -> None:
        chunk = self.fill(operator, settings)
        assert operator.post("/admin/reset").status_code == 403
        assert admin.post("/admin/reset").status_code == 204
        self.emptied(operator, service, chunk)

    def test_by_command(self, operator: Caller, command: Command, service: Desktops, settings: Settings) -> None:
        chunk = self.fill(operator, settings)
        done = command("reset", "--yes")
        assert done.exit_code == 0, done.output
        self.emptied(operator, service, chunk)

    def test_only_in_test(self, make_http: Callable[..., TestClient], admin: Caller, command: Command) -> None:
        elsewhere = Caller(make_http(env="production"), admin.token)
        assert elsewhere.post("/admin/reset").status_code == 404
        done = command("reset", "--yes", env={"LABYARD_ENV": "production"})
        assert done.exit_code == 1 and "only an environment called test" in done.output


class TestDoctor:
    def test_says_what_is_well_and_what_is_not(self, http: TestClient, command: Command) -> None:
        # Nothing listens on the port: this service is in the test's process.
        done = command("doctor", env={"DESKTOPS_BIND_PORT": "1"})
        assert done.exit_code == 1
        for word in ("postgresql", "redis", "key file", "token", "limits", "certificate", "agent", "storage"):
            assert word in done.output
        assert "✘ port" in " ".join(done.output.split())

    def test_with_the_database_away(self, http: TestClient, command: Command) -> None:
        done = command("doctor", env={"DESKTOPS_DATABASE_URL": "postgresql://x@/none?host=/nowhere"})
        assert done.exit_code == 1 and "✘ postgresql" in " ".join(done.output.split())

    def test_wrong_settings_are_named(self, command: Command) -> None:
        done = command("doctor", env={"DESKTOPS_DATABASE_URL": "mongodb://localhost:27017/test"})
        assert done.exit_code == 1 and "DESKTOPS_DATABASE_URL" in done.output and "not MongoDB" in done.output
