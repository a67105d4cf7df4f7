"""Recorded sessions: one file per kind of thing. `SessionService` is all of them, joined."""

from __future__ import annotations

from datetime import timedelta

from labyard.desktops.adapters.chunk_store import ChunkStore
from labyard.desktops.service.data_keys import DataKeys
from labyard.desktops.service.ledger import SqlLedger
from labyard.desktops.service.samples import Samples
from labyard.desktops.service.sessions.binding import Provisioner
from labyard.desktops.service.sessions.chunks import Chunks
from labyard.desktops.service.sessions.parts import OnSealed, Parts
from labyard.desktops.service.sessions.recordings import Recordings
from labyard.desktops.service.sessions.records import Records
from labyard.desktops.service.sessions.retention import Retention
from labyard.desktops.service.sessions.scrub import Scrub
from labyard.desktops.service.shared import Shared

__all__ = ["SessionService"]

LEDGER_KEY = "ledger.pem"
MIRROR = "ledger.jsonl"
NODE_SAMPLES, SERVER_SAMPLES = timedelta(days=90), timedelta(days=7)


class SessionService:
    """Without a `provisioner` no server is made for a session; `on_sealed` hears of each that is sealed."""

    def __init__(
        self, shared: Shared, provisioner: Provisioner | None = None, on_sealed: OnSealed | None = None
    ) -> None:
        settings, database = shared.settings, shared.database
        self.ledger = SqlLedger(database, settings.keys / LEDGER_KEY, settings.state_dir / MIRROR)
        self.keys = DataKeys(database, shared.keyring)
        self.store = ChunkStore(settings.chunks, settings.backup_dir, settings.archive_dir)
        self.records = Records(database, settings, shared.keyring, self.keys, self.store, provisioner)
        self.chunks = Chunks(database, self.store, self.keys, self.ledger)
        self.retention = Retention(database, self.store, self.keys)
        self.scrub = Scrub(database, self.store)
        self.recordings = Recordings(
            Parts(
                database=database,
                settings=settings,
                agents=shared.agents,
                keyring=shared.keyring,
                keys=self.keys,
                store=self.store,
                ledger=self.ledger,
                records=self.records,
                node_samples=Samples(database, shared.live, "node", NODE_SAMPLES),
                server_samples=Samples(database, shared.live, "rdp", SERVER_SAMPLES),
                provisioner=provisioner,
                on_sealed=on_sealed,
            )
        )

    def start(self) -> None:
        self.ledger.start()
        self.recordings.recover()

    def rewrap(self) -> int:
        """Seal every data key and password with the newest key-encryption key; how many."""
        return self.keys.rewrap() + self.records.rewrap()

    def reset(self) -> None:
        """After all rows are gone: an empty store, and a ledger that begins anew."""
        self.recordings.reset()
        self.store.make()
        self.ledger.reset()

    def stop(self) -> None:
        self.recordings.close()
