"""The use cases, in the words of the contract: one file per kind of thing. `Desktops` is all of them, joined."""

from __future__ import annotations

from collections.abc import Callable

from labyard.core.clock import now
from labyard.core.database import Database
from labyard.desktops.adapters.agent import Agents, NoAgents
from labyard.desktops.adapters.live import Live
from labyard.desktops.adapters.settlement import Settlement
from labyard.desktops.authority import Authority
from labyard.desktops.keyring import Keyring
from labyard.desktops.service.auth import Auth
from labyard.desktops.service.enrolment import Enrolment
from labyard.desktops.service.idempotency import Idempotency
from labyard.desktops.service.node_life import NodeLife
from labyard.desktops.service.nodes import Nodes
from labyard.desktops.service.operational import OperationalRecords
from labyard.desktops.service.own_poot import OwnPoot
from labyard.desktops.service.payouts import Payouts
from labyard.desktops.service.pools import Pools
from labyard.desktops.service.poots import Poots
from labyard.desktops.service.rdp import RdpServers
from labyard.desktops.service.rdp_usage import ServerUsage
from labyard.desktops.service.rdp_watch import RdpWatch
from labyard.desktops.service.samples import ensure_partitions
from labyard.desktops.service.sessions import SessionService
from labyard.desktops.service.sessions.servers import SessionServers
from labyard.desktops.service.shared import Shared
from labyard.desktops.service.upkeep import Upkeep
from labyard.desktops.service.usage import NodeUsage
from labyard.desktops.service.users import Users
from labyard.desktops.service.validation import Validation
from labyard.desktops.service.watch import Watch
from labyard.desktops.service.withdrawals import Withdrawals
from labyard.desktops.settings import Settings

__all__ = ["Desktops"]


class Desktops:
    """The service without its HTTP side. Without `agents` no node hosts anything; without `settlement` no
    withdrawal is carried out beyond the books."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        live: Live,
        agents: Agents | None = None,
        settlement: Settlement | None = None,
    ) -> None:
        self.settings = settings
        self.database = database
        self.live = live
        keyring = Keyring(settings.keys / "key-encryption.json")
        self.shared = Shared(settings, database, live, keyring, agents or NoAgents())
        self.auth = Auth(settings, database, live)
        self.users = Users(database, self.auth)
        self.idempotency = Idempotency(database)
        self.pools = Pools(database)
        self.node_usage = NodeUsage(self.shared)
        self.nodes = Nodes(self.shared, self.node_usage)
        self.enrolment = Enrolment(database, Authority(settings.keys))
        self.poots = Poots(self.shared)
        self.validation = Validation(self.shared)
        self.operational_records = OperationalRecords(database)
        self.payouts = Payouts(self.shared)
        self.withdrawals = Withdrawals(self.shared, settlement)
        self.rdp_usage = ServerUsage(self.shared)
        self.rdp = RdpServers(self.shared, self.rdp_usage)
        self.node_life = NodeLife(self.shared, self.node_usage, self.rdp.drain)
        self.own_poot = OwnPoot(self.shared, self.node_life, self.poots)
        self.rdp_watch = RdpWatch(self.shared, self.rdp, self.rdp_usage)
        self.sessions = SessionService(self.shared, SessionServers(self.rdp, settings), self.own_poot.submit)
        # What each part seals with the keyring, and what must be there even when all else is gone.
        self.upkeep = Upkeep(
            self.shared,
            [self.rdp.rewrap, self.sessions.rewrap],
            [self.pools.ensure, self.nodes.forget_local, self.nodes.register_local, self.sessions.reset],
        )
        tidy: list[Callable[[], object]] = [
            self.auth.tidy, self.idempotency.tidy, self.poots.tidy, self.node_life.tidy, self.own_poot.hourly,
            self.rdp_usage.tidy, self.sessions.retention.sweep, self.sessions.recordings.reconcile,
            self.sessions.scrub.sweep,
        ]  # fmt: skip
        self.watch = Watch(
            self.shared, self.node_life, self.node_usage, tidy, [self.nodes.register_local, self.rdp_watch.once]
        )

    def start(self) -> None:
        """Begin the background work."""
        self.auth.load()
        self.pools.ensure()
        with self.database.transaction() as session:
            ensure_partitions(session, now())
        self.node_life.mend()
        self.nodes.register_local()
        self.rdp_watch.mend()
        self.withdrawals.resume()
        self.sessions.start()
        self.watch.start()

    def stop(self) -> None:
        self.watch.stop()
        self.sessions.stop()
        self.rdp_watch.stop()
        self.live.close()
