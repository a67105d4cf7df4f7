"""The whole service without its HTTP side."""

from __future__ import annotations

import fcntl
import threading
from contextlib import ExitStack
from pathlib import Path

import structlog
from sqlalchemy import make_url

from labyard.core.adapter import AdapterError
from labyard.core.database import Database
from labyard.core.locks import KeyLocks
from labyard.vms.adapters.factory import Adapters, make_adapters
from labyard.vms.metadata_server import MetadataServer
from labyard.vms.observer import Looker, Observer
from labyard.vms.service.console import Consoles
from labyard.vms.service.desk import Desk
from labyard.vms.service.disks import Disks
from labyard.vms.service.files import Files
from labyard.vms.service.metadata import Metadata
from labyard.vms.service.network import Network
from labyard.vms.service.power import Power
from labyard.vms.service.repairs import Repairs
from labyard.vms.service.screens import Screens
from labyard.vms.service.shared import Shared
from labyard.vms.service.templates import Templates
from labyard.vms.service.vms import Vms
from labyard.vms.service.watch import RECONNECT, SERVICE_START, Watch
from labyard.vms.settings import Settings

log = structlog.get_logger(__name__)

BUSY_TIMEOUT = 5000  # milliseconds
PATIENCE = 60.0  # seconds that an operation waits for the one before it
# Seconds before each look after the connection came back: a libvirt that was started again takes machines for running
# until it has tried to reach them, and does not tell of those it gives up.
SETTLING = (0.0, 2.0, 10.0)


class VmManager:
    """All use cases, joined. With `adapters`, or those that the settings name."""

    def __init__(self, settings: Settings, adapters: Adapters | None = None, database: Database | None = None) -> None:
        self.settings = settings
        self.database = database or Database(settings.db_url, BUSY_TIMEOUT)
        found = adapters or make_adapters(settings, self.database)
        self.shared = shared = Shared(
            database=self.database,
            settings=settings,
            hypervisor=found.hypervisor,
            network=found.network,
            images=found.images,
            seeds=found.seeds,
            files=Files(settings),
            vm_locks=KeyLocks("VM", PATIENCE),
            disk_locks=KeyLocks("Disk", PATIENCE),
            desk=Desk(),
        )
        power = Power(shared)
        self.templates = Templates(self.database)
        self.vms = Vms(shared, power)
        self.disks = Disks(shared)
        self.metadata = Metadata(self.database)
        self.consoles = Consoles(self.database, shared.files)
        self.screens = Screens(shared)
        self.network = Network(shared)
        self.watch = Watch(shared, power)
        self.repairs = Repairs(shared, power, self.disks)
        self.observer = Observer(Looker(shared).look, settings.observer_interval)
        self.metadata_server = MetadataServer(
            (str(settings.metadata_bind_ip), settings.metadata_port), self.metadata.guest_at
        )
        shared.desk.handle = self.watch.handle
        self._running = ExitStack()
        self._stopping = threading.Event()

    @property
    def domain_type(self) -> str:
        """`qemu` or `kvm`, as resolved."""
        return self.shared.hypervisor.domain_type

    def start(self) -> None:
        """Take the storage, connect, bring rows into line with what runs, and begin to watch.

        RuntimeError when another instance has the storage; AdapterError when the hypervisor is not there.
        """
        with ExitStack() as opened:
            self.settings.storage_path.mkdir(parents=True, exist_ok=True)
            opened.enter_context(exclusive(self.settings.storage_path / ".lock"))
            self.shared.files.prepare()
            self._hide_database()
            self.database.migrate("labyard.vms")
            opened.callback(self.database.close)
            opened.callback(self.shared.desk.close)
            self.shared.hypervisor.open(self.shared.desk.put, self._reconnected)
            opened.callback(self.shared.hypervisor.close)
            try:
                self.network.ensure()
            except AdapterError as error:
                log.error("the lab network is unusable: machines cannot start", error=str(error))
            self.watch.reconcile(SERVICE_START)
            self.observer.start()
            opened.callback(self.observer.stop)
            if self.settings.metadata_enabled and not self.settings.dry_run:
                self.metadata_server.start()
                opened.callback(self.metadata_server.stop)
            self._running = opened.pop_all()

    def stop(self) -> None:
        self._stopping.set()
        self._running.close()

    def _hide_database(self) -> None:
        """An SQLite file is for its owner only: user data may hold secrets, and the folder is open to QEMU."""
        address = make_url(self.settings.db_url)
        if address.get_backend_name() == "sqlite" and address.database:
            Path(address.database).touch(mode=0o600)

    def _reconnected(self) -> None:
        threading.Thread(target=self._reconcile, name="reconcile", daemon=True).start()

    def _reconcile(self) -> None:
        for pause in SETTLING:
            if self._stopping.wait(pause):
                return
            self.watch.reconcile(RECONNECT)


def exclusive(path: Path) -> ExitStack:
    """Hold the lock on a storage folder. The kernel lets go of it when the process ends, however it ends."""
    held = ExitStack()
    file = held.enter_context(path.open("a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise RuntimeError(
            f"Another labyard.vms uses the storage {path.parent}; stop it, or set VMAN_STORAGE_PATH to another folder"
        ) from None
    return held
