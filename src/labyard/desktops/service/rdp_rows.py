"""Rows of RDP servers: found, locked, judged, shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog
from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from labyard.desktops import roles
from labyard.desktops.adapters.agent import AgentError, AgentRefused, ServerSpec, ServerStatus
from labyard.desktops.errors import Refusal
from labyard.desktops.models import Agent, DeskSession, PortLease, RdpServer, RdpStatus, SessionStatus
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.rdp import Configuration, ResourcesOut

log = structlog.get_logger(__name__)

START_FAILED = "RDP_START_FAILED"
RECORDING = (SessionStatus.STARTING, SessionStatus.RECORDING, SessionStatus.PAUSED, SessionStatus.STOPPING)


@dataclass(frozen=True)
class ServerView:
    """A server as clients see it. `host` is where they reach it."""

    server: RdpServer
    port: int
    host: str

    def shown(self) -> dict[str, Any]:
        server = self.server
        fields = (
            "server_id", "name", "description", "user_id", "status", "node_id", "configuration", "created_at",
            "updated_at", "last_started_at", "last_stopped_at", "desktop_effective", "enforcement",
        )  # fmt: skip
        return {name: getattr(server, name) for name in fields} | {
            "host": self.host,
            "port": self.port,
            "resources": resources(server),
            "restart_required": server.status == RdpStatus.RUNNING
            and server.configuration != server.configuration_applied,
        }


def view(session: Session, server: RdpServer, local_address: str) -> ServerView:
    """`local_address` is where servers of this host are reached."""
    address = session.scalar(select(Agent.address).where(Agent.node_id == server.node_id)) or ""
    host = urlsplit(address).hostname if address.startswith("https://") else None
    return ServerView(server, port_of(session, server.server_id), host or local_address)


def resources(server: RdpServer) -> ResourcesOut:
    return ResourcesOut.of(server.cpu_limit, server.memory_limit, server.disk_limit, server.network_bandwidth)


def spec(server: RdpServer, port: int, password: str, fallback: bool) -> ServerSpec:
    """For the server's agent. What the configuration leaves out gets its default here."""
    return ServerSpec(
        server_id=server.server_id,
        port=port,
        account=server.account,
        password=password,
        configuration=Configuration(**server.configuration).model_dump(),
        cpu_limit=float(server.cpu_limit),
        memory_limit=server.memory_limit,
        disk_limit=server.disk_limit,
        network_bandwidth=server.network_bandwidth,
        fallback=fallback,
    )


def take(server: RdpServer, status: ServerStatus) -> None:
    """What its agent says of a server that runs."""
    server.display = status.display
    server.desktop_effective = status.desktop_effective
    server.certificate_sha256 = status.certificate_sha256
    server.enforcement = dict(status.enforcement)


def found(session: Session, server_id: str) -> RdpServer:
    server = session.get(RdpServer, server_id)
    if server is None or server.deleted_at is not None:
        raise unknown(server_id)
    return server


def locked(session: Session, server_id: str, deleted: bool = False) -> RdpServer:
    """Until the transaction ends. `deleted`: also one that is on its way out."""
    server = session.get(RdpServer, server_id, with_for_update=True)
    if server is None or (server.deleted_at is not None and not deleted):
        raise unknown(server_id)
    return server


def port_of(session: Session, server_id: str) -> int:
    return session.scalars(select(PortLease.port).where(PortLease.server_id == server_id)).one()


def sees(who: Principal, server: RdpServer) -> bool:
    return who.may(roles.RDP_SEE_ALL) or who.subject in (server.owner, server.user_id)


def own(who: Principal) -> ColumnElement[bool]:
    return or_(RdpServer.owner == who.subject, RdpServer.user_id == who.subject)


def refuse_recorded(session: Session, server_id: str, force: bool) -> None:
    query = select(DeskSession.session_id).where(DeskSession.server_id == server_id, DeskSession.status.in_(RECORDING))
    if not force and (recorded := session.scalars(query).all()):
        raise Refusal("RDP_HAS_SESSIONS", f"It is being recorded by {', '.join(recorded[:5])}; stop that first")


def unknown(server_id: str) -> Refusal:
    return Refusal("RDP_NOT_FOUND", f"There is no RDP server {server_id[:64]}")


def wrong_state(server: RdpServer) -> Refusal:
    return Refusal("RDP_STATE", f"The RDP server {server.server_id} is {server.status}")


def agents_fault(what: str, server_id: str, error: AgentError) -> Exception:
    """What an agent says of its machine is for the log, not for clients."""
    if not isinstance(error, AgentRefused):
        return error
    log.error("refused by the agent", server=server_id, code=error.code, reason=str(error), said=list(error.log))
    code = START_FAILED if what == "started" or error.code == START_FAILED else "INTERNAL"
    return Refusal(code, f"The RDP server {server_id} could not be {what}; the service's log says why")
