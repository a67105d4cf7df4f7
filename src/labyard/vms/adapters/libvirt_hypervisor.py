"""Machines as libvirt domains (contract section 5). libvirt owns every QEMU process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import libvirt

from labyard.core.adapter import AdapterError
from labyard.vms.adapters import accel, domain_xml, processes
from labyard.vms.adapters.hypervisor import (
    DomainEvent,
    DomainSeen,
    DomainSpec,
    Limits,
    StrayProcess,
)
from labyard.vms.adapters.libvirt_connection import SLOW, LibvirtConnection, asked, asked_monitor
from labyard.vms.adapters.libvirt_disks import LibvirtDisks
from labyard.vms.adapters.libvirt_domain import definition, disks_of, is_active, trouble
from labyard.vms.adapters.libvirt_events import Story
from labyard.vms.adapters.libvirt_network import has_mac_filter
from labyard.vms.adapters.libvirt_screen import screen_of

MEMINFO = Path("/proc/meminfo")
RECHECK_SECONDS = 0.5  # a look at libvirt itself, should an event have been lost
_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


@dataclass(frozen=True)
class HypervisorOptions:
    """Settings of section 2, by the names they have there without VMAN_."""

    storage_path: Path
    domain_prefix: str
    domain_type: str
    probe: accel.Probe
    network_mode: str
    network_name: str
    gateway: str
    observer_scope: str


class LibvirtHypervisor:
    """The `Hypervisor` of a real lab. A domain is ours by its name, prefix + VM id, or by our metadata element."""

    def __init__(self, connection: LibvirtConnection, options: HypervisorOptions) -> None:
        self.domain_type = ""
        self.domain_type_reason = ""
        self._connection = connection
        self._options = options
        self._host: domain_xml.DomainHost | None = None
        self._on_event: Callable[[DomainEvent], None] = lambda event: None
        self._story = Story()
        self._changed = threading.Condition()
        self._changes = 0
        self._disks = LibvirtDisks(connection)
        connection.on_event(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle)

    def open(self, on_event: Callable[[DomainEvent], None], on_reconnect: Callable[[], None] = lambda: None) -> None:
        """Connect, find out the domain type, and watch. `on_event` and `on_reconnect` are called in threads of ours and
        must only queue; after `on_reconnect` everything is to be reconciled, since events were missed.
        AdapterError when libvirt is not there, or `kvm` is demanded and is not."""
        self._on_event = on_event
        self._connection.open(on_reconnect)
        try:
            self._resolve()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def ping(self) -> None:
        with asked("virConnectGetLibVersion"):
            self._connection.get().getLibVersion()

    def limits(self) -> Limits:
        # libvirt's own node information is too low on some hosts.
        total = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemTotal:"))
        return Limits(int(total.split()[1]) // 1024, accel.max_vcpus(self._connection.get(), self.domain_type))

    def domains(self) -> Mapping[str, DomainSeen]:
        return {vm_id: seen for vm_id, seen, _ in self._ours()}

    def macs(self) -> frozenset[str]:
        """The MAC addresses of all domains of this libvirt, ours or not, in lower case."""
        return frozenset(mac for _, _, seen in self._all() for mac in seen.macs)

    def is_active(self, vm_id: str) -> bool:
        domain = self._find(vm_id)
        return domain is not None and is_active(domain)

    def define(self, spec: DomainSpec) -> None:
        domain = self._find(spec.vm_id)
        if domain is not None and domain.UUIDString() != spec.uuid:
            # A leftover of an earlier machine of this name.
            if is_active(domain):
                raise AdapterError(f"virDomainDefineXML failed: another domain {domain.name()} is running")
            self.undefine(spec.vm_id)
            domain = None
        if domain is not None:
            stored = definition(domain, stored=True)
            if domain_xml.read(stored).config == domain_xml.config_hash(spec, self._made_for):
                changed = domain_xml.with_disks(stored, spec.disks)
                if changed is not None:
                    self._define(changed)
                return
        self._define(domain_xml.build(spec, self._made_for))

    def start(self, vm_id: str) -> None:
        with SLOW, asked("virDomainCreate"):
            # FORCE_BOOT: a start is a boot, never the return of a saved state whose disks have changed meanwhile.
            self._get(vm_id).createWithFlags(libvirt.VIR_DOMAIN_START_FORCE_BOOT)

    def shutdown(self, vm_id: str) -> None:
        domain = self._get(vm_id)
        asked_monitor("virDomainShutdown", lambda: domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))

    def destroy(self, vm_id: str) -> None:
        domain = self._find(vm_id)
        if domain is None or not is_active(domain):
            return
        try:
            with SLOW, asked("virDomainDestroy"):
                domain.destroy()
        except AdapterError:
            if self.is_active(vm_id):
                raise

    def wait_inactive(self, vm_id: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            seen = self._changes
            if not self.is_active(vm_id):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                if self._changes == seen:
                    self._changed.wait(min(left, RECHECK_SECONDS))

    def undefine(self, vm_id: str) -> None:
        domain = self._find(vm_id)
        if domain is not None:
            with asked("virDomainUndefine"):
                domain.undefineFlags(_UNDEFINE)

    def screenshot(self, vm_id: str) -> bytes:
        return screen_of(self._connection.get(), self._get(vm_id))

    def attach(self, vm_id: str, disk_id: str, path: Path) -> str:
        return self._disks.attach(self._get(vm_id), disk_id, path)

    def detach(self, vm_id: str, disk_id: str, seconds: float) -> None:
        domain = self._find(vm_id)
        if domain is not None:
            self._disks.detach(domain, disk_id, seconds)

    def disks(self, vm_id: str) -> Mapping[str, str]:
        return disks_of(self._get(vm_id))

    def trouble(self, vm_id: str) -> str:
        domain = self._find(vm_id)
        return "" if domain is None else trouble(domain)

    def strays(self, known: frozenset[str]) -> list[StrayProcess]:
        """QEMU processes that libvirt does not own, in the scope of the search."""
        search = processes.Search(self._options.domain_prefix, self._options.storage_path, self._options.observer_scope)
        with asked("virConnectListAllDomains"):
            active = self._connection.get().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        found = processes.stray_ids(search, {domain.UUIDString() for domain in active})
        return [StrayProcess(resource_id) for resource_id in sorted(found - known)]

    @property
    def _made_for(self) -> domain_xml.DomainHost:
        if self._host is None:
            raise AdapterError("virConnectOpen failed: the hypervisor is not open")
        return self._host

    def _resolve(self) -> None:
        options, connection = self._options, self._connection.get()
        found = accel.resolve(connection, options.domain_type, options.probe, options.storage_path)
        self.domain_type, self.domain_type_reason = found.domain_type, found.reason
        self._host = domain_xml.DomainHost(
            prefix=options.domain_prefix,
            domain_type=found.domain_type,
            cpu_mode=found.cpu_mode,
            network_mode=options.network_mode,
            network_name=options.network_name,
            gateway=options.gateway,
            ip_mac_filter=has_mac_filter(connection),
        )

    def _lifecycle(self, _: libvirt.virConnect, domain: libvirt.virDomain, event: int, detail: int, __: object) -> None:
        name = str(domain.name())
        if not name.startswith(self._options.domain_prefix):
            return
        meaning = self._story.read(domain.UUIDString(), event, detail)
        if meaning is not None:
            self._on_event(DomainEvent(name.removeprefix(self._options.domain_prefix), *meaning))
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _define(self, xml: str) -> None:
        with asked("virDomainDefineXML"):
            self._connection.get().defineXML(xml)

    def _find(self, vm_id: str) -> libvirt.virDomain | None:
        connection = self._connection.get()
        try:
            return connection.lookupByName(self._options.domain_prefix + vm_id)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise AdapterError(f"virDomainLookupByName failed: {error}") from error

    def _get(self, vm_id: str) -> libvirt.virDomain:
        domain = self._find(vm_id)
        if domain is None:
            raise AdapterError(f"virDomainLookupByName failed: no domain {self._options.domain_prefix}{vm_id}")
        return domain

    def _all(self) -> Iterator[tuple[str, DomainSeen, domain_xml.DomainRead]]:
        """All domains of this libvirt, with their names."""
        with asked("virConnectListAllDomains"):
            listed = self._connection.get().listAllDomains()
        for domain in listed:
            try:
                read = domain_xml.read(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    continue  # gone since the list was made
                raise AdapterError(f"virDomainGetXMLDesc failed: {error}") from error
            # The list tells what runs: only what runs has a number.
            yield domain.name(), DomainSeen(read.vm_id, domain.UUIDString(), domain.ID() != -1), read

    def _ours(self) -> Iterator[tuple[str, DomainSeen, domain_xml.DomainRead]]:
        """All domains of ours, with their VM ids."""
        prefix, storage = self._options.domain_prefix, f"{self._options.storage_path}/"
        for name, seen, read in self._all():
            if not read.vm_id:
                if name.startswith(prefix):
                    yield name.removeprefix(prefix), DomainSeen(name.removeprefix(prefix), seen.uuid, seen.active), read
            # Another service's domains carry the element too, and its prefix may begin with ours.
            elif name == prefix + read.vm_id or any(file.startswith(storage) for file in read.files):
                yield read.vm_id, seen, read
