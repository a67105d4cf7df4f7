"""Which display a session records (contract 5.3). It names what is really recorded, or there is no recording."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import psutil
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labyard.desktops.errors import Refusal
from labyard.desktops.models import Agent, DeskSession, PortLease, RdpServer, RdpStatus
from labyard.desktops.names import LOCAL_NODE
from labyard.desktops.roles import Principal
from labyard.desktops.service import rdp_rows
from labyard.desktops.service.sessions.shared import WORKING
from labyard.desktops.settings import Settings

ATTACH, AUTO, NONE = "attach", "auto", "none"


class Provisioner(Protocol):
    """Makes RDP servers for sessions of policy `auto`: the part that runs servers."""

    def provide(self, session_id: str, owner: str, resolution: str) -> str:
        """Create and start a server of the owner's; its id. Refusal or AgentError, and nothing is left of it."""

    def release(self, server_id: str, owner: str) -> None:
        """The session needs it no more. Absent is fine."""


@dataclass(frozen=True)
class Target:
    """`binding` is shown; `spec` is for the agent of `node_id`."""

    node_id: str
    server_id: str | None
    binding: Mapping[str, Any]
    spec: Mapping[str, Any] = field(repr=False)


def resolve(session: Session, row: DeskSession, who: Principal, settings: Settings, password: str | None) -> Target:
    """The target of a start now, in the contract's order. Refusal SES_NO_RDP_TARGET when there is none."""
    policy = row.provisioning["policy"]
    if policy != NONE:
        exact = _exact(session, row, who, settings)
        if exact is not None:
            if exact.status != RdpStatus.RUNNING:
                raise _none(f"the RDP server {exact.server_id} at {_asked(row)} is {exact.status}")
            return _managed(session, "exact", exact, settings)
    if policy == AUTO:
        own = session.get(RdpServer, row.provisioning.get("server_id") or "")
        if own is not None and own.status == RdpStatus.RUNNING:
            return _managed(session, AUTO, own, settings)
        raise _none("the session's own RDP server does not run")
    if policy == ATTACH and (server := _of_owner(session, who)):
        return _managed(session, "owner", server, settings)
    return _external(row, settings, password)


def fits(session: Session, row: DeskSession, who: Principal, settings: Settings) -> str | None:
    """The running server that `attach` would take now."""
    exact = _exact(session, row, who, settings)
    if exact is not None:
        return exact.server_id if exact.status == RdpStatus.RUNNING else None
    server = _of_owner(session, who)
    return server.server_id if server else None


def _exact(session: Session, row: DeskSession, who: Principal, settings: Settings) -> RdpServer | None:
    """The managed server at the address that was asked for, if the caller may see it."""
    query = (
        select(RdpServer)
        .join(PortLease, PortLease.server_id == RdpServer.server_id)
        .where(PortLease.port == row.rdp_config["port"], RdpServer.deleted_at.is_(None))
    )
    server = session.scalar(query)
    if server is None or not rdp_rows.sees(who, server):
        return None
    return server if row.rdp_config["host"].lower() in _addresses(session, server.node_id, settings) else None


def _of_owner(session: Session, who: Principal) -> RdpServer | None:
    """A running server of the caller: that with the fewest recordings, of those the oldest."""
    recordings = (
        select(func.count())
        .where(DeskSession.server_id == RdpServer.server_id, DeskSession.status.in_(WORKING))
        .correlate(RdpServer)
        .scalar_subquery()
    )
    query = (
        select(RdpServer)
        .where(rdp_rows.own(who), RdpServer.status == RdpStatus.RUNNING, RdpServer.deleted_at.is_(None))
        .order_by(recordings, RdpServer.created_at, RdpServer.server_id)
        .limit(1)
    )
    return session.scalar(query)


def _managed(session: Session, kind: str, server: RdpServer, settings: Settings) -> Target:
    port = session.scalar(select(PortLease.port).where(PortLease.server_id == server.server_id))
    if server.display is None:
        raise _none(f"the RDP server {server.server_id} has no display")
    return Target(
        node_id=server.node_id,
        server_id=server.server_id,
        binding={
            "kind": kind,
            "server_id": server.server_id,
            "host": _address(session, server.node_id, settings),
            "port": port,
            "display": f":{server.display}",
        },
        spec={"kind": "display", "display": server.display, "server_id": server.server_id},
    )


def _external(row: DeskSession, settings: Settings, password: str | None) -> Target:
    host = row.rdp_config["host"]
    if host.lower() not in {allowed.lower() for allowed in settings.external_hosts}:
        raise _none(f"no RDP server that you may use runs at {_asked(row)}, and the host is not on the allow-list")
    if not password:
        raise _none(f"recording {_asked(row)} needs rdp_config.password")
    names = ("host", "port", "username", "domain", "use_tls", "ignore_cert")
    return Target(
        node_id=LOCAL_NODE,
        server_id=None,
        binding={
            "kind": "external",
            "server_id": None,
            "host": host,
            "port": row.rdp_config["port"],
            "display": None,
        },
        spec={"kind": "external", "password": password, **{name: row.rdp_config.get(name) for name in names}},
    )


def _address(session: Session, node_id: str, settings: Settings) -> str:
    """Where clients reach the node's servers."""
    if node_id == LOCAL_NODE:
        return settings.local_address
    agent = session.get(Agent, node_id)
    return (urlsplit(agent.address).hostname if agent else None) or node_id


def _addresses(session: Session, node_id: str, settings: Settings) -> set[str]:
    """All that a client may call the node."""
    names = {_address(session, node_id, settings).lower()}
    if node_id == LOCAL_NODE:
        names |= {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        for each in psutil.net_if_addrs().values():
            names |= {entry.address for entry in each if entry.family == socket.AF_INET}
    return names


def _asked(row: DeskSession) -> str:
    return f"{row.rdp_config['host']}:{row.rdp_config['port']}"


def _none(reason: str) -> Refusal:
    return Refusal("SES_NO_RDP_TARGET", f"There is nothing to record: {reason}")
