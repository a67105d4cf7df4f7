"""What the role postgresql promises: databases for users of the same host, and for nobody else."""

from __future__ import annotations

import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import LabHost


@pytest.fixture
def database(host: LabHost) -> dict[str, str]:
    found: dict[str, str] = host.value("postgresql_databases")[0]
    return found


def psql(user: str, database: dict[str, str], statement: str) -> str:
    """As a system user `user`, asking to be the role that owns the database."""
    command = f"psql --no-psqlrc -tA --dbname {database['name']} --username {database['user']} --command '{statement}'"
    return f"setpriv --reuid {user} --clear-groups --reset-env {command}"


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "postgresql.service")

    def test_the_user_owns_its_database(self, host: LabHost, database: dict[str, str]) -> None:
        made = "CREATE TABLE checked (x int); DROP TABLE checked; SELECT 1"
        assert host.check(psql(database["user"], database, made)).splitlines()[-1] == "1"

    def test_root_may_come_in_and_others_may_not(self, host: LabHost, database: dict[str, str]) -> None:
        assert host.check(psql("root", database, "SELECT 1")).strip() == "1"
        assert host.run(psql("games", database, "SELECT 1")).rc != 0

    def test_listens_on_no_network(self, host: LabHost) -> None:
        assert "postgres" not in host.check("ss -H -ltnp")


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "postgresql", "/var/run/postgresql/.s.PGSQL.5432")
        assert not host.check("find /etc/postgresql -name labyard.conf")
