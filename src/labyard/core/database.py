"""The database: SQLite (WAL) embedded, PostgreSQL by one setting. Writes are short transactions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import DateTime, Dialect, Engine, create_engine, event, make_url, text
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator

# Takes the right to write, until the transaction ends: so what is read after it is still true at the commit. One writer
# at a time in all processes, on either database; their writes are short.
WRITER = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(20257700)"}
POSTGRESQL: dict[str, Any] = {
    # Three instances fit into the 100 connections that a server takes as it comes.
    "pool_size": 10,
    "max_overflow": 20,
    "pool_pre_ping": True,
    # Milliseconds. A writer whose host lost its power holds nobody up for longer than this.
    "connect_args": {"options": "-c lock_timeout=30000 -c idle_in_transaction_session_timeout=20000"},
}
SQLITE: dict[str, Any] = {
    "pool_size": 20,
    "max_overflow": 200,
    "connect_args": {"timeout": 30, "check_same_thread": False},
}


class Base(DeclarativeBase):
    """All tables of a process. Alembic makes them; nothing calls create_all."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware in Python, UTC in the database, whatever the database makes of time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        # SQLite gives it without a zone, PostgreSQL in the zone that the server is set to.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """Sessions for reading and for writing. `url` is SQLAlchemy's, of an SQLite file or a PostgreSQL database.

    `busy_timeout`: milliseconds that SQLite waits for another process's write. `options` are `create_engine`'s, beside
    or in place of those here. `plain_reads`: each statement of `read` is by itself, without a transaction around it,
    which spares PostgreSQL's clients two round trips in three.
    """

    def __init__(self, url: str, busy_timeout: int = 30_000, *, plain_reads: bool = False, **options: Any) -> None:
        address = make_url(url)
        sqlite = address.get_backend_name() == "sqlite"
        if not sqlite:
            address = address.set(drivername="postgresql+psycopg")
        self.engine: Engine = create_engine(
            address, hide_parameters=True, **(SQLITE if sqlite else POSTGRESQL) | options
        )
        if sqlite:
            _tune_sqlite(self.engine, busy_timeout)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False, autoflush=True)
        read_engine = self.engine.execution_options(isolation_level="AUTOCOMMIT") if plain_reads else self.engine
        self._reads = sessionmaker(read_engine, expire_on_commit=False)
        # The writers of this process wait here: that is fair, and takes no connection.
        self._writer = threading.RLock()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._reads() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back on any exception."""
        with self._writer, self._sessions() as session:
            session.execute(text(WRITER[self.engine.dialect.name]))
            yield session
            session.commit()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Like `write`, but beside other writers: for PostgreSQL only, where rows are locked one by one.

        What is read in it is true at the commit only where the row was read `with_for_update`, or a unique index or the
        row's version holds.
        """
        with self._sessions() as session:
            yield session
            session.commit()

    def ping(self) -> None:
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def migrate(self, package: str, revision: str = "head") -> None:
        """Bring the tables up to a revision of `package`'s `migrations` folder, by default the newest."""
        self._alembic(command.upgrade, package, revision)

    def migrate_back(self, package: str, revision: str) -> None:
        """Bring the tables down to an older revision, or with `base` to none. What only newer ones hold is lost."""
        self._alembic(command.downgrade, package, revision)

    def _alembic(self, move: Callable[[Config, str], None], package: str, revision: str) -> None:
        config = Config()
        with resources.as_file(resources.files(package) / "migrations") as folder:
            config.set_main_option("script_location", str(folder))
            with self.engine.begin() as connection:
                if connection.dialect.name == "postgresql":  # several instances may start at once
                    connection.execute(text(WRITER["postgresql"]))
                config.attributes["connection"] = connection
                move(config, revision)

    def close(self) -> None:
        self.engine.dispose()


def _tune_sqlite(engine: Engine, busy_timeout: int) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        # The driver must not open transactions by itself: BEGIN IMMEDIATE is ours.
        connection.isolation_level = None
        for pragma in (f"busy_timeout={busy_timeout}", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        # SQLite's own knows ASCII only, and a search is to find "Žilina" by "ŽILINA" on every database.
        connection.create_function("lower", 1, _lower, deterministic=True)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value
