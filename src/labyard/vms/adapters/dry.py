"""Dry run (contract section 10): nothing behind the rows. A machine is on when its row says so, so switching one off
is writing its row; and nothing is ever seen that a row does not say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from sqlalchemy import select, update

from labyard.core.adapter import AdapterError
from labyard.core.database import Database
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
from labyard.vms.models import Disk, DiskState, Vm, VmState
from labyard.vms.names import TARGETS
from labyard.vms.settings import Settings

MIB = 1024 * 1024
MAX_VCPUS = 255


class DryHypervisor:
    def __init__(self, settings: Settings, database: Database) -> None:
        self.domain_type = "kvm" if settings.domain_type == "kvm" else "qemu"
        self.domain_type_reason = "dry run"
        self._db = database
        self._on_event: Callable[[DomainEvent], None] = lambda event: None

    def open(self, on_event: Callable[[DomainEvent], None], on_reconnect: Callable[[], None]) -> None:
        self._on_event = on_event

    def close(self) -> None:
        self._on_event = lambda event: None

    def ping(self) -> None: ...

    def limits(self) -> Limits:
        return Limits(psutil.virtual_memory().total // MIB, MAX_VCPUS)

    def domains(self) -> Mapping[str, DomainSeen]:
        return {}

    def macs(self) -> frozenset[str]:
        return frozenset()

    def is_active(self, vm_id: str) -> bool:
        with self._db.read() as session:
            return session.scalar(select(Vm.state).where(Vm.id == vm_id)) == VmState.RUNNING

    def define(self, spec: DomainSpec) -> None: ...

    def start(self, vm_id: str) -> None:
        """The service writes the row next, with the address: so nobody sees a running machine without one."""
        self._on_event(DomainEvent(vm_id, EventKind.STARTED))

    def shutdown(self, vm_id: str) -> None:
        self.destroy(vm_id)

    def destroy(self, vm_id: str) -> None:
        if self.is_active(vm_id):
            off = {"state": VmState.STOPPED, "last_ip": Vm.local_ip, "local_ip": None}
            with self._db.write() as session:
                session.execute(update(Vm).where(Vm.id == vm_id).values(off))
            self._on_event(DomainEvent(vm_id, EventKind.STOPPED))

    def wait_inactive(self, vm_id: str, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.is_active(vm_id):
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        return True

    def undefine(self, vm_id: str) -> None: ...

    def screenshot(self, vm_id: str) -> bytes:
        raise AdapterError("screenshot failed: a machine of a dry run has no screen")

    def attach(self, vm_id: str, disk_id: str, path: Path) -> str:
        taken = set(self.disks(vm_id).values())
        free = next((target for target in TARGETS if target not in taken), None)
        if free is None:
            raise AdapterError("attachDevice failed: no free target, sda to sdw are in use")
        return free

    def detach(self, vm_id: str, disk_id: str, seconds: float) -> None: ...

    def disks(self, vm_id: str) -> Mapping[str, str]:
        with self._db.read() as session:
            rows = session.scalars(select(Disk).where(Disk.vm_id == vm_id, Disk.state == DiskState.ATTACHED))
            return {disk.id: disk.target or "" for disk in rows}

    def trouble(self, vm_id: str) -> str:
        return ""

    def strays(self, known: frozenset[str]) -> list[StrayProcess]:
        return []


class DryNetwork:
    vlan_applied = False
    ip_mac_filter = False

    def ensure(self) -> None: ...

    def reserve(self, ip: str, mac: str, name: str) -> None: ...

    def release(self, ip: str, mac: str) -> None: ...

    def leases(self) -> Mapping[str, Lease]:
        return {}


class DryImages:
    def create(self, path: Path, size_gib: int) -> None: ...

    def create_root(self, path: Path) -> None: ...


class DrySeeds:
    def write(self, path: Path, seed: Seed) -> None: ...
