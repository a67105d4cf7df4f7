"""The agents of nodes, as the database knows them."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import select

from labyard.core.database import Database
from labyard.desktops.adapters.agent import AgentClient, AgentUnreachable
from labyard.desktops.adapters.agent_http import HttpAgent
from labyard.desktops.models import Agent
from labyard.desktops.names import LOCAL_NODE


class KnownAgents:
    """`Agents`: one client for each address. `socket` is that of this host's own, if there is one.

    `tls` None: only those on this host can be called.
    """

    def __init__(
        self, database: Database, deadline: float, socket: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._database = database
        self._socket = socket
        self._deadline = deadline
        self._tls = tls
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str], HttpAgent] = {}

    def of(self, node_id: str) -> AgentClient:
        address = self._address(node_id)
        if address is None:
            raise AgentUnreachable(f"The node {node_id} has no agent")
        with self._lock:
            found = self._clients.get((node_id, address))
            if found is None:
                try:
                    found = HttpAgent(node_id, address, self._tls, self._deadline)
                except ValueError as error:
                    raise AgentUnreachable(str(error)) from None
                self._clients[node_id, address] = found
            return found

    def hosts(self, node_id: str) -> bool:
        return self._address(node_id) is not None

    def hosting(self, node_ids: Collection[str]) -> set[str]:
        with self._database.read() as session:
            found = set(session.scalars(select(Agent.node_id).where(Agent.node_id.in_(node_ids)))) - {LOCAL_NODE}
        return found | {LOCAL_NODE} & set(node_ids) if self._socket else found

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _address(self, node_id: str) -> str | None:
        if node_id == LOCAL_NODE:
            return f"unix://{self._socket}" if self._socket else None
        with self._database.read() as session:
            return session.scalar(select(Agent.address).where(Agent.node_id == node_id))
