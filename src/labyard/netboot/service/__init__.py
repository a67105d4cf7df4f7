"""The use cases, in the words of the contract: one file per kind of thing. `Netboot` is all of them, joined."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry

from labyard.core.database import Database
from labyard.core.locks import KeyLocks
from labyard.core.observer import Observer
from labyard.core.secretbox import SecretBox
from labyard.netboot import names
from labyard.netboot.adapters.factory import Adapters
from labyard.netboot.adapters.ipxe import generate_generic_script
from labyard.netboot.metrics import Metrics, Standing
from labyard.netboot.observer import NetbootObserver
from labyard.netboot.service.boot import Boots
from labyard.netboot.service.images import Images
from labyard.netboot.service.machines import Machines
from labyard.netboot.service.network import Network
from labyard.netboot.service.power import Power
from labyard.netboot.service.provision import Provision
from labyard.netboot.service.reservations import Reservations
from labyard.netboot.service.sessions import Sessions
from labyard.netboot.service.shared import Shared
from labyard.netboot.service.start import Starts
from labyard.netboot.service.stop import Stops
from labyard.netboot.service.targets import Targets
from labyard.netboot.service.watch import Watch
from labyard.netboot.settings import Settings

__all__ = ["Netboot"]


class Netboot:
    """The service without its HTTP side."""

    names = names

    def __init__(self, settings: Settings, database: Database, adapters: Adapters, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.database = database
        self.metrics = Metrics(registry)
        registry.register(Standing(database))
        self.box = SecretBox(settings.secret_key.get_secret_value())
        self.provision = Provision(settings, adapters, self.box)
        self.reservations = Reservations(database, settings, adapters.dhcp)
        power = Power(settings, adapters.power, self.box)
        shared = Shared(database, settings, self.provision, self.reservations, self.metrics, KeyLocks(), power)
        self.machines = Machines(database, settings, self.box)
        self.images = Images(database, settings)
        self.boots = Boots(database)
        self.targets = Targets(shared)
        self.sessions = Sessions(shared)
        self.stops = Stops(shared, self.sessions)
        self.starts = Starts(shared, self.stops)
        self.network = Network(shared)
        self.watch = Watch(shared, self.boots, self.stops)
        look = NetbootObserver(shared, self.sessions, self.stops).look
        self.observer = Observer(look, settings.observer_interval_seconds)
        self.stopping = threading.Event()

    def start(self) -> None:
        """Begin the background work: the observer's first look mends what a crash left."""
        self.settings.overlay_dir.mkdir(parents=True, exist_ok=True)
        self.provision.adapters.scripts.prepare(generate_generic_script())
        self.images.start()
        self.observer.start()
        self.watch.start()

    def stop(self) -> None:
        self.stopping.set()
        self.watch.stop()
        self.observer.stop()
        self.images.close()
