"""The database: SQLite (WAL) embedded, PostgreSQL by one setting. Writes are short transactions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import DateTime, Dialect, Engine, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator


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
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Database:
    """Sessions for reading and for writing. `url` is SQLAlchemy's."""

    def __init__(self, url: str) -> None:
        sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {"connect_args": {"timeout": 30, "check_same_thread": False}} if sqlite else {}
        self.engine: Engine = create_engine(
            url, pool_size=20, max_overflow=200, pool_pre_ping=not sqlite, hide_parameters=True, **options
        )
        if sqlite:
            _tune_sqlite(self.engine)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False, autoflush=True)
        # SQLite has one writer. Waiting here is fair and quick; its own busy loop is neither.
        self._writer: Any = threading.RLock() if sqlite else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._sessions() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back on any exception."""
        with self._writer, self._sessions() as session:
            if self.engine.dialect.name == "sqlite":
                # Takes the write lock now, so that what is read here is still true at the commit.
                session.execute(text("BEGIN IMMEDIATE"))
            yield session
            session.commit()

    def ping(self) -> None:
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def migrate(self, package: str) -> None:
        """Bring the tables up to the newest revision of `package`'s `migrations` folder."""
        config = Config()
        with resources.as_file(resources.files(package) / "migrations") as folder:
            config.set_main_option("script_location", str(folder))
            with self.engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def close(self) -> None:
        self.engine.dispose()


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        # The driver must not open transactions by itself: BEGIN IMMEDIATE is ours.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")
        # SQLite's own knows ASCII only, and a search is to find "Žilina" by "ŽILINA" on every database.
        connection.create_function("lower", 1, _lower, deterministic=True)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value
