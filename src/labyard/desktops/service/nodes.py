"""Nodes: registered, started, stopped, moved, heard of (contract section 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core.adapter import AdapterError
from labyard.core.clock import as_text, now
from labyard.desktops import audit, names
from labyard.desktops.errors import Refusal, invalid
from labyard.desktops.models import (
    Agent,
    Alert,
    Heartbeat,
    Node,
    NodeStatus,
    PoolAssignment,
    RdpServer,
    RdpStatus,
    UsageSample,
)
from labyard.desktops.names import LOCAL_NODE
from labyard.desktops.paging import Page, fetch
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.nodes import NodeIn
from labyard.desktops.service.pools import LOCAL, count, room_for_one
from labyard.desktops.service.reputation import penalty_left, reputation
from labyard.desktops.service.shared import Shared
from labyard.desktops.service.usage import NodeUsage

log = structlog.get_logger(__name__)

KEPT = timedelta(days=90)  # heartbeats and alerts
SLOT = 30  # seconds: one heartbeat counts in each
TOLERANCE = 1.05  # declared hardware may be this much above what is observed
STARTABLE = (NodeStatus.INACTIVE, NodeStatus.MAINTENANCE, NodeStatus.ERROR)
STOPPABLE = (NodeStatus.ACTIVE, NodeStatus.UNREACHABLE, NodeStatus.MAINTENANCE, NodeStatus.ERROR)
LISTENING = (NodeStatus.ACTIVE, NodeStatus.UNREACHABLE, NodeStatus.MAINTENANCE)


@dataclass(frozen=True)
class NodeView:
    node: Node
    agent: Agent | None

    def shown(self) -> dict[str, Any]:
        node, moment = self.node, now()
        fields = (
            "node_id", "name", "node_type", "status", "pool_id", "hardware_info", "hardware_observed", "location",
            "configuration", "last_heartbeat", "clock_skew_seconds", "poot_score", "started_at", "stopped_at",
            "created_at", "updated_at",
        )  # fmt: skip
        return {name: getattr(node, name) for name in fields} | {
            "hardware_mismatch": mismatched(node.hardware_info, node.hardware_observed),
            "reputation": float(reputation_of(node, moment)),
            "agent": self.agent,
        }


class Nodes:
    def __init__(self, shared: Shared, usage: NodeUsage) -> None:
        self._database = shared.database
        self._settings = shared.settings
        self._agents = shared.agents
        self._live = shared.live
        self._usage = usage
        self._local_is_there = False
        # Stops one RDP server of a node that is drained: the part that runs servers puts its own here.
        self.stop_server: Callable[[str], object] = _nobody_stops

    # Reading

    def exists(self, node_id: str) -> bool:
        with self._database.read() as session:
            return session.scalar(select(Node.node_id).where(Node.node_id == node_id)) is not None

    def get(self, node_id: str) -> NodeView:
        with self._database.read() as session:
            query = select(Node, Agent).outerjoin(Agent, Agent.node_id == Node.node_id)
            found = session.execute(query.where(Node.node_id == node_id)).one_or_none()
        if found is None:
            raise unknown(node_id)
        return NodeView(found[0], found[1])

    def page(
        self, page: Page, pool_id: str | None, status: str | None, node_type: str | None
    ) -> tuple[list[NodeView], int]:
        query = select(Node).order_by(Node.created_at, Node.node_id)
        for column, value in ((Node.pool_id, pool_id), (Node.status, status), (Node.node_type, node_type)):
            if value is not None:
                query = query.where(column == value)
        with self._database.read() as session:
            nodes, total = fetch(session, query, page)
            found = select(Agent).where(Agent.node_id.in_([node.node_id for node in nodes]))
            agents = {agent.node_id: agent for agent in session.scalars(found)}
        return [NodeView(node, agents.get(node.node_id)) for node in nodes], total

    def pool_of(self, node_id: str) -> dict[str, Any]:
        with self._database.read() as session:
            node = session.get(Node, node_id)
            if node is None:
                raise unknown(node_id)
            return _place(session, node)

    # Registering and removing

    def register(self, body: NodeIn, who: Principal) -> NodeView:
        """400 for hardware beyond the limits or an unknown pool, 409 when the id or the name is taken."""
        self._check_limits(body)
        address = body.configuration.agent_address
        node = Node(
            node_id=body.node_id or names.node_id(),
            name=body.name,
            node_type=body.node_type,
            pool_id=body.initial_pool_id,
            hardware_info=body.hardware_info.model_dump(exclude_unset=True),
            location=body.location.model_dump(exclude_unset=True) if body.location else None,
            configuration=body.configuration.model_dump(exclude_none=True),
            overcommit={"cpu": 1, "memory": 1, "disk": 1},
            operator=who.subject,
        )
        agent = Agent(node_id=node.node_id, address=address) if address else None
        try:
            with self._database.transaction() as session:
                room_for_one(session, node.pool_id, "initial_pool_id")
                session.add(node)
                session.flush()
                if agent:
                    session.add(agent)
                session.add(PoolAssignment(node_id=node.node_id, pool_id=node.pool_id, assigned_at=node.created_at))
                audit.record(session, "node", "create", resource=("node", node.node_id))
        except IntegrityError as error:
            taken = "name" if "nodes_name" in str(error.orig) else "node_id"
            raise Refusal("NODE_EXISTS", f"There is a node with this {taken} already") from None
        return NodeView(node, agent)

    def register_local(self) -> None:
        """This host, when it has an agent: once, with the hardware that the agent measures. Until then, again."""
        socket = self._settings.agent_socket
        if socket is None or self._local_is_there:
            return
        if self.exists(LOCAL_NODE):
            self._local_is_there = True
            return
        try:
            hardware = dict(self._agents.of(LOCAL_NODE).hardware())
        except AdapterError as error:
            log.warning("this host is no node yet: its agent does not answer", error=str(error))
            return
        settings, moment = self._settings, now()
        node = Node(
            node_id=LOCAL_NODE, name="local", node_type="worker", pool_id=LOCAL, hardware_info=hardware,
            hardware_observed=hardware, configuration={"max_sessions": settings.local_max_sessions},
            overcommit={
                "cpu": settings.local_overcommit_cpu,
                "memory": settings.local_overcommit_memory,
                "disk": settings.local_overcommit_disk,
            },
            operator="labyard", status=NodeStatus.ACTIVE, started_at=moment, last_heartbeat=moment,
        )  # fmt: skip
        try:
            with self._database.transaction() as session:
                session.add(node)
                session.flush()
                session.add(Agent(node_id=LOCAL_NODE, address=f"unix://{socket}", last_seen=moment))
                session.add(PoolAssignment(node_id=LOCAL_NODE, pool_id=LOCAL))
                audit.record(session, "node", "create", resource=("node", LOCAL_NODE))
        except IntegrityError:  # another process was quicker
            return

    def forget_local(self) -> None:
        """It may be gone from the database: look again."""
        self._local_is_there = False

    def met(self, node_id: str, facts: Mapping[str, Any]) -> None:
        """What an agent says of itself, over its own socket or a connection that both sides have proven."""
        known = {name: facts[name] for name in ("version", "public_key") if facts.get(name)}
        with self._database.transaction() as session:
            session.execute(update(Agent).where(Agent.node_id == node_id).values(last_seen=now(), **known))

    def delete(self, node_id: str) -> None:
        """409 while it is active or hosts servers."""
        try:
            with self._database.transaction() as session:
                node = _locked(session, node_id)
                if node.status not in (NodeStatus.INACTIVE, NodeStatus.MAINTENANCE, NodeStatus.ERROR):
                    raise Refusal("NODE_STATE", f"The node {node_id} is {node.status}; stop it first")
                _close_assignment(session, node_id, now())
                for model, kind in ((UsageSample, "node"), (Alert, "node")):
                    session.execute(delete(model).where(model.kind == kind, model.subject_id == node_id))
                session.delete(node)
                session.flush()
                audit.record(session, "node", "delete", resource=("node", node_id))
        except IntegrityError:
            raise Refusal("NODE_STATE", f"The node {node_id} hosts RDP servers; delete them first") from None
        self._usage.forget(node_id)

    # Working

    def start(self, node_id: str) -> Node:
        """Active, with its agent's word for it where it has one, and with a first sample on record."""
        with self._database.transaction() as session:
            node = _locked(session, node_id)
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
            node = _locked(session, node_id)
            node.status, node.started_at = NodeStatus.ACTIVE, moment
            node.hardware_observed = observed
            if observed is not None:
                session.execute(update(Agent).where(Agent.node_id == node_id).values(last_seen=moment))
            self._usage.store(session, node_id, sample)
            audit.record(session, "node", "start", resource=("node", node_id))
        return node

    def stop(self, node_id: str, drain: bool) -> Node:
        """409 with running servers, unless `drain`: `before_stop` stops them first."""
        with self._database.transaction() as session:
            node = _locked(session, node_id)
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
                self.stop_server(server_id)
        except BaseException:
            self._back_to(node_id, before)
            raise
        with self._database.transaction() as session:
            node = _locked(session, node_id)
            node.status, node.stopped_at = NodeStatus.INACTIVE, now()
            audit.record(session, "node", "stop", resource=("node", node_id), details={"drained": running})
        self._usage.forget(node_id)
        return node

    def maintain(self, node_id: str) -> NodeView:
        """No new work until it is started again."""
        with self._database.transaction() as session:
            node = _locked(session, node_id)
            if node.status not in (NodeStatus.INACTIVE, NodeStatus.ACTIVE, NodeStatus.UNREACHABLE, NodeStatus.ERROR):
                raise Refusal("NODE_STATE", f"The node {node_id} is {node.status}")
            node.status = NodeStatus.MAINTENANCE
            audit.record(session, "node", "maintenance", resource=("node", node_id))
        return self.get(node_id)

    def heartbeat(self, node_id: str, sent_at: datetime) -> Node:
        """Heard of now. A node that was out of reach is active again. 409 for one that is stopped."""
        moment = now()
        with self._database.transaction() as session:
            node = _locked(session, node_id)
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

    def move(self, node_id: str, pool_id: str) -> dict[str, Any]:
        """Into another pool, in one transaction. 400 for an unknown pool, 409 for a full one."""
        with self._database.transaction() as session:
            node = _locked(session, node_id)
            if node.pool_id != pool_id:
                room_for_one(session, pool_id, "pool_id")
                moment = now()
                _close_assignment(session, node_id, moment)
                session.add(PoolAssignment(node_id=node_id, pool_id=pool_id, assigned_at=moment))
                old, node.pool_id, node.pool_assigned_at = node.pool_id, pool_id, moment
                session.flush()
                audit.record(session, "node", "move", resource=("node", node_id), details={"from": old, "to": pool_id})
            return _place(session, node)

    # Watching

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
            _locked(session, node_id).status = status

    def _check_limits(self, body: NodeIn) -> None:
        hardware, settings = body.hardware_info, self._settings
        for field, value, most in (
            ("hardware_info.cpu.cores", hardware.cpu.cores, settings.max_node_cores),
            ("hardware_info.memory.total_bytes", hardware.memory.total_bytes, settings.max_node_memory),
            ("hardware_info.storage.total_bytes", hardware.storage.total_bytes, settings.max_node_storage),
        ):
            if value > most:
                raise invalid(field, f"must be at most {most}")


