"""What nodes use, measured: by their agents, or where a node has none on the service's own host (contract 7.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.desktops.adapters.agent import Usage
from labyard.desktops.adapters.host import HostMeter
from labyard.desktops.errors import Refusal
from labyard.desktops.models import Node, NodeStatus
from labyard.desktops.service.alerts import OF_NODES, Alerts
from labyard.desktops.service.samples import Samples
from labyard.desktops.service.shared import Shared

KEPT = timedelta(days=90)
HOST = "service-host"
MEASURED = (NodeStatus.ACTIVE, NodeStatus.UNREACHABLE, NodeStatus.MAINTENANCE)


class NodeUsage:
    def __init__(self, shared: Shared) -> None:
        self._database = shared.database
        self._agents = shared.agents
        self._meter = HostMeter(shared.settings.state_dir)
        self.samples = Samples(shared.database, shared.live, "node", KEPT)
        self.alerts = Alerts(shared.database, "node", OF_NODES)

    def measure(self, node_id: str) -> Usage:
        """Now. AgentError where the node has an agent that does not answer."""
        if self._agents.hosts(node_id):
            return self._agents.of(node_id).metrics()
        return self.of_host()

    def of_host(self) -> Usage:
        """Of the service's own host, now."""
        usage = self._meter.sample(HOST)
        return replace(usage, detail={**usage.detail, "shared": True})

    def current(self, node_id: str) -> Usage:
        """409 for a node that is not active."""
        self._refuse_inactive(node_id)
        return self.samples.newest_live(node_id) or self.measure(node_id)

    def history(self, node_id: str, duration: timedelta) -> list[Usage]:
        return self.samples.history(node_id, duration)

    def store(self, session: Session, node_id: str, usage: Usage) -> None:
        self.samples.store(session, node_id, usage)
        self.samples.put_live([node_id], usage)

    def judge(self, node_id: str, hardware: Mapping[str, Any], usage: Usage) -> None:
        self.alerts.judge(
            node_id,
            {
                "cpu": usage.cpu_percent,
                "memory": usage.memory_percent,
                "disk": usage.disk_percent,
                "network": network_percent(hardware, usage),
            },
        )

    def forget(self, node_id: str) -> None:
        self.samples.forget_live(node_id)
        self.alerts.forget(node_id)

    def _refuse_inactive(self, node_id: str) -> None:
        with self._database.read() as session:
            status = session.scalar(select(Node.status).where(Node.node_id == node_id))
        if status != NodeStatus.ACTIVE:
            raise Refusal("NODE_STATE", f"The node {node_id} is {status}: nothing is measured")


def network_percent(hardware: Mapping[str, Any], usage: Usage) -> float | None:
    """Of the speed of all interfaces: the busier direction. None where a speed or the traffic is unknown."""
    speeds: list[float | None] = [interface.get("speed_mbps") for interface in hardware.get("network") or ()]
    total = sum(speed or 0 for speed in speeds)
    if not total or not all(speeds) or usage.network_in is None or usage.network_out is None:
        return None
    return min(100.0, 100 * max(usage.network_in, usage.network_out) * 8 / (total * 1_000_000))
