"""The background work: samples every second, heartbeats of agents, nodes that fell silent, what is to be tidied.

One process does it at a time: the one that holds an advisory lock in PostgreSQL. It goes on when PostgreSQL or Redis
are away, and is whole again when they are back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError

from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops.adapters.agent import Usage
from labyard.desktops.advisory import WATCH
from labyard.desktops.models import Node, NodeStatus
from labyard.desktops.service.node_life import NodeLife
from labyard.desktops.service.samples import ensure_partitions
from labyard.desktops.service.shared import Shared
from labyard.desktops.service.usage import NodeUsage

log = structlog.get_logger(__name__)

HEARTBEAT = 30.0  # seconds between questions to an agent whether it is there
TIDY = 600.0  # seconds
WORKERS = 8
DECLARED = "without agents"  # in place of a node's id: all that are measured of the service's host


class Leader:
    """Whether this process is the one that works in the background. A connection of its own holds the lock."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    def leads(self) -> bool:
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))
                self._connection.commit()
                return True
            connection = self._database.engine.connect()
        except SQLAlchemyError:
            self.resign()
            return False
        try:
            won = bool(connection.scalar(text(f"SELECT pg_try_advisory_lock({WATCH})")))
            connection.commit()
        except SQLAlchemyError:
            won = False
        if won:
            self._connection = connection
        else:
            connection.close()
        return won

    def resign(self) -> None:
        if self._connection is not None:
            # Closed, not given back to the pool: the lock goes with the connection.
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


class Watch:
    """`tidy` is done now and then, `more` in every round."""

    def __init__(
        self,
        shared: Shared,
        life: NodeLife,
        usage: NodeUsage,
        tidy: Sequence[Callable[[], object]],
        more: Sequence[Callable[[], object]] = (),
    ) -> None:
        self._shared = shared
        self._life = life
        self._usage = usage
        self._tidy = tidy
        self._more = more
        self._leader = Leader(shared.database)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="sample")
        self._running: dict[str, Future[None]] = {}
        self._stored: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._tidied = 0.0
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._leader.resign()

    def _loop(self) -> None:
        away = False
        while not self._stop.wait(self._shared.settings.node_live_interval):
            try:
                if self._leader.leads():
                    self.once()
                away = False
            except SQLAlchemyError as error:
                if not away:
                    log.warning("cannot watch the nodes: the database is away", error=type(error).__name__)
                away = True
                self._leader.resign()
            except Exception:
                log.exception("watching failed")

    def once(self) -> None:
        """One round."""
        with self._shared.database.read() as session:
            query = select(Node.node_id, Node.status, Node.hardware_info).where(
                Node.status.in_((NodeStatus.ACTIVE, NodeStatus.UNREACHABLE))
            )
            found = session.execute(query).all()
        hosting = self._shared.agents.hosting([row.node_id for row in found])
        for row in found:
            if row.node_id in hosting:
                self._submit(row.node_id, self._look, row)
        declared = [row for row in found if row.node_id not in hosting and row.status == NodeStatus.ACTIVE]
        self._submit(DECLARED, self._look_at_host, declared)
        self._usage.alerts.keep_only({row.node_id for row in found})
        self._life.lose_silent()
        for work in self._more:
            work()
        if time.monotonic() - self._tidied >= TIDY or not self._tidied:
            self._tidied = time.monotonic()
            for tidy in (self._make_partitions, self._usage.samples.drop_old, *self._tidy):
                tidy()

    def _submit(self, name: str, work: Callable[[Any], None], subject: Any) -> None:
        running = self._running.get(name)
        # An agent that hangs keeps one worker; it is asked again when it has answered or failed.
        if running is None or running.done():
            self._running[name] = self._pool.submit(self._quietly, name, work, subject)

    def _quietly(self, name: str, work: Callable[[Any], None], subject: Any) -> None:
        try:
            work(subject)
        except AdapterError as error:
            log.info("no sample", node=name, error=str(error))
        except SQLAlchemyError as error:
            log.warning("sample not stored", node=name, error=type(error).__name__)
        except Exception:
            log.exception("sampling failed", node=name)

    def _look(self, row: Any) -> None:
        """At a node with an agent."""
        moment = time.monotonic()
        if moment - self._asked.get(row.node_id, -HEARTBEAT) >= HEARTBEAT:
            self._life.met(row.node_id, self._shared.agents.of(row.node_id).ping())
            self._life.heartbeat(row.node_id, now())
            self._asked[row.node_id] = moment
        if row.status == NodeStatus.ACTIVE:
            self._take([row], self._shared.agents.of(row.node_id).metrics())

    def _look_at_host(self, rows: Sequence[Any]) -> None:
        """For nodes without an agent: one reading for all, by one thread, so that requests go on beside it."""
        if rows:
            self._take(rows, self._usage.of_host())

    def _take(self, rows: Sequence[Any], usage: Usage) -> None:
        """A sample of these nodes."""
        self._usage.samples.put_live([row.node_id for row in rows], usage)
        moment, interval = time.monotonic(), self._shared.settings.node_store_interval
        due = [row.node_id for row in rows if moment - self._stored.get(row.node_id, -1e9) >= interval]
        if due:
            with self._shared.database.transaction() as session:
                for node_id in due:
                    self._usage.samples.store(session, node_id, usage)
            self._stored.update(dict.fromkeys(due, moment))
        for row in rows:
            self._usage.judge(row.node_id, row.hardware_info, usage)

    def _make_partitions(self) -> None:
        with self._shared.database.transaction() as session:
            ensure_partitions(session, now())
