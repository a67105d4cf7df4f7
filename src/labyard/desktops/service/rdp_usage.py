"""What RDP servers use, who is connected, how they answer (contract 6.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops.adapters.agent import Usage
from labyard.desktops.errors import Refusal
from labyard.desktops.fields import parse_time
from labyard.desktops.models import RdpConnection, RdpProbe, RdpServer, RdpStatus
from labyard.desktops.service.alerts import OF_SERVERS, Alerts
from labyard.desktops.service.samples import Samples
from labyard.desktops.service.shared import Shared

KEPT = timedelta(days=7)
FRESH = timedelta(seconds=5)  # that a sample is taken for now
BITS_PER_MBIT = 1_000_000


class ServerUsage:
    def __init__(self, shared: Shared) -> None:
        self._database = shared.database
        self._agents = shared.agents
        self.samples = Samples(shared.database, shared.live, "rdp", KEPT)
        self.alerts = Alerts(shared.database, "rdp", OF_SERVERS)

    def current(self, server_id: str) -> Usage:
        """409 when it does not run. AgentError."""
        with self._database.read() as session:
            row = session.execute(
                select(RdpServer.status, RdpServer.node_id).where(RdpServer.server_id == server_id)
            ).one()
        if row.status != RdpStatus.RUNNING:
            raise Refusal("RDP_STATE", f"The RDP server {server_id} is {row.status}: nothing is measured")
        live = self.samples.newest_live(server_id)
        if live is not None and now() - parse_time(live.at) < FRESH:
            return live
        return self._agents.of(row.node_id).server_usage(server_id)

    def history(self, server_id: str, duration: timedelta) -> list[Usage]:
        return self.samples.history(server_id, duration)

    def judge(self, server: RdpServer, usage: Usage) -> None:
        """`cpu` is judged by the server's own limit."""
        cpu = usage.cpu_percent
        self.alerts.judge(
            server.server_id,
            {
                "cpu": None if cpu is None else cpu / float(server.cpu_limit),
                "memory": usage.memory_percent,
                "disk": usage.disk_percent,
                "network": network_percent(server.network_bandwidth, usage),
            },
            # Who hogs memory is killed at once: there is no second sample of it.
            at_once={"memory"} if usage.detail.get("killed_for_memory") else (),
        )

    def forget(self, server_id: str) -> None:
        """It does not run any more."""
        self.samples.forget_live(server_id)
        self.alerts.forget(server_id)
        with self._database.transaction() as session:
            self.note_connections(session, server_id, ())

    def note_connections(self, session: Session, server_id: str, peers: Iterable[str]) -> None:
        """These clients are connected now, and no others."""
        open_rows = session.scalars(
            select(RdpConnection).where(RdpConnection.server_id == server_id, RdpConnection.disconnected_at.is_(None))
        )
        left, moment = set(peers), now()
        for row in open_rows:
            if row.peer in left:
                left.discard(row.peer)
            else:
                row.disconnected_at = moment
        for peer in sorted(left):
            session.add(RdpConnection(server_id=server_id, peer=peer, connected_at=moment))

    def connections(self, server_id: str) -> list[dict[str, Any]]:
        query = select(RdpConnection).where(
            RdpConnection.server_id == server_id, RdpConnection.disconnected_at.is_(None)
        )
        with self._database.read() as session:
            return [
                {"peer": row.peer, "connected_at": row.connected_at}
                for row in session.scalars(query.order_by(RdpConnection.connected_at, RdpConnection.id))
            ]

    def note_probe(self, node_id: str, server_id: str, answer: Mapping[str, Any]) -> None:
        """For the quality of the server's node."""
        with self._database.transaction() as session:
            session.add(
                RdpProbe(
                    node_id=node_id,
                    server_id=server_id,
                    answered=bool(answer.get("connection_available")),
                    latency_ms=answer.get("latency_ms"),
                )
            )

    def tidy(self) -> None:
        """Forget what is too old to matter."""
        limit = now() - KEPT
        self.samples.drop_old()
        with self._database.transaction() as session:
            session.execute(delete(RdpProbe).where(RdpProbe.at < limit))
            session.execute(delete(RdpConnection).where(RdpConnection.disconnected_at < limit))

    def close_all(self) -> None:
        """After a crash: who was connected then is found anew."""
        with self._database.transaction() as session:
            session.execute(
                update(RdpConnection).where(RdpConnection.disconnected_at.is_(None)).values(disconnected_at=now())
            )


def network_percent(bandwidth: int, usage: Usage) -> float | None:
    """The busier direction, of `bandwidth` Mbit/s."""
    if usage.network_in is None or usage.network_out is None:
        return None
    return min(100.0, 100 * max(usage.network_in, usage.network_out) * 8 / (bandwidth * BITS_PER_MBIT))
