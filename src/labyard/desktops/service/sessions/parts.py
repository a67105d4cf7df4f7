"""What recordings stand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labyard.core.database import Database
from labyard.desktops.adapters.agent import Agents
from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.adapters.ledger import Ledger
from labyard.desktops.keyring import Keyring
from labyard.desktops.service.data_keys import DataKeys
from labyard.desktops.service.samples import Samples
from labyard.desktops.service.sessions.binding import Provisioner
from labyard.desktops.service.sessions.records import Records
from labyard.desktops.settings import Settings

# Of a session: its node, its id, its root.
OnSealed = Callable[[str, str, str], object]


@dataclass(frozen=True)
class Parts:
    """One of each for the whole service."""

    database: Database
    settings: Settings
    agents: Agents
    keyring: Keyring
    keys: DataKeys
    store: ChunkStore
    ledger: Ledger
    records: Records
    node_samples: Samples
    server_samples: Samples
    provisioner: Provisioner | None
    on_sealed: OnSealed | None
