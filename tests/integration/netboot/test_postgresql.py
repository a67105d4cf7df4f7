"""The service on PostgreSQL, alone and as two instances on one database (contract 2.2, 11.7, 11.13 and 11.15).

What existing tests ask of the database they ask here once more, of a real server.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from labyard.core import audit
from labyard.core.database import Base, Database
from labyard.core.models import AuditLog, User
from labyard.netboot.adapters.factory import make_adapters
from labyard.netboot.app import build
from labyard.netboot.models import BootEventType, BootSession, EventSource, Image, Machine, Target
from labyard.netboot.service import Netboot
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE

from .. import redis_server
from ..postgresql import Server, server
from .conftest import MACHINE, PASSWORD, Client, until_looked
from .test_machines import (  # noqa: F401
    test_deleted_machine_is_hidden_and_can_be_made_again,
    test_mac_change_is_applied_or_refused_never_ignored,
    test_put_keeps_what_is_omitted_and_clears_what_is_null,
    test_search_is_literal_and_finds_a_term_in_any_field,
    test_what_another_machine_has_is_refused,
)
from .test_phase4_sessions import TestSessionOrchestration  # noqa: F401
from .test_sessions import (  # noqa: F401
    BODY,
    START,
    TestBootEvents,
    audit_actions,
    nothing_is_left,
    test_a_standing_target_blocks_a_start,
    test_a_stop_that_fails_half_way_says_so_and_can_be_repeated,
    test_audit_is_kept_over_a_restart_and_holds_no_secret,
    test_fifty_parallel_starts_of_different_machines,
    test_five_parallel_starts_of_one_machine,
    test_second_start_and_target_are_refused,
    test_start_stop_ten_times_within_a_second_or_so,
)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def url(postgresql: Server) -> Iterator[str]:
    with postgresql.database() as address:
        yield address


@pytest.fixture
def settings(settings: Settings, url: str) -> Settings:
    """Those of all tests here, with another database. Read anew, as from the environment."""
    return Settings(**settings.model_dump() | {"database_url": url})


def test_these_tests_use_it(netboot: Netboot) -> None:
    assert netboot.database.engine.dialect.name == "postgresql"


class TestDatabase:
    @pytest.fixture
    def database(self, url: str) -> Iterator[Database]:
        database = Database(url)
        database.migrate("labyard.netboot")
        yield database
        database.close()

    def test_models_and_migrations_agree(self, database: Database) -> None:
        database.migrate("labyard.netboot")  # a second start changes nothing
        with database.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []

    def test_instances_may_migrate_at_once(self, url: str) -> None:
        databases = [Database(url) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda database: database.migrate("labyard.netboot"), databases))
        for database in databases:
            database.close()

    def test_what_is_read_in_a_write_is_true_at_its_commit(self, database: Database, url: str) -> None:
        """As in tests/unit/core, but the writers are two instances: no lock of one process helps."""
        other = Database(url)
        with database.write() as session:
            session.add(User(username="counter", password_hash="x", email="0"))

        def increment(where: Database) -> None:
            for _ in range(20):
                with where.write() as session:
                    user = session.scalars(select(User)).one()
                    user.email = str(int(user.email or 0) + 1)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(increment, [database, other] * 2))
        with database.read() as session:
            assert session.scalars(select(User.email)).one() == "80"
        other.close()

    def test_a_reader_does_not_wait_for_a_writer(self, database: Database) -> None:
        with database.write() as session:
            session.add(User(username="b", password_hash="x"))
            session.flush()
            with database.read() as reader:
                assert reader.scalar(select(func.count()).select_from(User)) == 0

    def test_a_hundred_readers_find_a_connection(self, database: Database) -> None:
        def look(_: int) -> int:
            with database.read() as session:
                return session.scalar(select(func.count()).select_from(User)) or 0

        with ThreadPoolExecutor(100) as pool:
            assert sum(pool.map(look, range(500))) == 0

    def test_audit_is_in_the_transaction_of_its_change(self, database: Database) -> None:
        with pytest.raises(RuntimeError), database.write() as session:
            session.add(User(username="a", password_hash="x"))
            session.flush()
            audit.record(session, "user_created", "made")
            session.flush()
            raise RuntimeError
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(User)) == 0
            assert session.scalar(select(func.count()).select_from(AuditLog)) == 0

    def test_a_search_ignores_case_in_any_alphabet(self, database: Database) -> None:
        with database.write() as session:
            session.add(User(username="Žilina", password_hash="x"))
        with database.read() as session:
            assert session.scalar(select(User.id).where(User.username.icontains("ŽILINA")))

    def test_times_come_back_in_utc(self, database: Database) -> None:
        east = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=9)))
        with database.write() as session:
            assert session.scalar(text("SHOW timezone")) == "Asia/Kathmandu"
            session.add(User(username="a", password_hash="x", last_login=east))
        with database.read() as session:
            seen = session.scalars(select(User.last_login)).one()
            assert session.scalar(select(User.id).where(User.last_login < east)) is None
        assert seen == east and seen.tzinfo is UTC

    @pytest.mark.parametrize(
        ("model", "status", "pending", "stands_in_the_way"),
        [
            (BootSession, "starting", False, True),
            (BootSession, "active", False, True),
            (BootSession, "stopping", False, True),
            (BootSession, "error", True, True),
            (BootSession, "error", False, False),
            (BootSession, "stopped", False, False),
            (BootSession, "timeout", False, False),
            (Target, "pending", False, True),
            (Target, "error", False, True),
            (Target, "inactive", False, False),
        ],
    )
    def test_one_live_session_and_one_target_for_a_machine(
        self, database: Database, model: type, status: str, pending: bool, stands_in_the_way: bool
    ) -> None:
        """The indexes themselves, without the checks that come before them."""

        def row(number: int, status: str) -> BootSession | Target:
            if model is Target:
                return target(number, status)
            return BootSession(
                session_id=f"session-1-{number}", machine_id=1, image_id=1, status=status, cleanup_pending=pending,
                server_ip="192.168.1.10", created_by=1, initiated_by="admin",
            )  # fmt: skip

        with database.write() as session:
            session.add(Machine(name="a1", label="a1", mac_address=MACHINE["mac_address"], created_by=1))
            session.add(Image(name="i", filename="i", file_path="/i", format="raw", created_by=1))
            session.flush()
            session.add(row(1, status))

        def add_another() -> None:
            with database.write() as session:
                session.add(row(2, "active"))

        if stands_in_the_way:
            with pytest.raises(IntegrityError, match="uq_"):
                add_another()
        else:
            add_another()


def target(number: int, status: str) -> Target:
    return Target(
        target_id=f"machine-1-{number}", iqn=f"iqn.2025-01.lab.labyard:{number}", machine_id=1, image_id=1,
        image_path="/i", image_format="raw", overlay_path="/o", initiator_iqn="iqn", lun_id=1, chap_username="s",
        chap_secret="x", status=status, created_by=1,
    )  # fmt: skip


def test_a_client_with_an_ipv6_address(netboot: Netboot, test_session: dict[str, Any]) -> None:
    long = "fd00:1234:5678:9abc:def0:1234:5678:9abc"
    with netboot.database.write() as session:
        boot = session.get_one(BootSession, test_session["session"]["id"])
        netboot.boots.record(session, boot, BootEventType.IPXE_LOAD, EventSource.CLIENT, client_ip=long)
    assert netboot.sessions.get(boot.id).client_ip == long


class TestTwoInstances:
    """Stateless instances: two apps, one database, the same daemons."""

    @pytest.fixture
    def pair(self, settings: Settings) -> Iterator[tuple[Client, Client]]:
        """One client for each instance, both with the token that the first one gave."""
        adapters = make_adapters(settings)
        with ExitStack() as stack:
            first, second = (
                stack.enter_context(TestClient(build(settings, adapters), raise_server_exceptions=False))
                for _ in range(2)
            )
            for client in (first, second):
                until_looked(client)
            answer = first.post("/auth/login", json={"username": "admin", "password": PASSWORD})
            token = answer.json()["access_token"]
            yield Client(first, token), Client(second, token)

    @pytest.fixture
    def netboot(self, pair: tuple[Client, Client]) -> Netboot:
        found: Netboot = pair[0].http.app.state.netboot  # type: ignore[attr-defined]
        return found

    @pytest.fixture
    def redis(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """Its address. One that stands still for a moment is not away."""
        monkeypatch.setattr("labyard.core.ratelimit.REDIS_TIMEOUT", PATIENCE)
        with redis_server.server() as running:
            yield f"redis+{running.url}"

    @pytest.fixture
    def machine(self, pair: tuple[Client, Client], test_image: Image) -> int:
        made = pair[0].post("/machines", json=MACHINE)
        assert made.status_code == 201, made.text
        return int(made.json()["id"])

    def both(self, pair: tuple[Client, Client], times: int, path: str, **given: Any) -> list[int]:
        """Status codes of requests that go to the instances in turn, all at once."""
        with ThreadPoolExecutor(times) as pool:
            return sorted(pool.map(lambda n: pair[n % 2].post(path, **given).status_code, range(times)))

    def test_there_is_one_admin(self, pair: tuple[Client, Client], netboot: Netboot) -> None:
        with netboot.database.read() as session:
            assert session.scalars(select(User.username)).all() == ["admin"]
        assert audit_actions(netboot).count("user_created") == 1

    def test_a_token_of_one_is_good_at_the_other_until_it_logs_out(self, pair: tuple[Client, Client]) -> None:
        first, second = pair
        assert second.get("/auth/me").status_code == 200
        assert second.post("/auth/logout").status_code == 200
        assert first.get("/auth/me").status_code == 401

    def test_wrong_passwords_are_counted_together(self, pair: tuple[Client, Client]) -> None:
        wrong, right = ({"username": "admin", "password": word} for word in ("wrong", PASSWORD))
        assert self.both(pair, 5, "/auth/login", json=wrong) == [401] * 5
        assert [client.post("/auth/login", json=right).status_code for client in pair] == [401, 401]

    def test_rate_limits_are_counted_together(
        self, settings: Settings, redis: str, request: pytest.FixtureRequest
    ) -> None:
        settings.redis_url = redis
        pair = request.getfixturevalue("pair")  # it has logged in: that is one
        wrong = {"username": "nobody", "password": "wrong"}
        codes = [pair[n % 2].post("/auth/login", json=wrong).status_code for n in range(21)]
        assert codes == [401] * 19 + [429] * 2

    def test_five_parallel_starts_of_one_machine(
        self, pair: tuple[Client, Client], netboot: Netboot, machine: int
    ) -> None:
        assert self.both(pair, 5, START, json=BODY) == [201, 400, 400, 400, 400]
        assert len(netboot.provision.adapters.iscsi.observed()) == 1
        with netboot.database.read() as session:
            assert session.scalar(select(func.count()).select_from(BootSession)) == 1

    def test_one_starts_and_the_other_stops(self, pair: tuple[Client, Client], netboot: Netboot, machine: int) -> None:
        for turn in range(4):
            first, second = pair if turn % 2 else pair[::-1]
            started = first.post(START, json=BODY)
            assert started.status_code == 201, started.text
            number = started.json()["session"]["id"]
            shown = second.get(f"/api/v1/sessions/machine/{machine}/boot-script").json()
            assert shown["script_content"] == started.json()["boot_script"]
            assert self.both(pair, 4, f"/api/v1/sessions/{number}/stop") == [200, 400, 400, 400]
            nothing_is_left(netboot)
        rows = audit_actions(netboot)
        assert rows.count("session_started") == rows.count("session_stopped") == 4

    def test_parallel_starts_of_many_machines(
        self, pair: tuple[Client, Client], netboot: Netboot, test_image: Image
    ) -> None:
        for number in range(1, 21):
            body = {"name": f"ws-{number}", "mac_address": f"02000000{number:04x}"}
            assert pair[number % 2].post("/machines", json=body).status_code == 201
        with ThreadPoolExecutor(20) as pool:
            codes = pool.map(
                lambda n: pair[n % 2].post(START, json={"machine_id": n, "image_id": 1}).status_code, range(1, 21)
            )
        assert list(codes) == [201] * 20
        # Whoever applied last, DHCP has all of them.
        assert len(netboot.provision.adapters.dhcp.observed()) == 20
        for client in pair:
            report = client.post("/api/v1/observer/check")
            assert report.status_code == 200 and report.json()["findings"] == [], report.text
