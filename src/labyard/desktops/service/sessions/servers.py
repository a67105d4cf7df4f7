"""RDP servers that are made for a session (policy `auto`). This is `binding.Provisioner`."""

from __future__ import annotations

import structlog

from labyard.core.adapter import AdapterError
from labyard.core.errors import ServiceError
from labyard.desktops.errors import Refusal
from labyard.desktops.roles import Principal, Role
from labyard.desktops.schemas.rdp import Configuration, RdpIn, Resources
from labyard.desktops.service.rdp import RdpServers
from labyard.desktops.settings import Settings

log = structlog.get_logger(__name__)


class SessionServers:
    def __init__(self, servers: RdpServers, settings: Settings) -> None:
        self._servers = servers
        self._settings = settings

    def provide(self, session_id: str, owner: str, resolution: str) -> str:
        """Create and start a server of the owner's; its id. Nothing is left of it when that fails."""
        settings = self._settings
        body = RdpIn(
            name=f"For {session_id}",
            user_id=owner,
            configuration=Configuration(resolution=resolution),
            resources=Resources(
                cpu_limit=settings.session_auto_cpu,
                memory_limit=settings.session_auto_memory,
                disk_limit=settings.session_auto_disk,
                network_bandwidth=settings.session_auto_network,
            ),
        )
        server_id = self._servers.create(body, _owner(owner)).server.server_id
        try:
            self._servers.start(server_id)
        except (AdapterError, ServiceError):
            self._remove(server_id, owner)
            raise
        return server_id

    def release(self, server_id: str, owner: str) -> None:
        """Its session is over: the server goes, unless it is to be kept."""
        if not self._settings.session_auto_keep:
            self._remove(server_id, owner)

    def _remove(self, server_id: str, owner: str) -> None:
        try:
            self._servers.delete(server_id, False, _owner(owner))
        except Refusal as refusal:
            if refusal.code != "RDP_NOT_FOUND":
                log.warning("a session's server stays", server=server_id, reason=refusal.message)
        except AdapterError as error:
            log.warning("a session's server stays", server=server_id, reason=str(error))


def _owner(subject: str) -> Principal:
    return Principal(subject, frozenset({Role.RDP_USER}))
