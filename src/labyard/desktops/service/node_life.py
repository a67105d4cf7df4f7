"""The life of nodes: started, heard of, lost, stopped (contract section 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from labyard.core.clock import as_text, now
from labyard.desktops import audit
from labyard.desktops.errors import Refusal
from labyard.desktops.models import Agent, Alert, Heartbeat, Node, NodeStatus, RdpServer, RdpStatus
from labyard.desktops.service.nodes import locked
from labyard.desktops.service.shared import Shared
from labyard.desktops.service.usage import NodeUsage

KEPT = timedelta(days=90)  # heartbeats and alerts
SLOT = 30  # seconds: one heartbeat counts in each
STARTABLE = (NodeStatus.INACTIVE, NodeStatus.MAINTENANCE, NodeStatus.ERROR)
STOPPABLE = (NodeStatus.ACTIVE, NodeStatus.UNREACHABLE, NodeStatus.MAINTENANCE, NodeStatus.ERROR)
LISTENING = (NodeStatus.ACTIVE, NodeStatus.UNREACHABLE, NodeStatus.MAINTENANCE)


class NodeLife:
    """`stop_server` stops one RDP server of a node that is drained."""

    def __init__(self, shared: Shared, usage: NodeUsage, stop_server: Callable[[str], object]) -> None:
        self._database = shared.database
        self._settings = shared.settings
        self._agents = shared.agents
        self._live = shared.live
        self._usage = usage
        self._stop_server = stop_server

    def start(self, node_id: str) -> Node:
        """Active, with its agent's word for it where it has one, and with a first sample on record."""
        with self._database.transaction() as session:
            node = locked(session, node_id)
            if node.status not in STARTABLE:
                raise Refusal("NODE_STATE", f"The node {node_id} is {node.status}")
            before, node.status = node.status, NodeStatus.STARTING
        try:
            observed = dict(self._agents.of(node_id).hardware()) if self._agents.hosts(node_id) else None
            sample = self._usage.measure(node_id)
        except BaseException:
            self._back_to(node_id, before)
            raise
        moment = now()
        with self._database.transaction() as session:
            node = locked(session, node_id)
            node.status, node.started_at = NodeStatus.ACTIVE, moment
            node.hardware_observed = observed
            if observed is not None:
                session.execute(update(Agent).where(Agent.node_id == node_id).values(last_seen=moment))
            self._usage.store(session, node_id, sample)
            audit.record(session, "node", "start", resource=("node", node_id))
        return node

    def stop(self, node_id: str, drain: bool) -> Node:
        """409 with running servers, unless `drain`, which stops them first."""
        with self._database.transaction() as session:
            node = locked(session, node_id)
            if node.status not in STOPPABLE:
                raise Refusal("NODE_STATE", f"The node {node_id} is {node.status}")
            running = running_servers(session, node_id)
            if running and not drain:
                raise Refusal(
                    "NODE_STATE", f"{len(running)} RDP servers run on the node {node_id}; stop them, or drain"
                )
            before, node.status = node.status, NodeStatus.STOPPING
        try:
            for server_id in running:
                self._stop_server(server_id)
        except BaseException:
            self._back_to(node_id, before)
            raise
        with self._database.transaction() as session:
            node = locked(session, node_id)
            node.status, node.stopped_at = NodeStatus.INACTIVE, now()
            audit.record(session, "node", "stop", resource=("node", node_id), details={"drained": running})
        self._usage.forget(node_id)
        return node

    def maintain(self, node_id: str) -> None:
        """No new work until it is started again."""
        with self._database.transaction() as session:
            node = locked(session, node_id)
            if node.status not in (NodeStatus.INACTIVE, NodeStatus.ACTIVE, NodeStatus.UNREACHABLE, NodeStatus.ERROR):
                raise Refusal("NODE_STATE", f"The node {node_id} is {node.status}")
            node.status = NodeStatus.MAINTENANCE
            audit.record(session, "node", "maintenance", resource=("node", node_id))

    def heartbeat(self, node_id: str, sent_at: datetime) -> Node:
        """Heard of now. A node that was out of reach is active again. 409 for one that is stopped."""
        moment = now()
        with self._database.transaction() as session:
            node = locked(session, node_id)
            if node.status not in LISTENING:
                raise Refusal("NODE_STATE", f"The node {node_id} is {node.status}; start it first")
            if node.status == NodeStatus.UNREACHABLE:
                node.status = NodeStatus.ACTIVE
                audit.record(session, "node", "reachable", resource=("node", node_id))
            node.last_heartbeat = moment
            node.clock_skew_seconds = round((sent_at - moment).total_seconds(), 3)
            slot = {"node_id": node_id, "slot": int(moment.timestamp()) // SLOT, "received_at": moment}
            session.execute(insert(Heartbeat).values(slot).on_conflict_do_nothing())
        self._live.put("hb", node_id, {"at": as_text(moment)}, int(self._settings.node_lost_after))
        return node

    def met(self, node_id: str, facts: Mapping[str, Any]) -> None:
        """What an agent says of itself, over its own socket or a connection that both sides have proven."""
        known = {name: facts[name] for name in ("version", "public_key") if facts.get(name)}
        with self._database.transaction() as session:
            session.execute(update(Agent).where(Agent.node_id == node_id).values(last_seen=now(), **known))

    def lose_silent(self) -> list[str]:
        """Those that were not heard of for too long are unreachable from now on; their ids."""
        limit = now() - timedelta(seconds=self._settings.node_lost_after)
        heard = func.greatest(Node.started_at, Node.last_heartbeat)
        with self._database.transaction() as session:
            query = select(Node).where(Node.status == NodeStatus.ACTIVE, heard < limit)
            lost = list(session.scalars(query.with_for_update(skip_locked=True)))
            for node in lost:
                node.status = NodeStatus.UNREACHABLE
                audit.record(session, "node", "unreachable", resource=("node", node.node_id))
        return [node.node_id for node in lost]

    def tidy(self) -> None:
        """Heartbeats and alerts of long ago."""
        limit = now() - KEPT
        with self._database.transaction() as session:
            session.execute(delete(Heartbeat).where(Heartbeat.received_at < limit))
            session.execute(delete(Alert).where(Alert.kind == "node", Alert.resolved_at < limit))

    def mend(self) -> None:
        """After a crash: nobody starts or stops these any more."""
        with self._database.transaction() as session:
            for was, becomes in (
                (NodeStatus.STARTING, NodeStatus.INACTIVE),
                (NodeStatus.STOPPING, NodeStatus.UNREACHABLE),
            ):
                session.execute(update(Node).where(Node.status == was).values(status=becomes))

    def _back_to(self, node_id: str, status: str) -> None:
        with self._database.transaction() as session:
            locked(session, node_id).status = status


def running_servers(session: Session, node_id: str) -> list[str]:
    states = (RdpStatus.STARTING, RdpStatus.RUNNING, RdpStatus.STOPPING)
    query = select(RdpServer.server_id).where(RdpServer.node_id == node_id, RdpServer.status.in_(states))
    return list(session.scalars(query.order_by(RdpServer.server_id)))
