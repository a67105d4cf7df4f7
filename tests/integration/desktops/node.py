"""A node without systemd: real recorders on real displays, called as the agent's client calls them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from labyard.core.clock import as_text, now
from labyard.core.database import Database
from labyard.desktops.adapters.agent import AgentUnreachable, RecordSpec, RecordStatus, Segment, Usage
from labyard.desktops.models import Node, NodeStatus, PortLease, RdpServer, RdpStatus
from labyard.desktops.recorder.recorders import Recorders

from .display import Display
from .units import KnownDisplays, ProcessUnits

NODE = "node_local"
GIB = 2**30


class RecordingAgent:
    """The verbs of an agent that sessions need. While `away`, it is not reached."""

    def __init__(self, folder: Path) -> None:
        self.units = ProcessUnits(folder / "recorders.log")
        self.displays = KnownDisplays()
        self.recorders = Recorders(self.units.runtime, folder / "spool", self.units, self.displays)
        self.away = False

    def record_start(self, spec: RecordSpec, request_id: str) -> RecordStatus:
        return self._here().start(spec)

    def record_stop(self, session_id: str, request_id: str) -> RecordStatus:
        return self._here().stop(session_id)

    def record_pause(self, session_id: str, request_id: str) -> RecordStatus:
        return self._here().pause(session_id)

    def record_resume(self, session_id: str, request_id: str) -> RecordStatus:
        return self._here().resume(session_id)

    def record_status(self, session_id: str) -> RecordStatus:
        return self._here().status(session_id)

    def record_list(self) -> tuple[str, ...]:
        return self._here().sessions()

    def segments(self, session_id: str, after: int) -> Iterator[Segment]:
        yield from self._here().segments(session_id, after)

    def segments_ack(self, session_id: str, upto: int) -> None:
        self._here().acknowledge(session_id, upto)

    def metrics(self) -> Usage:
        self._here()
        detail = {"cpu": {"load": [0.5, 0.4, 0.3]}}
        return Usage(as_text(now()), 10.0, 20.0, 30.0, 1000.0, 2000.0, "agent", detail)

    def server_usage(self, server_id: str) -> Usage:
        self._here()
        return Usage(as_text(now()), 40.0, 50.0, 1.0, 100.0, 200.0, "cgroup", {})

    def kill_recorder(self, session_id: str) -> None:
        self.units.kill(session_id.removeprefix("sess-"))

    def _here(self) -> Recorders:
        if self.away:
            raise AgentUnreachable("the node is away")
        return self.recorders


class OneNode:
    """`Agents` with one node."""

    def __init__(self, agent: RecordingAgent) -> None:
        self.agent = agent

    def of(self, node_id: str) -> Any:
        if node_id != NODE:
            raise AgentUnreachable(f"The node {node_id} has no agent")
        return self.agent

    def hosts(self, node_id: str) -> bool:
        return False  # nobody else is to ask it

    def hosting(self, node_ids: Collection[str]) -> set[str]:
        return set()


@dataclass
class Desk:
    """A running RDP server, as the database has it, on a real display."""

    database: Database
    display: Display
    server_id: str = field(default_factory=lambda: f"rdp-{secrets.token_hex(8)}")
    port: int = 33890

    def change(self, **values: Any) -> None:
        with self.database.transaction() as session:
            row = session.get_one(RdpServer, self.server_id)
            for name, value in values.items():
                setattr(row, name, value)


def add_node(database: Database, max_sessions: int = 10) -> None:
    hardware = {"cpu": {"cores": 2}, "memory": {"total_bytes": 4 * GIB}, "storage": {"total_bytes": 20 * GIB}}
    with database.transaction() as session:
        session.add(
            Node(
                node_id=NODE, name="local", node_type="worker", pool_id="pool_local", hardware_info=hardware,
                configuration={"max_sessions": max_sessions}, overcommit={"cpu": 1, "memory": 1, "disk": 1},
                operator="labyard", status=NodeStatus.ACTIVE, started_at=now(),
            )
        )  # fmt: skip


def add_desk(database: Database, agent: RecordingAgent, display: Display, owner: str, port: int = 33890) -> Desk:
    desk = Desk(database, display, port=port)
    with database.transaction() as session:
        session.add(
            RdpServer(
                server_id=desk.server_id, owner=owner, name="desk", user_id=owner, status=RdpStatus.RUNNING,
                node_id=NODE, configuration={}, cpu_limit=Decimal(1), memory_limit=512, disk_limit=1024,
                network_bandwidth=100, account="nobody", password_sealed="", display=display.number,
            )
        )  # fmt: skip
        session.flush()
        session.add(PortLease(port=port, node_id=NODE, server_id=desk.server_id))
    agent.displays.displays[desk.server_id] = display
    return desk


@contextmanager
def recording_agent(folder: Path) -> Iterator[RecordingAgent]:
    folder.mkdir(parents=True, exist_ok=True)
    agent = RecordingAgent(folder)
    try:
        yield agent
    finally:
        agent.units.close()
