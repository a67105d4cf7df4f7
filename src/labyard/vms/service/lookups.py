"""Questions that several use cases ask of the database."""

from __future__ import annotations

from sqlalchemy.orm import Session

from labyard.core.errors import not_found
from labyard.vms.models import Disk, Template, Vm
from labyard.vms.names import is_id


def vm_row(session: Session, vm_id: str) -> Vm:
    """404 when there is none, or when its id is none that this service gives: nothing may be done with it."""
    vm = session.get(Vm, vm_id) if is_id(vm_id) else None
    if vm is None:
        raise not_found("VM not found")
    return vm


def disk_row(session: Session, disk_id: str) -> Disk:
    """404 as for `vm_row`."""
    disk = session.get(Disk, disk_id) if is_id(disk_id) else None
    if disk is None:
        raise not_found("Disk not found")
    return disk


def template_of(session: Session, vm: Vm) -> Template | None:
    return session.get(Template, vm.template_name) if vm.template_name is not None else None