def _nobody_stops(server_id: str) -> None:
    raise Refusal("NODE_STATE", f"The RDP server {server_id} cannot be stopped by this service")


def unknown(node_id: str) -> Refusal:
    return Refusal("NODE_NOT_FOUND", f"There is no node {node_id[:64]}")


def reputation_of(node: Node, moment: datetime) -> Any:
    """Decimal, 0 to 100."""
    return reputation(node.score_average, penalty_left(node.penalty, node.penalty_at, moment))


def mismatched(declared: Mapping[str, Any], observed: Mapping[str, Any] | None) -> bool:
    """Whether more is declared than is there."""
    return observed is not None and any(
        (_size(declared, path) or 0) > (_size(observed, path) or 0) * TOLERANCE
        for path in (("cpu", "cores"), ("memory", "total_bytes"), ("storage", "total_bytes"))
    )


def running_servers(session: Session, node_id: str) -> list[str]:
    states = (RdpStatus.STARTING, RdpStatus.RUNNING, RdpStatus.STOPPING)
    query = select(RdpServer.server_id).where(RdpServer.node_id == node_id, RdpServer.status.in_(states))
    return list(session.scalars(query.order_by(RdpServer.server_id)))


def _size(hardware: Mapping[str, Any], path: tuple[str, str]) -> Any:
    return (hardware.get(path[0]) or {}).get(path[1])


def _locked(session: Session, node_id: str) -> Node:
    node = session.get(Node, node_id, with_for_update=True)
    if node is None:
        raise unknown(node_id)
    return node


def _place(session: Session, node: Node) -> dict[str, Any]:
    return {
        "node_id": node.node_id,
        "pool_id": node.pool_id,
        "node_count": count(session, node.pool_id),
        "assigned_at": node.pool_assigned_at,
    }


def _close_assignment(session: Session, node_id: str, moment: datetime) -> None:
    session.execute(
        update(PoolAssignment)
        .where(PoolAssignment.node_id == node_id, PoolAssignment.released_at.is_(None))
        .values(released_at=moment)
    )
    session.flush()
