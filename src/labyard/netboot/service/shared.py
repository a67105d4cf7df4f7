"""What the use cases share."""

from __future__ import annotations

from dataclasses import dataclass

from labyard.core.database import Database
from labyard.core.locks import KeyLocks
from labyard.netboot.metrics import Metrics
from labyard.netboot.service.power import Power
from labyard.netboot.service.provision import Provision
from labyard.netboot.service.reservations import Reservations
from labyard.netboot.settings import Settings


@dataclass(frozen=True)
class Shared:
    """One of each for the whole service. The daemons are `provision.adapters`."""

    database: Database
    settings: Settings
    provision: Provision
    reservations: Reservations
    metrics: Metrics
    locks: KeyLocks[int]  # by machine; between processes the database decides
    power: Power
