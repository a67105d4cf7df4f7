"""Mending what the observer found, when told to (contract section 9; the mending is ours).

Records are brought into line with what is there, and machines that should run are started. Nothing that may hold data,
and no process, is ever removed: orphans and missing files are left for a person to decide.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from labyard.core.errors import ServiceError
from labyard.vms.models import Disk, Vm, VmState
from labyard.vms.names import is_id
from labyard.vms.observer import Issue, disk_inconsistency, vm_mismatch
from labyard.vms.service.disks import Disks
from labyard.vms.service.failures import EXPECTED, reason
from labyard.vms.service.power import Power
from labyard.vms.service.shared import Shared

log = structlog.get_logger(__name__)


class Repairs:
    def __init__(self, shared: Shared, power: Power, disks: Disks) -> None:
        self._shared = shared
        self._db = shared.database
        self._power = power
        self._disks = disks
        self._ways = {"vm_state_mismatch": self._vm, "disk_state_inconsistent": self._disk}

    def mend(self, issues: Iterable[Issue]) -> list[Issue]:
        """Those that were mended. One that could not be does not keep the others."""
        return [issue for issue in issues if self._mend(issue)]

    def _mend(self, issue: Issue) -> bool:
        way = self._ways.get(issue.issue_type)
        if way is None or not is_id(issue.resource_id):
            return False
        try:
            mended = way(issue.resource_id)
        except (*EXPECTED, ServiceError) as error:
            log.warning("could not mend", issue=issue.issue_type, of=issue.resource_id, error=reason(error))
            return False
        if mended:
            log.info("mended", issue=issue.issue_type, of=issue.resource_id)
        return mended

    def _vm(self, vm_id: str) -> bool:
        """A machine that runs is adopted; one that should run is started; else the record says that it is off."""
        with self._shared.vm_locks.hold(vm_id):
            with self._db.read() as session:
                vm = session.get(Vm, vm_id)
            active = self._shared.hypervisor.is_active(vm_id)
            if vm is None or not vm_mismatch(vm, active):
                return False  # it has settled meanwhile
            if active:
                self._power.adopt(vm_id)
            elif vm.desired_state == VmState.RUNNING:
                self._power.release(vm_id)
                self._power.on(vm_id)
            else:
                self._power.release(vm_id, state=VmState.STOPPED, desired_state=VmState.STOPPED, state_reason=None)
        return True

    def _disk(self, disk_id: str) -> bool:
        """The record says which machine really has the disk, or that none has it."""
        holder = self._holder(disk_id)
        with self._disks.locked(holder[0] if holder else None, disk_id), self._db.write() as session:
            disk = session.get(Disk, disk_id)
            if disk is None or not disk_inconsistency(disk):
                return False
            if holder:
                disk.plug(*holder)
            else:
                disk.free()
        return True

    def _holder(self, disk_id: str) -> tuple[str, str] | None:
        """The running machine that has the disk, and at which target."""
        hypervisor = self._shared.hypervisor
        for vm_id, seen in hypervisor.domains().items():
            if seen.active and (target := hypervisor.disks(vm_id).get(disk_id)):
                return vm_id, target
        return None
