"""What the use cases share."""

from __future__ import annotations

from dataclasses import dataclass

from labyard.core.database import Database
from labyard.desktops.adapters.agent import Agents
from labyard.desktops.adapters.live import Live
from labyard.desktops.keyring import Keyring
from labyard.desktops.settings import Settings


@dataclass(frozen=True)
class Shared:
    settings: Settings
    database: Database
    live: Live
    keyring: Keyring
    agents: Agents
