"""The database: short transactions, one writer, times in UTC. Real SQLite files."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from labyard.core import audit
from labyard.core.context import Caller, set_caller
from labyard.core.database import Base, Database
from labyard.core.models import AuditLog, Role, Token, User
from labyard.core.paging import Page, fetch
from labyard.testing.waiting import PATIENCE


def add_user(database: Database, name: str) -> int:
    with database.write() as session:
        user = User(username=name, password_hash="x")
        session.add(user)
        session.flush()
        return user.id


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(User)) or 0


def test_a_search_finds_letters_of_any_alphabet_in_any_case(database: Database) -> None:
    add_user(database, "Žilina")
    with database.read() as session:
        for term in ("žil", "ŽIL", "INA"):
            assert session.scalar(select(User.username).where(User.username.icontains(term))) == "Žilina", term


class TestTransactions:
    def test_all_or_nothing(self, database: Database) -> None:
        with pytest.raises(RuntimeError), database.write() as session:
            session.add(User(username="a", password_hash="x"))
            session.flush()
            audit.record(session, "user_created", "made")
            raise RuntimeError
        assert count(database) == 0
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(AuditLog)) == 0

    def test_what_is_read_in_a_write_is_true_at_its_commit(self, database: Database) -> None:
        add_user(database, "counter")

        def increment() -> None:
            for _ in range(20):
                with database.write() as session:
                    user = session.scalars(select(User)).one()
                    user.email = str(int(user.email or 0) + 1)

        threads = [threading.Thread(target=increment) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with database.read() as session:
            assert session.scalars(select(User)).one().email == "100"

    def test_two_processes_may_write(self, database: Database, tmp_path: Path) -> None:
        other = Database(f"sqlite:///{tmp_path}/core.db")

        def write(place: Database, prefix: str) -> None:
            for number in range(20):
                add_user(place, f"{prefix}{number}")

        threads = [threading.Thread(target=write, args=(place, p)) for place, p in ((database, "a"), (other, "b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other.close()
        assert count(database) == 40

    def test_a_reader_does_not_wait_for_a_writer(self, database: Database) -> None:
        add_user(database, "a")
        with database.write() as session:
            session.add(User(username="b", password_hash="x"))
            session.flush()
            assert count(database) == 1  # it would wait in vain: the writer is below
        assert count(database) == 2

    def test_a_hundred_readers_at_once(self, database: Database) -> None:
        barrier = threading.Barrier(100, timeout=PATIENCE)
        seen: list[int] = []

        def look() -> None:
            with database.read() as session:
                session.execute(text("SELECT 1"))
                barrier.wait()
                seen.append(session.scalar(select(func.count()).select_from(User)) or 0)

        threads = [threading.Thread(target=look) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 100

    def test_foreign_keys_hold(self, database: Database) -> None:
        with pytest.raises(IntegrityError), database.write() as session:
            session.add(Token(jti="x", user_id=99, type="access", expires_at=datetime.now(UTC)))

    def test_an_error_does_not_show_the_values(self, database: Database) -> None:
        add_user(database, "a")
        with pytest.raises(IntegrityError) as caught, database.write() as session:
            session.add(User(username="a", password_hash="swordfish"))
        assert "swordfish" not in str(caught.value)


class TestTimes:
    def test_come_back_aware_and_in_utc(self, database: Database) -> None:
        east = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=9)))
        user_id = add_user(database, "a")
        with database.write() as session:
            session.get_one(User, user_id).last_login = east
        with database.read() as session:
            seen = session.get_one(User, user_id).last_login
            assert session.scalar(select(User.id).where(User.last_login < east + timedelta(seconds=1))) == user_id
            assert session.scalar(select(User.id).where(User.last_login < east)) is None
        assert seen == east
        assert seen is not None and seen.utcoffset() == timedelta(0)


class TestMigrate:
    @pytest.mark.parametrize("times", [1, 2])
    def test_a_package_s_revisions_make_the_tables(self, tmp_path: Path, times: int) -> None:
        database = Database(f"sqlite:///{tmp_path}/migrated.db")
        for _ in range(times):
            database.migrate("labyard.netboot")
        with database.engine.connect() as connection:
            names = {row[0] for row in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))}
        database.close()
        assert {"users", "tokens", "login_failures", "audit_log"} <= names


def test_ping_needs_a_database(database: Database, tmp_path: Path) -> None:
    database.ping()
    with pytest.raises(Exception, match="unable to open"):
        Database(f"sqlite:///{tmp_path}/no/such/folder/x.db").ping()


def test_pages(database: Database) -> None:
    for number in range(5):
        add_user(database, f"user{number}")
    with database.read() as session:
        rows, total = fetch(session, select(User).order_by(User.id.desc()), Page(2, 2))
    assert ([row.username for row in rows], total) == (["user2", "user1"], 5)
    assert Page(2, 2).envelope("users", [], 5) == {"users": [], "total": 5, "page": 2, "per_page": 2}


def test_an_audit_row_says_who_and_from_where(database: Database) -> None:
    set_caller(Caller("req-1", "10.0.0.1", "eve"))
    with database.write() as session:
        audit.record(session, "machine_created", "made", resource=("machine", 7), new={"name": "a"}, status_code=201)
    set_caller(Caller())
    with database.read() as session:
        row = session.scalars(select(AuditLog)).one()
    assert (row.username, row.ip_address, row.request_id) == ("eve", "10.0.0.1", "req-1")
    assert (row.resource_type, row.resource_id, row.new_values) == ("machine", "7", {"name": "a"})


def test_roles_are_ordered() -> None:
    assert Role.VIEWER.rank < Role.OPERATOR.rank < Role.ADMIN.rank


def test_nothing_calls_create_all_but_tests() -> None:
    source = Path(__file__).parents[3] / "src"
    assert not [path for path in source.rglob("*.py") if ".create_all(" in path.read_text()]
    assert Base.metadata.tables
