"""A hypervisor, a network and an image tool in memory. `faults` by verb: what it raises instead of doing its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.vms.adapters.hypervisor import (
    DomainEvent,
    DomainSeen,
    DomainSpec,
    EventKind,
    Limits,
    StrayProcess,
)
from labyard.vms.adapters.network import Lease
from labyard.vms.adapters.seed import Seed
from labyard.vms.names import TARGETS


@dataclass
class Domain:
    spec: DomainSpec
    active: bool = False
    transient: bool = False
    disks: dict[str, str] = field(default_factory=dict)  # disk id: target


class Faulty:
    def __init__(self) -> None:
        self.faults: dict[str, Exception] = {}

    def _verb(self, name: str) -> None:
        if name in self.faults:
            raise self.faults[name]


class FakeHypervisor(Faulty):
    domain_type = "qemu"
    domain_type_reason = "fake"

    def __init__(self) -> None:
        super().__init__()
        self.all: dict[str, Domain] = {}
        self.deaf = False  # guests that do not listen to ACPI
        self.against = ""  # what is the matter with machines
        self.stray: list[StrayProcess] = []
        self.boots: list[str] = []
        self.picture = b"P6 2 1 255\n" + bytes([255, 0, 0, 0, 0, 255])  # a red pixel and a blue one, as PPM
        self._on_event: Callable[[DomainEvent], None] = lambda event: None
        self.reconnected: Callable[[], None] = lambda: None

    # What others do to machines

    def power_on(self, vm_id: str) -> None:
        self.all[vm_id].active = True
        self.boots.append(vm_id)
        self._on_event(DomainEvent(vm_id, EventKind.STARTED))

    def end(self, vm_id: str, kind: EventKind, detail: str = "") -> None:
        self.all[vm_id].active = False
        if self.all[vm_id].transient:
            del self.all[vm_id]
        self._on_event(DomainEvent(vm_id, kind, detail))

    def tell(self, vm_id: str, kind: EventKind) -> None:
        """An event that is late: nothing happens now."""
        self._on_event(DomainEvent(vm_id, kind))

    # The protocol

    def open(self, on_event: Callable[[DomainEvent], None], on_reconnect: Callable[[], None]) -> None:
        self._on_event, self.reconnected = on_event, on_reconnect

    def close(self) -> None: ...

    def ping(self) -> None:
        self._verb("ping")

    def limits(self) -> Limits:
        self._verb("limits")
        return Limits(memory_mib=4096, vcpus=8)

    def domains(self) -> Mapping[str, DomainSeen]:
        self._verb("domains")
        return {key: DomainSeen(key, domain.spec.uuid, domain.active) for key, domain in self.all.items()}

    def macs(self) -> frozenset[str]:
        self._verb("macs")
        return frozenset(domain.spec.mac for domain in self.all.values())

    def is_active(self, vm_id: str) -> bool:
        self._verb("is_active")
        return vm_id in self.all and self.all[vm_id].active

    def define(self, spec: DomainSpec) -> None:
        self._verb("define")
        domain = self.all.setdefault(spec.vm_id, Domain(spec))
        domain.spec = spec
        domain.disks = {disk.disk_id: disk.target for disk in spec.disks}

    def start(self, vm_id: str) -> None:
        self._verb("start")
        self.power_on(vm_id)
        self._verb("after start")

    def shutdown(self, vm_id: str) -> None:
        self._verb("shutdown")
        if not self.deaf:
            self.end(vm_id, EventKind.STOPPED, "guest powered off")

    def destroy(self, vm_id: str) -> None:
        self._verb("destroy")
        if vm_id in self.all and self.all[vm_id].active:
            self.end(vm_id, EventKind.STOPPED, "destroyed")

    def wait_inactive(self, vm_id: str, seconds: float) -> bool:
        return not self.all[vm_id].active

    def undefine(self, vm_id: str) -> None:
        self._verb("undefine")
        domain = self.all.get(vm_id)
        if domain is not None and domain.active:  # it runs on, and is gone when it ends
            domain.transient = True
        elif domain is not None:
            del self.all[vm_id]

    def screenshot(self, vm_id: str) -> bytes:
        self._verb("screenshot")
        return self.picture

    def attach(self, vm_id: str, disk_id: str, path: Path) -> str:
        self._verb("attach")
        disks = self.all[vm_id].disks
        disks[disk_id] = next(target for target in TARGETS if target not in disks.values())
        return disks[disk_id]

    def detach(self, vm_id: str, disk_id: str, seconds: float) -> None:
        self._verb("detach")
        if vm_id in self.all:
            self.all[vm_id].disks.pop(disk_id, None)

    def disks(self, vm_id: str) -> Mapping[str, str]:
        self._verb("disks")
        return dict(self.all[vm_id].disks)

    def trouble(self, vm_id: str) -> str:
        self._verb("trouble")
        return self.against

    def strays(self, known: frozenset[str]) -> list[StrayProcess]:
        self._verb("strays")
        return [stray for stray in self.stray if stray.resource_id not in known]


class FakeNetwork(Faulty):
    vlan_applied = False
    ip_mac_filter = True

    def __init__(self) -> None:
        super().__init__()
        self.reserved: dict[str, str] = {}
        self.given: dict[str, str] = {}  # leases at the DHCP server

    def ensure(self) -> None:
        self._verb("ensure")

    def reserve(self, ip: str, mac: str, name: str) -> None:
        self._verb("reserve")
        self.reserved[ip] = mac
        self.given[ip] = mac

    def release(self, ip: str, mac: str) -> None:
        self._verb("release")
        self.reserved.pop(ip, None)
        self.given.pop(ip, None)

    def leases(self) -> Mapping[str, Lease]:
        self._verb("leases")
        return {ip: Lease(ip, mac) for ip, mac in self.given.items()}


class FakeImages(Faulty):
    def create(self, path: Path, size_gib: int) -> None:
        self._verb("create")
        path.write_text(f"{size_gib} GiB")

    def create_root(self, path: Path) -> None:
        self._verb("create_root")
        path.write_text("root")


class FakeSeeds(Faulty):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[Seed] = []

    def write(self, path: Path, seed: Seed) -> None:
        self._verb("write")
        self.written.append(seed)


BOOM = AdapterError("boom failed: no reason")
