"""The background work on RDP servers: samples, probes, and a reconciler that compares nodes and rows both ways.

`Watch` calls `once` every second, in the process that leads.
"""

from __future__ import annotations

import secrets
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.desktops import audit
from labyard.desktops.adapters.agent import AgentClient, AgentRefused, ServerStatus
from labyard.desktops.models import Node, NodeStatus, RdpServer, RdpStatus
from labyard.desktops.service.rdp import RdpServers
from labyard.desktops.service.rdp_rows import take
from labyard.desktops.service.rdp_usage import ServerUsage
from labyard.desktops.service.shared import Shared

log = structlog.get_logger(__name__)

STORE = 10.0  # seconds between samples that are stored
LOOK = 5.0  # seconds between looks whether a server still runs
PROBE = 30.0  # seconds between probes of a server
RECONCILE = 30.0  # seconds
WORKERS = 8


class RdpWatch:
    def __init__(self, shared: Shared, servers: RdpServers, usage: ServerUsage) -> None:
        self._database = shared.database
        self._agents = shared.agents
        self._servers = servers
        self._usage = usage
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="rdp")
        self._running: dict[str, Future[None]] = {}
        self._at: dict[tuple[str, str], float] = {}

    def stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def once(self) -> None:
        """One round; what is still at work from the last one is left to it."""
        with self._database.read() as session:
            query = select(RdpServer).where(RdpServer.status == RdpStatus.RUNNING, RdpServer.deleted_at.is_(None))
            servers = list(session.scalars(query))
            nodes = list(session.scalars(select(Node.node_id).where(Node.status == NodeStatus.ACTIVE)))
        for server in servers:
            self._submit(f"server {server.server_id}", self._look_at, server)
        for node_id in self._agents.hosting(nodes):
            if self._due(node_id, "reconcile", RECONCILE):
                self._submit(f"node {node_id}", self.reconcile, node_id)
        self._usage.alerts.keep_only({server.server_id for server in servers})
        living = {server.server_id for server in servers} | set(nodes)
        self._at = {key: at for key, at in self._at.items() if key[0] in living}

    # One server

    def _look_at(self, server: RdpServer) -> None:
        agent = self._agents.of(server.node_id)
        if self._due(server.server_id, "look", LOOK):
            status = agent.server_status(server.server_id)
            if not runs(status):
                self._lost(agent, server, status)
                return
        usage = agent.server_usage(server.server_id)
        self._usage.samples.put_live([server.server_id], usage)
        store = self._due(server.server_id, "store", STORE)
        with self._database.transaction() as session:
            self._usage.note_connections(session, server.server_id, usage.detail.get("connections", ()))
            if store:
                self._usage.samples.store(session, server.server_id, usage)
        self._usage.judge(server, usage)
        if self._due(server.server_id, "probe", PROBE):
            self._usage.note_probe(server.node_id, server.server_id, agent.server_probe(server.server_id, None, None))

    def _lost(self, agent: AgentClient, server: RdpServer, status: ServerStatus) -> None:
        """It failed by itself: what is left of it is stopped, and its row says so."""
        log.error(
            "an RDP server failed", server=server.server_id, xrdp=status.xrdp, sesman=status.sesman, xorg=status.xorg
        )
        with self._database.transaction() as session:
            row = session.get(RdpServer, server.server_id, with_for_update=True)
            if row is None or row.status != RdpStatus.RUNNING or row.version != server.version:
                return  # somebody stopped it meanwhile
            row.status, row.last_stopped_at, row.display = RdpStatus.ERROR, now(), None
            row.last_error = f"xrdp {status.xrdp}, sesman {status.sesman}, Xorg {status.xorg}"
            audit.record(session, "rdp", "failed", resource=("rdp_server", server.server_id), result="failure")
        self._usage.forget(server.server_id)
        agent.server_stop(server.server_id, secrets.token_hex(8))

    # All of a node

    def mend(self) -> None:
        """After a crash: nobody starts, stops or deletes these any more. What each really is, its agent says; where it
        is away, it is taken for failed."""
        with self._database.read() as session:
            query = select(RdpServer).where(RdpServer.status.in_((RdpStatus.STARTING, RdpStatus.STOPPING)))
            unsettled = list(session.scalars(query))
        for server in unsettled:
            try:
                status = self._agents.of(server.node_id).server_status(server.server_id)
            except AdapterError as error:
                log.warning("what became of an RDP server?", server=server.server_id, error=str(error))
                status = None
            with self._database.transaction() as session:
                row = session.get_one(RdpServer, server.server_id, with_for_update=True)
                if status is not None and runs(status):
                    take(row, status)
                    row.status = RdpStatus.RUNNING
                elif status is not None and stands(status):
                    row.status = RdpStatus.STOPPED
                else:
                    row.status, row.last_error = RdpStatus.ERROR, "the service ended while it was started or stopped"
        self._usage.close_all()

    def reconcile(self, node_id: str) -> None:
        """What the node has and no row names is removed; what is marked as deleted is removed for good; what runs and
        should not is stopped."""
        agent = self._agents.of(node_id)
        there = agent.server_list()  # before the rows: one that is being made now has its row already
        with self._database.read() as session:
            rows = {
                row.server_id: row for row in session.scalars(select(RdpServer).where(RdpServer.node_id == node_id))
            }
        for server_id in there:
            if server_id not in rows:
                log.warning("removing what no row names", node=node_id, server=server_id)
                agent.server_delete(server_id, secrets.token_hex(8))
        for server in rows.values():
            if server.deleted_at is not None:
                self._servers.finish_delete(server)
            elif server.status in (RdpStatus.STOPPED, RdpStatus.ERROR) and server.server_id in there:
                self._rest(agent, server)

    def _rest(self, agent: AgentClient, server: RdpServer) -> None:
        if stands(agent.server_status(server.server_id)):
            return
        with self._database.transaction() as session:
            row = session.get(RdpServer, server.server_id, with_for_update=True)
            if row is None or row.version != server.version:
                return  # it is being started
            # The row is locked: nobody starts it meanwhile.
            agent.server_stop(server.server_id, secrets.token_hex(8))

    # Inside

    def _due(self, subject: str, what: str, seconds: float) -> bool:
        moment = time.monotonic()
        if moment - self._at.get((subject, what), -1e9) < seconds:
            return False
        self._at[subject, what] = moment
        return True

    def _submit(self, name: str, work: Any, subject: Any) -> None:
        running = self._running.get(name)
        if running is None or running.done():
            self._running = {key: future for key, future in self._running.items() if not future.done()}
            self._running[name] = self._pool.submit(self._quietly, name, work, subject)

    def _quietly(self, name: str, work: Any, subject: Any) -> None:
        try:
            work(subject)
        except AgentRefused as error:
            log.info("the agent refuses", subject=name, error=str(error))
        except AdapterError as error:
            log.info("the agent does not answer", subject=name, error=str(error))
        except SQLAlchemyError as error:
            log.warning("not recorded", subject=name, error=type(error).__name__)
        except Exception:
            log.exception("watching failed", subject=name)


def runs(status: ServerStatus) -> bool:
    """xrdp may be on its way back: systemd starts it again."""
    return status.sesman == "active" and status.xorg == "active" and status.xrdp in ("active", "activating")


def stands(status: ServerStatus) -> bool:
    """Nothing of it runs."""
    return not {status.sesman, status.xrdp} & {"active", "activating", "reloading", "deactivating"}
