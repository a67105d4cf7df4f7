"""The adapters that the settings ask for. libvirt's library is imported only where it is used."""

from __future__ import annotations

from dataclasses import dataclass

from labyard.core.database import Database
from labyard.vms.adapters.hypervisor import Hypervisor
from labyard.vms.adapters.images import Images
from labyard.vms.adapters.network import LabNetwork
from labyard.vms.adapters.seed import Seeds
from labyard.vms.settings import Settings


@dataclass(frozen=True)
class Adapters:
    """All that the service touches of the world."""

    hypervisor: Hypervisor
    network: LabNetwork
    images: Images
    seeds: Seeds


def make_adapters(settings: Settings, database: Database) -> Adapters:
    """Starts nothing and asks no daemon."""
    if settings.dry_run:
        from labyard.vms.adapters.dry import DryHypervisor, DryImages, DryNetwork, DrySeeds

        return Adapters(DryHypervisor(settings, database), DryNetwork(), DryImages(), DrySeeds())
    raise NotImplementedError
