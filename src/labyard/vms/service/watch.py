"""What happens to machines behind the service's back, brought into their rows (contract section 5.4)."""

from __future__ import annotations

import structlog
from sqlalchemy import or_, select

from labyard.core.database import Database
from labyard.core.locks import FOREVER
from labyard.vms.adapters.hypervisor import DomainEvent, EventKind
from labyard.vms.models import Disk, DiskState, Lease, Vm, VmState
from labyard.vms.names import is_id
from labyard.vms.service.power import Power
from labyard.vms.service.shared import Shared

log = structlog.get_logger(__name__)

SERVICE_START = "not running after service start"
RECONNECT = "not running after the connection to the hypervisor was lost"


class Watch:
    def __init__(self, shared: Shared, power: Power) -> None:
        self._shared = shared
        self._db: Database = shared.database
        self._power = power

    def handle(self, event: DomainEvent) -> None:
        """An event says that something happened; what is true now is asked of the hypervisor."""
        # Every operation ends, and the event may not be lost.
        with self._shared.vm_locks.hold(event.vm_id, FOREVER):
            vm = self._row(event.vm_id)
            if vm is None:
                return
            if event.kind is EventKind.STARTED:
                if self._shared.hypervisor.is_active(vm.id) and not self._is_coherent(vm):
                    log.info("a machine was started by others", vm=vm.id)
                    self._power.adopt(vm.id)
            elif self._power.release(vm.id, **_record(vm, event)):
                log.info("a machine ended", vm=vm.id, how=event.kind, detail=event.detail)

    def reconcile(self, reason: str) -> None:
        """Bring all rows into line with the hypervisor: active machines are adopted, with the addresses and disks they
        have; those that should run and do not become `error`. One machine's failure does not keep the others."""
        with self._db.read() as session:
            vm_ids = [vm_id for vm_id in session.scalars(select(Vm.id)) if is_id(vm_id)]
        for vm_id in vm_ids:
            try:
                self._reconcile(vm_id, reason)
            except Exception:
                log.exception("could not reconcile", vm=vm_id)

    def _reconcile(self, vm_id: str, reason: str) -> None:
        with self._shared.vm_locks.hold(vm_id, FOREVER):
            vm = self._row(vm_id)
            if vm is None:
                return
            if self._shared.hypervisor.is_active(vm_id):
                self._reconcile_disks(vm_id)
                self._power.adopt(vm_id)
            elif vm.state == VmState.RUNNING:
                self._power.release(vm_id, state=VmState.ERROR, state_reason=reason)
            else:
                self._power.release(vm_id)

    def _reconcile_disks(self, vm_id: str) -> None:
        """What an active machine has is attached, what it lacks is not: an operation may have been cut off, or the
        machine was changed by others."""
        there = self._shared.hypervisor.disks(vm_id)
        with self._db.write() as session:
            for disk in session.scalars(select(Disk).where(or_(Disk.vm_id == vm_id, Disk.id.in_(there)))):
                recorded = disk.state == DiskState.ATTACHED and disk.vm_id == vm_id
                if disk.id in there and not recorded:
                    log.warning("a disk is plugged in without a record of it", vm=vm_id, disk=disk.id)
                    disk.plug(vm_id, there[disk.id])
                elif disk.id not in there and recorded:
                    log.warning("a disk on record is not plugged in", vm=vm_id, disk=disk.id)
                    disk.free()

    def _row(self, vm_id: str) -> Vm | None:
        with self._db.read() as session:
            return session.get(Vm, vm_id) if is_id(vm_id) else None

    def _is_coherent(self, vm: Vm) -> bool:
        """Whether the row already says what a start by ourselves would have written."""
        with self._db.read() as session:
            ip = session.scalar(select(Lease.ip).where(Lease.vm_id == vm.id))
        leased = not self._shared.settings.leased or ip is not None
        return vm.state == vm.desired_state == VmState.RUNNING and vm.local_ip == ip and leased


def _record(vm: Vm, event: DomainEvent) -> dict[str, str | None]:
    """What the end of a machine makes of its row."""
    if event.kind is EventKind.STOPPED:
        return {"state": VmState.STOPPED, "desired_state": VmState.STOPPED, "state_reason": None}
    if vm.state == VmState.RUNNING:
        return {"state": VmState.ERROR, "state_reason": event.detail or "QEMU ended unexpectedly"}
    return {}  # an operation has recorded the end already
