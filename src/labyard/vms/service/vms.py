"""Machines: create, list, start, stop, restart, delete (contract section 4.3)."""

from __future__ import annotations

import uuid

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from labyard.core.adapter import AdapterError
from labyard.core.database import Database
from labyard.vms.models import Disk, GuestMetadata, Lease, Template, Vm, VmState
from labyard.vms.schemas import VmCreate
from labyard.vms.service import macs
from labyard.vms.service.failures import Undo, failing_as, quietly, refused
from labyard.vms.service.lookups import template_of, vm_row
from labyard.vms.service.power import Power
from labyard.vms.service.shared import Shared

VmAndTemplate = tuple[Vm, Template | None]


class Vms:
    def __init__(self, shared: Shared, power: Power) -> None:
        self._shared = shared
        self._db: Database = shared.database
        self._power = power

    def list(self, state: str | None = None) -> list[VmAndTemplate]:
        query = select(Vm, Template).outerjoin(Template, Vm.template_name == Template.name)
        if state is not None:
            query = query.where(Vm.state == state)
        with self._db.read() as session:
            return [(vm, template) for vm, template in session.execute(query.order_by(Vm.created_at, Vm.id))]

    def get(self, vm_id: str) -> VmAndTemplate:
        with self._db.read() as session:
            vm = vm_row(session, vm_id)
            return vm, template_of(session, vm)

    def create(self, given: VmCreate) -> VmAndTemplate:
        """Folder, root disk, definition, row. A failure undoes all of it."""
        vm_id = given.name or str(uuid.uuid4())
        self._check_new(vm_id, given.template_name)
        with self._shared.vm_locks.hold(vm_id):
            template = self._check_new(vm_id, given.template_name)
            with failing_as("create VM"), Undo() as undo:
                vm = self._make(vm_id, template, undo)
                try:
                    with self._db.write() as session:
                        session.add(vm)
                except IntegrityError as error:
                    raise _lost(error) from error
                undo.done()
        return vm, template

    def start(self, vm_id: str) -> None:
        self.get(vm_id)
        with self._shared.vm_locks.hold(vm_id):
            vm, _ = self.get(vm_id)
            with failing_as("start VM"):
                active = self._shared.hypervisor.is_active(vm_id)
                if active and vm.state != VmState.RUNNING:
                    quietly(self._power.adopt, vm_id)
                if active or vm.state == VmState.RUNNING:
                    raise refused("VM is already running")
                self._power.on(vm_id)

    def stop(self, vm_id: str, force: bool = False) -> None:
        self.get(vm_id)
        with self._shared.vm_locks.hold(vm_id):
            vm, _ = self.get(vm_id)
            with failing_as("stop VM"):
                active = self._shared.hypervisor.is_active(vm_id)
                if not active and vm.state != VmState.RUNNING:
                    raise refused(f"VM is not running (current state: {vm.state})")
                self._off(vm_id, active, force)

    def restart(self, vm_id: str) -> None:
        """Decided by the hypervisor, not by the row: ends running, whatever was."""
        self.get(vm_id)
        with self._shared.vm_locks.hold(vm_id):
            self.get(vm_id)
            with failing_as("stop VM"):
                self._off(vm_id, self._shared.hypervisor.is_active(vm_id), force=False)
            with failing_as("start VM"):
                self._power.on(vm_id)

    def delete(self, vm_id: str) -> None:
        """Data disks become available, their files stay. The row stays when the domain could not be removed."""
        self.get(vm_id)
        with self._shared.vm_locks.hold(vm_id):
            self.get(vm_id)
            with failing_as("delete VM"):
                self._off(vm_id, self._shared.hypervisor.is_active(vm_id), force=True)
                self._shared.hypervisor.undefine(vm_id)
                # Others may have switched it on meanwhile; from now on they cannot.
                self._shared.hypervisor.destroy(vm_id)
                self._shared.files.remove_vm(vm_id)
            with self._db.write() as session:
                for disk in session.scalars(select(Disk).where(Disk.vm_id == vm_id)):
                    disk.free()
                session.flush()
                session.execute(delete(Lease).where(Lease.vm_id == vm_id))
                session.execute(delete(GuestMetadata).where(GuestMetadata.vm_id == vm_id))
                session.execute(delete(Vm).where(Vm.id == vm_id))

    # Inside

    def _off(self, vm_id: str, active: bool, force: bool) -> None:
        if active:
            self._power.off(vm_id, force)
        else:
            self._power.release(vm_id, state=VmState.STOPPED, desired_state=VmState.STOPPED, state_reason=None)

    def _check_new(self, vm_id: str, template_name: str) -> Template:
        with self._db.read() as session:
            template = session.get(Template, template_name)
            if template is None:
                raise refused("Template not found")
            if session.get(Vm, vm_id) is not None:
                raise refused("VM with this ID already exists")
            return template

    def _make(self, vm_id: str, template: Template, undo: Undo) -> Vm:
        """What belongs to the machine outside the database. `undo` learns each step before it is taken."""
        shared, files = self._shared, self._shared.files
        if shared.hypervisor.is_active(vm_id):
            raise AdapterError(f"define failed: a domain of VM {vm_id} is running without a record")
        shared.hypervisor.undefine(vm_id)
        if files.is_leftover(vm_id):
            files.remove_vm(vm_id)
        operators = files.vm(vm_id).exists()
        undo.step(files.disclaim if operators else files.remove_vm, vm_id)
        files.claim(vm_id)
        root = files.root(vm_id)
        if not root.exists():
            undo.step(root.unlink, True)
            shared.images.create_root(root)
        taken = shared.hypervisor.macs()
        with self._db.read() as session:
            mac = macs.new(session, taken)
        vm = Vm(
            id=vm_id,
            template_name=template.name,
            state=VmState.STOPPED,
            mac=mac,
            domain_uuid=str(uuid.uuid4()),
            desired_state=VmState.STOPPED,
            network_mode=shared.settings.network_mode,
        )
        # Others may switch it on, by Redfish for one, before we ever do.
        undo.step(files.seed(vm_id).unlink, True)
        self._power.write_seed(vm)
        undo.step(shared.hypervisor.undefine, vm_id)
        shared.hypervisor.define(self._power.spec(vm, template))
        return vm


def _lost(error: IntegrityError) -> Exception:
    """Another program was quicker: the same answers as when it had come first."""
    text = str(error.orig).lower()
    if "foreign key" in text:
        return refused("Template not found")
    if "mac" in text:
        return AdapterError("insert failed: the MAC address was given away meanwhile, try again")
    return refused("VM with this ID already exists")
