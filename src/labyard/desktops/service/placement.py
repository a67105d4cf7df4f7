"""Which node an RDP server runs on, and whether there is room (contract 6.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Numeric, cast, func, select
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops.adapters.agent import Agents
from labyard.desktops.errors import Refusal
from labyard.desktops.models import Node, NodeStatus, RdpServer, RdpStatus
from labyard.desktops.service.nodes import reputation_of

MIB = 2**20
LEAST_REPUTATION = 10  # below it a node gets no server
FREE_MEMORY = 512 * MIB  # that a node must really have
FREE_DISK = 2 * 2**30
HOLDING = (RdpStatus.STARTING, RdpStatus.RUNNING, RdpStatus.STOPPING)


@dataclass(frozen=True)
class Amount:
    """Cores, bytes, bytes."""

    cpu: float
    memory: float
    disk: float

    def fits(self, free: Amount) -> bool:
        return self.cpu <= free.cpu + 1e-9 and self.memory <= free.memory and self.disk <= free.disk

    def without(self, other: Amount) -> Amount:
        return Amount(self.cpu - other.cpu, self.memory - other.memory, self.disk - other.disk)


def wanted(server: RdpServer) -> Amount:
    return Amount(float(server.cpu_limit), server.memory_limit * MIB, server.disk_limit * MIB)


def choose(session: Session, agents: Agents, asked: Amount) -> Node:
    """The node for a new server: one with room if there is any, of the highest reputation, then the least loaded.

    Nothing is reserved. NO_ACTIVE_NODE when no node can host.
    """
    nodes = [node for node in _active(session) if agents.hosts(node.node_id) and _trusted(node)]
    if not nodes:
        raise Refusal("NO_ACTIVE_NODE", "No active node with an agent can host RDP servers now")
    free = {node.node_id: capacity(node).without(reserved(session, node.node_id)) for node in nodes}
    moment = now()

    def worth(node: Node) -> tuple[bool, float, float, str]:
        room = free[node.node_id]
        share = room.cpu / max(capacity(node).cpu, 1e-9)
        return (not asked.fits(room), -float(reputation_of(node, moment)), -share, node.node_id)

    return min(nodes, key=worth)


def reserve(session: Session, agents: Agents, server: RdpServer) -> None:
    """Whether the server's own node has room for it now. The node's row stays locked until the transaction ends, so
    that two starts do not take the same room."""
    node = session.get(Node, server.node_id, with_for_update=True)
    if node is None or node.status != NodeStatus.ACTIVE or not agents.hosts(server.node_id):
        raise Refusal("NO_ACTIVE_NODE", f"The node {server.node_id}, which has this server, is not active")
    free = capacity(node).without(reserved(session, node.node_id, but=server.server_id))
    asked = wanted(server)
    if not asked.fits(free):
        raise Refusal(
            "CAPACITY_EXHAUSTED",
            f"The node {node.node_id} has {free.cpu:g} cores, {free.memory / MIB:.0f} MB of memory and "
            f"{free.disk / MIB:.0f} MB of disk left; the server takes {asked.cpu:g}, {asked.memory / MIB:.0f} and "
            f"{asked.disk / MIB:.0f}",
        )


def guard(node_id: str, detail: Mapping[str, Any]) -> None:
    """Whatever is promised: the machine must really have something left. `detail` is of its agent's metrics."""
    for what, left, least in (
        ("memory", detail.get("memory", {}).get("available_bytes"), FREE_MEMORY),
        ("disk", detail.get("disk", {}).get("free_bytes"), FREE_DISK),
    ):
        if left is not None and left < least:
            raise Refusal("CAPACITY_EXHAUSTED", f"The node {node_id} has only {left / MIB:.0f} MB of {what} free")


def capacity(node: Node) -> Amount:
    """What may be promised: of declared and observed the smaller, times the node's overcommit."""
    facts = [found for found in (node.hardware_info, node.hardware_observed) if found]

    def least(part: str, field: str) -> float:
        sizes = [(found.get(part) or {}).get(field) for found in facts]
        return min((float(size) for size in sizes if size), default=0.0)

    factor = {what: float(node.overcommit.get(what, 1)) for what in ("cpu", "memory", "disk")}
    return Amount(
        least("cpu", "cores") * factor["cpu"],
        least("memory", "total_bytes") * factor["memory"],
        least("storage", "total_bytes") * factor["disk"],
    )


def reserved(session: Session, node_id: str, but: str = "") -> Amount:
    """What the node's running servers were promised."""
    query = select(
        func.coalesce(func.sum(RdpServer.cpu_limit), 0),
        func.coalesce(func.sum(cast(RdpServer.memory_limit, Numeric)), 0),
        func.coalesce(func.sum(cast(RdpServer.disk_limit, Numeric)), 0),
    ).where(RdpServer.node_id == node_id, RdpServer.status.in_(HOLDING), RdpServer.server_id != but)
    cpu, memory, disk = session.execute(query).one()
    return Amount(float(cpu), float(memory) * MIB, float(disk) * MIB)


def _active(session: Session) -> list[Node]:
    return list(session.scalars(select(Node).where(Node.status == NodeStatus.ACTIVE)))


def _trusted(node: Node) -> bool:
    return bool(reputation_of(node, now()) >= LEAST_REPUTATION)
