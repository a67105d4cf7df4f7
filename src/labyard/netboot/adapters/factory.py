"""The adapters that the settings ask for. Only these are imported: a host has no need of the others' libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labyard.netboot.adapters.dhcp import DhcpBackend
from labyard.netboot.adapters.disks import DiskBackend
from labyard.netboot.adapters.iscsi import IscsiBackend
from labyard.netboot.adapters.power import PowerBackend
from labyard.netboot.settings import Settings

if TYPE_CHECKING:
    from labyard.netboot.adapters.tftp import Scripts


@dataclass(frozen=True)
class Adapters:
    """All that the service touches of the world."""

    disks: DiskBackend
    iscsi: IscsiBackend
    dhcp: DhcpBackend
    scripts: Scripts
    power: PowerBackend


def make_adapters(settings: Settings) -> Adapters:
    """Starts nothing and asks no daemon. ValueError for faults that name no verb of a fake."""
    from labyard.netboot.adapters.tftp import Scripts

    return Adapters(_disks(settings), _iscsi(settings), _dhcp(settings), Scripts(settings), _power(settings))


def _disks(settings: Settings) -> DiskBackend:
    if settings.export_backend == "fake":
        from labyard.netboot.adapters.fake import FakeDisks

        return FakeDisks(settings)
    from labyard.netboot.adapters.overlays import Overlays

    return Overlays(settings.overlay_dir, settings.export_socket, settings.step_timeout_seconds * 0.8)


def _iscsi(settings: Settings) -> IscsiBackend:
    if settings.iscsi_backend == "fake":
        from labyard.netboot.adapters.fake import FakeIscsi

        return FakeIscsi(settings)
    if settings.iscsi_backend == "lio":
        from labyard.netboot.adapters.lio import Lio

        return Lio(settings)
    from labyard.netboot.adapters.tgt import Tgt

    return Tgt(settings)


def _dhcp(settings: Settings) -> DhcpBackend:
    if settings.dhcp_backend == "fake":
        from labyard.netboot.adapters.fake import FakeDhcp

        return FakeDhcp(settings)
    if settings.dhcp_backend == "isc":
        from labyard.netboot.adapters.isc import Isc

        return Isc(settings)
    from labyard.netboot.adapters.kea import Kea

    return Kea(settings)


def _power(settings: Settings) -> PowerBackend:
    if settings.power_backend == "fake":
        from labyard.netboot.adapters.fake import FakePower

        return FakePower(settings)
    from labyard.netboot.adapters.redfish import RedfishPower

    return RedfishPower(settings.power_timeout_seconds)
