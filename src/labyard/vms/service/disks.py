"""Data disks: create, plug in and out, delete (contract section 4.3)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select

from labyard.core.database import Database
from labyard.core.errors import conflict
from labyard.vms.models import Disk, DiskState
from labyard.vms.names import is_id
from labyard.vms.schemas import DiskCreate
from labyard.vms.service.failures import Undo, failing_as, refused
from labyard.vms.service.lookups import disk_row, vm_row
from labyard.vms.service.shared import Shared


class Disks:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._db: Database = shared.database

    def list(self) -> list[Disk]:
        with self._db.read() as session:
            return list(session.scalars(select(Disk).order_by(Disk.created_at, Disk.id)))

    def get(self, disk_id: str) -> Disk:
        with self._db.read() as session:
            return disk_row(session, disk_id)

    def create(self, given: DiskCreate) -> Disk:
        disk_id = self._new_id()
        path = self._shared.files.disk(disk_id)
        with self._shared.disk_locks.hold(disk_id), failing_as("create disk"), Undo() as undo:
            undo.step(path.unlink, True)
            self._shared.images.create(path, given.size)
            disk = Disk(id=disk_id, size=given.size, mount_point=given.mount_point, state=DiskState.AVAILABLE)
            with self._db.write() as session:
                session.add(disk)
            undo.done()
        return disk

    def attach(self, disk_id: str, vm_id: str | None) -> None:
        """Plug the disk into a running machine. The row follows when it is really there."""
        if not vm_id:
            raise refused("vm_id is required")
        self._check_attach(disk_id, vm_id)
        with self._shared.vm_locks.hold(vm_id), self._shared.disk_locks.hold(disk_id):
            self._check_attach(disk_id, vm_id)
            with failing_as("attach disk"):
                if not self._shared.hypervisor.is_active(vm_id):
                    raise refused("VM must be running to attach disk")
                target = self._shared.hypervisor.attach(vm_id, disk_id, self._shared.files.disk(disk_id))
                with Undo() as undo:
                    undo.step(self._unplug, vm_id, disk_id)
                    with self._db.write() as session:
                        disk_row(session, disk_id).plug(vm_id, target)
                    undo.done()

    def detach(self, disk_id: str) -> None:
        """Unplug the disk. The row follows when it is really gone."""
        vm_id = self._attached_to(disk_id)
        with self.locked(vm_id, disk_id):
            if self._attached_to(disk_id) != vm_id:
                raise conflict("VM is busy with another operation")
            with failing_as("detach disk"):
                self._unplug(vm_id, disk_id)
            with self._db.write() as session:
                disk_row(session, disk_id).free()

    def delete(self, disk_id: str) -> None:
        """Row and file; a file that is gone already is fine. 400 while it is in a machine that is on."""
        disk = self.get(disk_id)
        with self.locked(disk.vm_id, disk_id):
            now = self.get(disk_id)
            if now.vm_id != disk.vm_id:
                raise conflict("VM is busy with another operation")
            with failing_as("delete disk"):
                if now.state == DiskState.ATTACHED:
                    self._take_from_stopped(now)
                self._shared.files.disk(disk_id).unlink(missing_ok=True)
            with self._db.write() as session:
                found = session.get(Disk, disk_id)
                if found is not None:
                    session.delete(found)

    @contextmanager
    def locked(self, vm_id: str | None, disk_id: str) -> Iterator[None]:
        """The machine's lock, when there is one, and then the disk's."""
        if vm_id is None:
            with self._shared.disk_locks.hold(disk_id):
                yield
        else:
            with self._shared.vm_locks.hold(vm_id), self._shared.disk_locks.hold(disk_id):
                yield

    # Inside

    def _new_id(self) -> str:
        while True:
            disk_id = str(uuid.uuid4())
            with self._db.read() as session:
                taken = session.get(Disk, disk_id) is not None
            if not taken and not self._shared.files.disk(disk_id).exists():
                return disk_id

    def _check_attach(self, disk_id: str, vm_id: str) -> None:
        with self._db.read() as session:
            if disk_row(session, disk_id).state == DiskState.ATTACHED:
                raise refused("Disk is already attached")
            vm_row(session, vm_id)

    def _attached_to(self, disk_id: str) -> str:
        disk = self.get(disk_id)
        if disk.state != DiskState.ATTACHED:
            raise refused("Disk is not attached")
        if disk.vm_id is None:
            raise refused("Disk has no associated VM")
        return disk.vm_id

    def _take_from_stopped(self, disk: Disk) -> None:
        if disk.vm_id is None or (is_id(disk.vm_id) and self._shared.hypervisor.is_active(disk.vm_id)):
            raise refused("Cannot delete attached disk. Detach it first.")
        self._unplug(disk.vm_id, disk.id)

    def _unplug(self, vm_id: str, disk_id: str) -> None:
        if is_id(vm_id):  # no domain ever had another id
            self._shared.hypervisor.detach(vm_id, disk_id, self._shared.settings.detach_timeout)
