"""The adapters that the settings ask for. libvirt's library is imported only where it is used."""

from __future__ import annotations

from dataclasses import dataclass

from labyard.core.database import Database
from labyard.vms.adapters.hypervisor import Hypervisor
from labyard.vms.adapters.images import Images
from labyard.vms.adapters.network import LabNetwork
from labyard.vms.adapters.seed import SeedImages, Seeds
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
    return _libvirt(settings)


def _libvirt(settings: Settings) -> Adapters:
    from labyard.vms.adapters.accel import Probe
    from labyard.vms.adapters.libvirt_connection import LibvirtConnection
    from labyard.vms.adapters.libvirt_hypervisor import HypervisorOptions, LibvirtHypervisor
    from labyard.vms.adapters.libvirt_network import LibvirtNetwork, NetworkOptions
    from labyard.vms.adapters.qemu_img import ImageOptions, QemuImages

    connection = LibvirtConnection(settings.libvirt_uri)
    hypervisor = HypervisorOptions(
        storage_path=settings.storage_path,
        domain_prefix=settings.domain_prefix,
        domain_type=settings.domain_type,
        probe=Probe(settings.probe_kernel, settings.probe_initrd, settings.probe_timeout),
        network_mode=settings.network_mode,
        network_name=settings.network_name,
        gateway=str(settings.gateway_ip),
        observer_scope=settings.observer_scope,
    )
    network = NetworkOptions(
        mode=settings.network_mode,
        name=settings.network_name,
        bridge=settings.bridge_name,
        subnet=settings.subnet,
        gateway=settings.gateway_ip,
        dns=tuple(settings.dns_servers),
        metadata_ip=str(settings.metadata_bind_ip) if settings.metadata_bind_ip.is_link_local else "",
    )
    images = ImageOptions(settings.default_boot_disk, settings.root_disk_size, settings.root_disk_clone)
    return Adapters(
        LibvirtHypervisor(connection, hypervisor), LibvirtNetwork(connection, network), QemuImages(images), SeedImages()
    )
