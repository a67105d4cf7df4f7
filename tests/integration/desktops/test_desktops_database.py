"""The tables: migrations forward and back, and what the database itself refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from integration.postgresql import Server
from labyard.core.database import Database
from labyard.desktops.app import PACKAGE
from labyard.desktops.models import Base

REVISIONS = ["0001", "0002", "0003", "0004", "0005"]


@pytest.fixture
def database(postgresql: Server) -> Iterator[Database]:
    with postgresql.database() as url:
        database = Database(url)
        yield database
        database.close()


def _partition(_: object, name: str | None, kind: str, *__: object) -> bool:
    return not (kind == "table" and str(name).startswith("usage_samples_"))


def test_models_and_migrations_agree(database: Database) -> None:
    database.migrate(PACKAGE)
    database.migrate(PACKAGE)  # a second start changes nothing
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": _partition})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_go_forward_and_back(database: Database) -> None:
    for revision in REVISIONS:
        database.migrate(PACKAGE, revision)
        before = set(inspect(database.engine).get_table_names())
        database.migrate_back(PACKAGE, "-1")
        database.migrate(PACKAGE, revision)
        assert set(inspect(database.engine).get_table_names()) == before
    database.migrate_back(PACKAGE, "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.migrate(PACKAGE)


@pytest.mark.parametrize("table", ["audit_log", "ledger_entries", "ledger_heads"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET {} = {}"])
def test_what_is_append_only_stays(database: Database, table: str, change: str) -> None:
    database.migrate(PACKAGE)
    column = inspect(database.engine).get_columns(table)[0]["name"]
    with pytest.raises(DBAPIError, match=r"append-only|permission denied"), database.engine.begin() as connection:
        connection.execute(text(change.format(table, column, column)))
