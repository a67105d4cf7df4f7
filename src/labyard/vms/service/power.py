"""Switching machines on and off, and what becomes of their rows and addresses (contract sections 4.3 and 5.4).

Everything here is called with the machine's lock held.
"""

from __future__ import annotations

import uuid
from typing import Any

import structlog
from sqlalchemy import select

from labyard.core.adapter import AdapterError
from labyard.core.database import Database
from labyard.vms.adapters.hypervisor import DataDisk, DomainSpec
from labyard.vms.adapters.seed import Seed
from labyard.vms.models import Disk, DiskState, GuestMetadata, Lease, Template, Vm, VmState
from labyard.vms.names import TARGETS, is_id
from labyard.vms.service import macs
from labyard.vms.service.addresses import Addresses
from labyard.vms.service.desk import Listening
from labyard.vms.service.failures import EXPECTED, quietly, reason
from labyard.vms.service.files import Files
from labyard.vms.service.lookups import template_of
from labyard.vms.service.shared import Shared

log = structlog.get_logger(__name__)


class Power:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._db: Database = shared.database
        self._files: Files = shared.files
        self._addresses = Addresses(shared)

    def on(self, vm_id: str) -> None:
        """Start a machine that is off. On failure it is off, has no address, and its row says `error` and why."""
        with self._shared.desk.listen(vm_id) as listening:
            try:
                self._on(vm_id, listening)
            except BaseException as error:
                log.warning("start failed", vm=vm_id, error=reason(error))
                self._give_up(vm_id, listening, reason(error) if isinstance(error, EXPECTED) else "Internal error")
                raise

    def off(self, vm_id: str, force: bool) -> None:
        """Stop a machine that is on: by ACPI first, unless forced. Returns when it is off and its address is free.

        When it cannot be switched off, its row becomes `error` only if the hypervisor knows something against it.
        """
        hypervisor = self._shared.hypervisor
        with self._shared.desk.listen(vm_id) as listening:
            try:
                if force or not self._shut_down(vm_id):
                    hypervisor.destroy(vm_id)
                    if hypervisor.is_active(vm_id):
                        raise AdapterError("destroy failed: the domain is still active")
            except AdapterError:
                quietly(self._note_trouble, vm_id)
                raise
            listening.wait_end()
            self.release(vm_id, state=VmState.STOPPED, desired_state=VmState.STOPPED, state_reason=None)

    def release(self, vm_id: str, **record: str | None) -> bool:
        """The single release path: when the domain is off, free its address, and put `record` into its row.

        False, and nothing done, when the domain is active (again). AdapterError when the address could not be freed;
        the row is written all the same, and the lease stays on record.
        """
        if self._shared.hypervisor.is_active(vm_id):
            return False
        with self._db.read() as session:
            lease = session.scalar(select(Lease).where(Lease.vm_id == vm_id))
        failure: AdapterError | None = None
        if lease is not None:
            try:
                self._addresses.give_back(lease)
            except AdapterError as error:
                failure = error
        with self._db.write() as session:
            if lease is not None and failure is None:
                found = session.get(Lease, lease.ip)
                if found is not None and found.vm_id == vm_id:
                    session.delete(found)
            vm = session.get(Vm, vm_id)
            if vm is not None:
                vm.last_ip = vm.local_ip or (lease.ip if lease else vm.last_ip)
                vm.local_ip = None
                _write(vm, record)
        if failure is not None:
            raise failure
        return True

    def adopt(self, vm_id: str) -> None:
        """Make the row of an active machine say so, with an address. AdapterError when there is none to be had; the
        row says `running` then too."""
        record: dict[str, str | None] = {"state": VmState.RUNNING, "desired_state": VmState.RUNNING}
        failure: AdapterError | None = None
        try:
            record["local_ip"] = self._addresses.acquire(vm_id)
        except AdapterError as error:
            failure = error
        self._record(vm_id, record | {"state_reason": None})
        if failure is not None:
            raise failure

    def spec(self, vm: Vm, template: Template, disks: tuple[DataDisk, ...] = ()) -> DomainSpec:
        assert vm.domain_uuid is not None and vm.mac is not None
        return DomainSpec(
            vm_id=vm.id,
            uuid=vm.domain_uuid,
            mac=vm.mac,
            memory_mib=template.ram_amount,
            vcpus=template.cpu_count,
            root=self._files.root(vm.id),
            seed=self._files.seed(vm.id),
            console=self._files.console(vm.id),
            disks=disks,
        )

    def write_seed(self, vm: Vm) -> None:
        """What the guest is told at its next boot. OSError."""
        self._shared.seeds.write(self._files.seed(vm.id), self._seed(vm))

    # Inside

    def _on(self, vm_id: str, listening: Listening) -> None:
        shared = self._shared
        vm, template = self._identified(vm_id)
        self._files.claim(vm_id)
        if not self._files.root(vm_id).exists():
            shared.images.create_root(self._files.root(vm_id))
        self._admit(template)
        shared.hypervisor.define(self.spec(vm, template, self._data_disks(vm_id)))
        self.write_seed(vm)
        ip = self._addresses.acquire(vm_id)
        shared.hypervisor.start(vm_id)
        listening.wait_start()
        with self._db.write() as session:
            running: dict[str, str | None] = {"state": VmState.RUNNING, "desired_state": VmState.RUNNING}
            _write(session.get_one(Vm, vm_id), running | {"state_reason": None, "local_ip": ip})

    def _identified(self, vm_id: str) -> tuple[Vm, Template]:
        """The row, with what a row of another program may lack."""
        with self._db.read() as session:
            lacks_mac = session.get_one(Vm, vm_id).mac is None
        # Asks about every domain, and waits for each that is being started or stopped.
        taken = self._shared.hypervisor.macs() if lacks_mac else frozenset()
        with self._db.write() as session:
            vm = session.get_one(Vm, vm_id)
            template = template_of(session, vm)
            if template is None:
                raise AdapterError(f"define failed: VM {vm_id} has no template")
            vm.domain_uuid = vm.domain_uuid or str(uuid.uuid4())
            vm.mac = vm.mac or macs.new(session, taken)
            vm.network_mode = self._shared.settings.network_mode
        return vm, template

    def _admit(self, template: Template) -> None:
        limits = self._shared.hypervisor.limits()
        for what, unit, needed, there in (
            ("memory", " MiB", template.ram_amount, limits.memory_mib),
            ("CPUs", "", template.cpu_count, limits.vcpus),
        ):
            if needed > there:
                raise AdapterError(
                    f"admission failed: insufficient host {what}: needs {needed}{unit}, the host has {there}{unit}"
                )

    def _data_disks(self, vm_id: str) -> tuple[DataDisk, ...]:
        """The disks that the rows say the machine has, each with a target of its own."""
        with self._db.write() as session:
            rows = session.scalars(
                select(Disk).where(Disk.vm_id == vm_id, Disk.state == DiskState.ATTACHED).order_by(Disk.target, Disk.id)
            )
            disks = [disk for disk in rows if is_id(disk.id)]
            free = [target for target in TARGETS if target not in {disk.target for disk in disks}]
            used: set[str] = set()
            for disk in disks:
                if disk.target not in TARGETS or disk.target in used:
                    if not free:
                        raise AdapterError(f"define failed: VM {vm_id} has more than {len(TARGETS)} data disks")
                    disk.target = free.pop(0)
                used.add(disk.target)
            return tuple(DataDisk(disk.id, self._files.disk(disk.id), str(disk.target)) for disk in disks)

    def _seed(self, vm: Vm) -> Seed:
        with self._db.read() as session:
            stored = session.get(GuestMetadata, vm.id)
        return Seed(
            vm_id=vm.id,
            mac=str(vm.mac),
            hostname=(stored and stored.hostname) or vm.id,
            ssh_keys=keys_of(stored),
            user_data=(stored and stored.user_data) or None,
        )

    def _shut_down(self, vm_id: str) -> bool:
        """Ask the guest, and wait. Whether it went off: a hypervisor that refuses to ask is no reason to give up."""
        try:
            self._shared.hypervisor.shutdown(vm_id)
        except AdapterError as error:
            log.info("the guest could not be asked to power off", vm=vm_id, error=str(error))
            return False
        return self._shared.hypervisor.wait_inactive(vm_id, self._shared.settings.stop_timeout)

    def _note_trouble(self, vm_id: str) -> None:
        if why := self._shared.hypervisor.trouble(vm_id):
            self._record(vm_id, {"state": VmState.ERROR, "state_reason": why})

    def _give_up(self, vm_id: str, listening: Listening, why: str) -> None:
        quietly(self._destroy_if_active, vm_id, listening)
        record: dict[str, str | None] = {"state": VmState.ERROR, "state_reason": why}
        released = False
        try:
            released = self.release(vm_id, **record)
        except Exception:
            log.exception("could not release what a failed start took", vm=vm_id)
        if not released:
            quietly(self._record, vm_id, record)
        listening.forget()

    def _destroy_if_active(self, vm_id: str, listening: Listening) -> None:
        if self._shared.hypervisor.is_active(vm_id):
            listening.forget()
            self._shared.hypervisor.destroy(vm_id)
            listening.wait_end()

    def _record(self, vm_id: str, record: dict[str, str | None]) -> None:
        with self._db.write() as session:
            vm = session.get(Vm, vm_id)
            if vm is not None:
                _write(vm, record)


def keys_of(stored: GuestMetadata | None) -> tuple[str, ...]:
    """The SSH keys, one each, without empty lines."""
    lines = ((stored and stored.ssh_keys) or "").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _write(vm: Vm, record: dict[str, Any]) -> None:
    for field, value in record.items():
        setattr(vm, field, value)
