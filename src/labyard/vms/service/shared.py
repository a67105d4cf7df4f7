"""What the use cases share."""

from __future__ import annotations

from dataclasses import dataclass

from labyard.core.database import Database
from labyard.core.locks import KeyLocks
from labyard.vms.adapters.hypervisor import Hypervisor
from labyard.vms.adapters.images import Images
from labyard.vms.adapters.network import LabNetwork
from labyard.vms.adapters.seed import Seeds
from labyard.vms.service.desk import Desk
from labyard.vms.service.files import Files
from labyard.vms.settings import Settings


@dataclass(frozen=True)
class Shared:
    """One of each for the whole service. Who needs both locks takes the machine's first, then the disk's."""

    database: Database
    settings: Settings
    hypervisor: Hypervisor
    network: LabNetwork
    images: Images
    seeds: Seeds
    files: Files
    vm_locks: KeyLocks[str]
    disk_locks: KeyLocks[str]
    desk: Desk
