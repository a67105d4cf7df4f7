"""Data disks that are plugged into running domains and out of them (contract section 5.3)."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt

from labyard.core.adapter import AdapterError
from labyard.vms.adapters import domain_xml
from labyard.vms.adapters.hypervisor import DataDisk
from labyard.vms.adapters.libvirt_connection import LibvirtConnection, asked, asked_monitor
from labyard.vms.adapters.libvirt_domain import is_active, read
from labyard.vms.names import TARGETS

LEFTOVER_SECONDS = 5.0
RECHECK_SECONDS = 0.5  # a look at the domain itself, should an event have been lost
_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_STORED = libvirt.VIR_DOMAIN_AFFECT_CONFIG


class LibvirtDisks:
    """Plugs disks in and out; knows who waits for which device to go."""

    def __init__(self, connection: LibvirtConnection) -> None:
        self._removals: dict[tuple[str, str], queue.SimpleQueue[bool]] = {}
        connection.on_event(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._tell, True)
        connection.on_event(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, self._tell, False)

    def attach(self, domain: libvirt.virDomain, disk_id: str, path: Path) -> str:
        """See `Hypervisor.attach`."""
        live, stored = read(domain), read(domain, stored=True)
        if disk_id in live.disks or disk_id in stored.disks:
            # An earlier attach that its caller could not record, nor undo.
            self.detach(domain, disk_id, LEFTOVER_SECONDS)
            live, stored = read(domain), read(domain, stored=True)
        target = next((name for name in TARGETS if name not in live.targets | stored.targets), None)
        if target is None:
            raise AdapterError(f"no free target for a disk on {domain.name()}: sda to sdw are taken")
        disk = DataDisk(disk_id, path, target)
        xml = domain_xml.disk_xml(disk)
        try:
            asked_monitor(
                "virDomainAttachDevice",
                lambda: domain.attachDeviceFlags(xml, _LIVE | _STORED),
                undo=lambda: domain.detachDeviceFlags(xml, _LIVE | _STORED),
            )
        except AdapterError:
            for where in (_LIVE, _STORED):
                _forget(domain, disk, where)
            raise
        return target

    def detach(self, domain: libvirt.virDomain, disk_id: str, seconds: float) -> None:
        """See `Hypervisor.detach`."""
        # First the running domain: while it still has the disk, so must the stored definition.
        if is_active(domain):
            self._unplug(domain, disk_id, seconds)
        disk = read(domain, stored=True).disks.get(disk_id)
        if disk is not None:
            with asked("virDomainDetachDevice"):
                domain.detachDeviceFlags(domain_xml.disk_xml(disk), _STORED)

    def _unplug(self, domain: libvirt.virDomain, disk_id: str, seconds: float) -> None:
        live = read(domain)
        if disk_id not in live.disks:
            return
        deadline = time.monotonic() + seconds
        with self._removal(domain, live.aliases[disk_id]) as told:
            xml = domain_xml.disk_xml(live.disks[disk_id])
            asked_monitor("virDomainDetachDevice", lambda: domain.detachDeviceFlags(xml, _LIVE), seconds=seconds)
            while True:
                try:
                    gone = told.get(timeout=max(0.0, min(RECHECK_SECONDS, deadline - time.monotonic())))
                except queue.Empty:
                    gone = None
                if gone is False:
                    raise AdapterError("virDomainDetachDevice failed: the guest refused to let the disk go")
                if gone or not is_active(domain) or disk_id not in read(domain).disks:
                    return
                if time.monotonic() >= deadline:
                    raise AdapterError(f"virDomainDetachDevice failed: the disk was not gone within {seconds:g} s")

    @contextmanager
    def _removal(self, domain: libvirt.virDomain, alias: str) -> Iterator[queue.SimpleQueue[bool]]:
        """What libvirt tells of the removal of this device, from now on."""
        key = (domain.UUIDString(), alias)
        self._removals[key] = queue.SimpleQueue()
        try:
            yield self._removals[key]
        finally:
            del self._removals[key]

    def _tell(self, _: libvirt.virConnect, domain: libvirt.virDomain, alias: str, gone: bool) -> None:
        waiting = self._removals.get((domain.UUIDString(), alias))
        if waiting is not None:
            waiting.put(gone)


def _forget(domain: libvirt.virDomain, disk: DataDisk, where: int) -> None:
    """After a failed attach: take away what it may have left. The attach's own error is the one to tell."""
    try:
        if disk.disk_id in read(domain, stored=where == _STORED).disks:
            domain.detachDeviceFlags(domain_xml.disk_xml(disk), where)
    except (AdapterError, libvirt.libvirtError):
        return
