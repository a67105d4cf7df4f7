"""The use cases, in the words of the contract: one file per kind of thing. `Desktops` is all of them, joined."""

from __future__ import annotations

from labyard.core.database import Database
from labyard.desktops.adapters.agent import Agents, NoAgents
from labyard.desktops.adapters.live import Live
from labyard.desktops.keyring import Keyring
from labyard.desktops.service.auth import Auth
from labyard.desktops.service.idempotency import Idempotency
from labyard.desktops.service.shared import Shared
from labyard.desktops.service.users import Users
from labyard.desktops.settings import Settings

__all__ = ["Desktops"]


class Desktops:
    """The service without its HTTP side. Without `agents` no node hosts anything."""

    def __init__(self, settings: Settings, database: Database, live: Live, agents: Agents | None = None) -> None:
        self.settings = settings
        self.database = database
        self.live = live
        keyring = Keyring(settings.keys / "key-encryption.json")
        self.shared = Shared(settings, database, live, keyring, agents or NoAgents())
        self.auth = Auth(settings, database, live)
        self.users = Users(database, self.auth)
        self.idempotency = Idempotency(database)

    def start(self) -> None:
        """Begin the background work."""
        self.auth.load()

    def stop(self) -> None:
        self.live.close()
