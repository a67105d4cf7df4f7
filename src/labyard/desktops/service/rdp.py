"""RDP servers: made, started, stopped, deleted, changed, shown (contract 6.1 to 6.3)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from labyard.core.clock import now
from labyard.desktops import audit, names, roles
from labyard.desktops.adapters.agent import AgentError, ServerSpec, ServerStatus
from labyard.desktops.advisory import PORTS, hold
from labyard.desktops.errors import Refusal
from labyard.desktops.models import (
    Alert,
    DeskSession,
    PortLease,
    RdpServer,
    RdpStatus,
    UsageSample,
)
from labyard.desktops.paging import Page, fetch
from labyard.desktops.roles import Principal
from labyard.desktops.schemas.rdp import Configuration, RdpIn
from labyard.desktops.service import placement
from labyard.desktops.service import rdp_rows as rows
from labyard.desktops.service.rdp_rows import ServerView
from labyard.desktops.service.rdp_usage import ServerUsage
from labyard.desktops.service.shared import Shared

log = structlog.get_logger(__name__)

# Who hands out ports, one at a time: two creates never share one.
LOCK = hold(PORTS)
PASSWORD_BYTES = 32
PORT_TAKEN = "PORT_TAKEN"
STARTABLE = (RdpStatus.STOPPED, RdpStatus.ERROR)
STOPPABLE = (RdpStatus.RUNNING, RdpStatus.ERROR)


class RdpServers:
    def __init__(self, shared: Shared, usage: ServerUsage) -> None:
        self._database = shared.database
        self._settings = shared.settings
        self._agents = shared.agents
        self._keyring = shared.keyring
        self._usage = usage

    # Reading

    def visible(self, server_id: str, who: Principal) -> bool:
        with self._database.read() as session:
            server = session.get(RdpServer, server_id)
            return server is not None and server.deleted_at is None and rows.sees(who, server)

    def get(self, server_id: str) -> ServerView:
        with self._database.read() as session:
            return self._view(session, rows.found(session, server_id))

    def page(
        self, page: Page, who: Principal, status: str | None, user_id: str | None, node_id: str | None
    ) -> tuple[list[ServerView], int]:
        query = select(RdpServer).where(RdpServer.deleted_at.is_(None))
        query = query.order_by(RdpServer.created_at, RdpServer.server_id)
        if not who.may(roles.RDP_SEE_ALL):
            query = query.where(rows.own(who))
        for column, value in ((RdpServer.status, status), (RdpServer.user_id, user_id), (RdpServer.node_id, node_id)):
            if value is not None:
                query = query.where(column == value)
        with self._database.read() as session:
            servers, total = fetch(session, query, page)
            return [self._view(session, server) for server in servers], total

    def service_status(self, server_id: str) -> ServerStatus:
        """What the server's units are now. AgentError."""
        view = self.get(server_id)
        return self._agents.of(view.server.node_id).server_status(server_id)

    def credentials(self, server_id: str) -> dict[str, Any]:
        """With the password, and on the audit log."""
        with self._database.transaction() as session:
            server = rows.found(session, server_id)
            view = self._view(session, server)
            audit.record(session, "rdp", "credential_read", resource=("rdp_server", server_id))
            return {
                "server_id": server_id,
                "host": view.host,
                "port": view.port,
                "username": server.account,
                "password": self.password(server),
                "certificate_sha256": server.certificate_sha256,
            }

    def password(self, server: RdpServer) -> str:
        return self._keyring.open(server.password_sealed, server.server_id).decode()

    def rewrap(self) -> int:
        """Seal every password with the newest key; how many."""
        with self._database.transaction() as session:
            servers = session.scalars(select(RdpServer).with_for_update()).all()
            for server in servers:
                opened = self._keyring.open(server.password_sealed, server.server_id)
                server.password_sealed = self._keyring.seal(opened, server.server_id)
        return len(servers)

    # Making and changing

    def create(self, body: RdpIn, who: Principal) -> ServerView:
        """With a port of its own, an account and its files; nothing runs yet. Nothing stays when it fails."""
        if body.user_id != who.subject and not who.may(roles.RDP_OPERATE):
            raise Refusal("AUTH_FORBIDDEN", "Servers for another user_id than your own need the role rdp_operator")
        avoid: set[int] = set()
        while True:
            server, port = self._lease(body, who, avoid)
            try:
                made = self._agents.of(server.node_id).server_create(self._spec(server, port), secrets.token_hex(8))
            except AgentError as error:
                self._take_back(server)
                if error.code == PORT_TAKEN:
                    avoid.add(port)
                    continue
                raise rows.agents_fault("made", server.server_id, error) from None
            with self._database.transaction() as session:
                server = rows.locked(session, server.server_id)
                server.certificate_sha256 = made.certificate_sha256
                server.desktop_effective = made.desktop_effective
                audit.record(session, "rdp", "create", resource=("rdp_server", server.server_id))
                session.flush()
                return self._view(session, server)

    def configure(self, server_id: str, configuration: Configuration) -> dict[str, Any]:
        """From the next start on."""
        with self._database.transaction() as session:
            server = rows.locked(session, server_id)
            server.configuration = configuration.model_dump(exclude_unset=True)
            audit.record(session, "rdp", "configure", resource=("rdp_server", server_id))
            return server.configuration

    def delete(self, server_id: str, force: bool, who: Principal) -> None:
        """All of it: what runs, the account, the files, the port. 409 with a recording, unless an admin forces it."""
        with self._database.transaction() as session:
            server = rows.locked(session, server_id)
            if force and not who.may(roles.ADMIN):
                raise Refusal("AUTH_FORBIDDEN", "force needs the role admin")
            if server.status in (RdpStatus.STARTING, RdpStatus.STOPPING):
                raise rows.wrong_state(server)
            rows.refuse_recorded(session, server_id, force)
            server.deleted_at = now()
        try:
            self.finish_delete(server)
        except AgentError as error:
            # Not gone: it is seen again, and may be deleted again.
            with self._database.transaction() as session:
                server = rows.locked(session, server_id, deleted=True)
                server.deleted_at = None
                server.status = RdpStatus.ERROR
                server.last_error = str(error)
            raise rows.agents_fault("deleted", server_id, error) from None

    def finish_delete(self, server: RdpServer) -> None:
        """Of a server that is marked as deleted. AgentError: then nothing in the database changed."""
        self._agents.of(server.node_id).server_delete(server.server_id, secrets.token_hex(8))
        self._usage.forget(server.server_id)
        with self._database.transaction() as session:
            for model in (UsageSample, Alert):
                session.execute(delete(model).where(model.kind == "rdp", model.subject_id == server.server_id))
            found = session.get(RdpServer, server.server_id, with_for_update=True)
            if found is not None:
                session.delete(found)
                audit.record(session, "rdp", "delete", resource=("rdp_server", server.server_id))

    # Starting and stopping

    def start(self, server_id: str) -> ServerView:
        """Running when it answers: units, desktop and a negotiation on its port. 503 when it cannot be."""
        with self._database.transaction() as session:
            server = rows.locked(session, server_id)
            if server.status not in STARTABLE:
                raise rows.wrong_state(server)
            placement.reserve(session, self._agents, server)
            before, server.status = server.status, RdpStatus.STARTING
            port = rows.port_of(session, server_id)
        configuration = dict(server.configuration)
        agent = self._agents.of(server.node_id)
        try:
            placement.guard(server.node_id, agent.metrics().detail)
        except BaseException:
            self._settle(server_id, before)
            raise
        try:
            status = agent.server_start(self._spec(server, port), secrets.token_hex(8))
        except AgentError as error:
            # What did start is stopped: by the agent, or by the reconciler where the agent is away.
            self._settle(server_id, RdpStatus.ERROR, str(error))
            raise rows.agents_fault("started", server_id, error) from None
        except BaseException:
            self._settle(server_id, RdpStatus.ERROR, "the start was interrupted")
            raise
        with self._database.transaction() as session:
            server = rows.locked(session, server_id)
            rows.take(server, status)
            server.status, server.last_started_at, server.last_error = RdpStatus.RUNNING, now(), None
            server.configuration_applied = configuration
            audit.record(session, "rdp", "start", resource=("rdp_server", server_id))
            session.flush()
            return self._view(session, server)

    def stop(self, server_id: str, force: bool = False) -> ServerView:
        """No process of it is left when it answers. 409 with a recording, unless forced."""
        with self._database.transaction() as session:
            server = rows.locked(session, server_id)
            if server.status not in STOPPABLE:
                raise rows.wrong_state(server)
            rows.refuse_recorded(session, server_id, force)
            server.status = RdpStatus.STOPPING
        try:
            self._agents.of(server.node_id).server_stop(server_id, secrets.token_hex(8))
        except AgentError as error:
            self._settle(server_id, RdpStatus.ERROR, str(error))
            raise rows.agents_fault("stopped", server_id, error) from None
        except BaseException:
            self._settle(server_id, RdpStatus.ERROR, "the stop was interrupted")
            raise
        self._usage.forget(server_id)
        with self._database.transaction() as session:
            server = rows.locked(session, server_id)
            server.status, server.last_stopped_at, server.display = RdpStatus.STOPPED, now(), None
            audit.record(session, "rdp", "stop", resource=("rdp_server", server_id), details={"force": force})
            session.flush()
            return self._view(session, server)

    def drain(self, server_id: str) -> None:
        """Stop it because its node stops: a recording is sealed by those who record."""
        self.stop(server_id, force=True)

    def restart(self, server_id: str, force: bool = False) -> ServerView:
        if self.get(server_id).server.status in STOPPABLE:
            self.stop(server_id, force)
        return self.start(server_id)

    # Looking

    def test_connection(self, server_id: str, username: str | None, password: str | None) -> Mapping[str, Any]:
        """As a client would: with these credentials, or with the server's own. Stopped: nothing is there, and no
        error. AgentError."""
        server = self.get(server_id).server
        if server.status != RdpStatus.RUNNING:
            return {
                "connection_available": False,
                "port_open": False,
                "tls": None,
                "protocol": None,
                "login": {"attempted": False, "succeeded": False, "reason": f"the server is {server.status}"},
                "latency_ms": None,
            }
        if username is None:
            username, password = server.account, self.password(server)
        answer = self._agents.of(server.node_id).server_probe(server_id, username, password)
        self._usage.note_probe(server.node_id, server_id, answer)
        return answer

    def sessions(self, server_id: str) -> list[dict[str, Any]]:
        """The recordings that are bound to it now."""
        query = select(DeskSession).where(DeskSession.server_id == server_id, DeskSession.status.in_(rows.RECORDING))
        with self._database.read() as session:
            return [
                {"session_id": row.session_id, "name": row.name, "status": row.status, "started_at": row.started_at}
                for row in session.scalars(query.order_by(DeskSession.started_at, DeskSession.session_id))
            ]

    # Inside

    def _lease(self, body: RdpIn, who: Principal, avoid: set[int]) -> tuple[RdpServer, int]:
        server_id = names.server_id()
        password = self._keyring.seal(secrets.token_urlsafe(PASSWORD_BYTES).encode(), server_id)
        wishes = body.resources
        server = RdpServer(
            server_id=server_id, owner=who.subject, name=body.name, description=body.description, user_id=body.user_id,
            configuration=body.configuration.model_dump(exclude_unset=True),
            cpu_limit=Decimal(str(wishes.cpu_limit)), memory_limit=wishes.memory_limit, disk_limit=wishes.disk_limit,
            network_bandwidth=wishes.network_bandwidth, account=server_id, password_sealed=password,
        )  # fmt: skip
        with self._database.transaction() as session:
            session.execute(LOCK)
            mine = select(func.count()).where(RdpServer.user_id == body.user_id, RdpServer.deleted_at.is_(None))
            if (session.scalar(mine) or 0) >= self._settings.rdp_user_quota:
                raise Refusal("QUOTA_EXCEEDED", f"This user_id has {self._settings.rdp_user_quota} RDP servers already")
            server.node_id = placement.choose(session, self._agents, placement.wanted(server)).node_id
            taken = set(session.scalars(select(PortLease.port)))
            ports = range(self._settings.rdp_first_port, self._settings.rdp_last_port + 1)
            port = next((port for port in ports if port not in taken and port not in avoid), None)
            if port is None:
                raise Refusal("PORTS_EXHAUSTED", f"All ports from {ports[0]} to {ports[-1]} are taken")
            session.add(server)
            session.flush()
            session.add(PortLease(port=port, node_id=server.node_id, server_id=server_id))
        return server, port

    def _take_back(self, server: RdpServer) -> None:
        """Of a server that could not be made. What its agent has of it, the reconciler finds."""
        with self._database.transaction() as session:
            session.execute(delete(RdpServer).where(RdpServer.server_id == server.server_id))

    def _spec(self, server: RdpServer, port: int) -> ServerSpec:
        return rows.spec(server, port, self.password(server), self._settings.rdp_desktop_fallback != "refuse")

    def _settle(self, server_id: str, status: str, error: str | None = None) -> None:
        with self._database.transaction() as session:
            server = session.get(RdpServer, server_id, with_for_update=True)
            if server is not None:
                server.status, server.last_error = status, error

    def _view(self, session: Session, server: RdpServer) -> ServerView:
        return rows.view(session, server, self._settings.local_address)
