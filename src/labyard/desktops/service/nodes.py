"""Nodes: registered, looked at, moved between pools, removed (contract section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.desktops import audit, names
from labyard.desktops.errors import Refusal, invalid
from labyard.desktops.models import (
    Agent,
    Alert,
    Node,
    NodeStatus,
    PoolAssignment,
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

TOLERANCE = 1.05  # declared hardware may be this much above what is observed


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

    def page(self, page: Page, **wanted: str | None) -> tuple[list[NodeView], int]:
        """Oldest first. `wanted` are columns and the values that they must have; None is any."""
        query = select(Node).order_by(Node.created_at, Node.node_id)
        query = query.filter_by(**{column: value for column, value in wanted.items() if value is not None})
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

    def delete(self, node_id: str) -> None:
        """409 while it is active or hosts servers."""
        try:
            with self._database.transaction() as session:
                node = locked(session, node_id)
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

    def move(self, node_id: str, pool_id: str) -> dict[str, Any]:
        """Into another pool, in one transaction. 400 for an unknown pool, 409 for a full one."""
        with self._database.transaction() as session:
            node = locked(session, node_id)
            if node.pool_id != pool_id:
                room_for_one(session, pool_id, "pool_id")
                moment = now()
                _close_assignment(session, node_id, moment)
                session.add(PoolAssignment(node_id=node_id, pool_id=pool_id, assigned_at=moment))
                old, node.pool_id, node.pool_assigned_at = node.pool_id, pool_id, moment
                session.flush()
                audit.record(session, "node", "move", resource=("node", node_id), details={"from": old, "to": pool_id})
            return _place(session, node)

    def _check_limits(self, body: NodeIn) -> None:
        hardware, settings = body.hardware_info, self._settings
        for field, value, most in (
            ("hardware_info.cpu.cores", hardware.cpu.cores, settings.max_node_cores),
            ("hardware_info.memory.total_bytes", hardware.memory.total_bytes, settings.max_node_memory),
            ("hardware_info.storage.total_bytes", hardware.storage.total_bytes, settings.max_node_storage),
        ):
            if value > most:
                raise invalid(field, f"must be at most {most}")


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


def _size(hardware: Mapping[str, Any], path: tuple[str, str]) -> Any:
    return (hardware.get(path[0]) or {}).get(path[1])


def locked(session: Session, node_id: str) -> Node:
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
