"""What this service compares: rows with domains, processes and files (contract section 9). It repairs nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select

from labyard.core.adapter import AdapterError
from labyard.core.clock import now
from labyard.vms.models import Disk, DiskState, Vm, VmState
from labyard.vms.names import is_id
from labyard.vms.service.shared import Shared

log = structlog.get_logger(__name__)

BETWEEN_LOOKS = 0.2  # seconds
STOP_TIMEOUT = 5.0


@dataclass(frozen=True, order=True)
class Issue:
    issue_type: str
    resource_id: str
    details: str


@dataclass(frozen=True)
class Sweep:
    """`error` when the look failed: then `issues` are those of the sweep before."""

    issues: list[Issue]
    started_at: datetime
    finished_at: datetime
    error: str | None


class Observer:
    """Sweeps on an interval (seconds) and on request, one sweep at a time. `look` is called twice in a sweep: what is
    seen once only was somebody's work in progress."""

    def __init__(self, look: Callable[[], Iterable[Issue]], interval: float) -> None:
        self.interval = interval
        self.sweeps = 0
        self.last: Sweep | None = None
        self._look = look
        self._sweeping = threading.Lock()
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> str:
        if self._thread is not None and self._thread.is_alive():
            return "running"
        return "stopped" if self._thread is not None or self.last is not None else "not_initialized"

    def check(self) -> Sweep:
        """Sweep now. Waits for one in progress and then makes its own."""
        with self._sweeping:
            started = now()
            issues, error = self.last.issues if self.last else [], None
            try:
                issues = self._twice()
            except AdapterError as failure:
                log.error("observer could not look", error=str(failure))
                error = str(failure)
            except Exception as failure:
                log.exception("observer could not look")
                error = str(failure) or type(failure).__name__
            if issues and (self.last is None or issues != self.last.issues):
                log.warning("observer found issues", issues=[f"{i.issue_type} {i.resource_id}" for i in issues])
            self.last = Sweep(issues, started, now(), error)
            self.sweeps += 1
            return self.last

    def start(self) -> None:
        with self._guard:
            if self._thread is None or not self._thread.is_alive():
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        with self._guard:
            self._stop.set()
            if self._thread is not None:
                self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.check()
            # From the start of one to the start of the next, so that what a sweep just missed is not late.
            self._stop.wait(max(BETWEEN_LOOKS, began + self.interval - time.monotonic()))

    def _twice(self) -> list[Issue]:
        first = set(self._look())
        if not first:
            return []
        time.sleep(BETWEEN_LOOKS)
        return sorted(first.intersection(self._look()))


class Looker:
    """One look at everything. Machines and disks with an operation in flight are left out."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def look(self) -> Iterator[Issue]:
        busy_vms, busy_disks = self._shared.vm_locks.busy(), self._shared.disk_locks.busy()
        with self._shared.database.read() as session:
            vms = list(session.scalars(select(Vm)))
            disks = list(session.scalars(select(Disk)))
        for issue in self._vms(vms):
            if issue.resource_id not in busy_vms:
                yield issue
        for issue in self._disks(disks):
            if issue.resource_id not in busy_disks:
                yield issue

    def _vms(self, vms: list[Vm]) -> Iterator[Issue]:
        hypervisor = self._shared.hypervisor
        known = frozenset(vm.id for vm in vms)
        active = {vm_id for vm_id, domain in hypervisor.domains().items() if domain.active}
        for vm in vms:
            if details := vm_mismatch(vm, vm.id in active):
                yield Issue("vm_state_mismatch", vm.id, details)
        orphans = (active - known) | {stray.resource_id for stray in hypervisor.strays(known)}
        for resource_id in orphans:
            yield Issue("orphan_process", resource_id, "QEMU process running but VM not found in database")

    def _disks(self, disks: list[Disk]) -> Iterator[Issue]:
        files = self._shared.files.disks()
        for disk in disks:
            # The id of another program's row is no path: its file counts as missing.
            if not is_id(disk.id) or disk.id not in files:
                path = self._shared.settings.disks_dir / f"{disk.id}.qcow2"
                yield Issue("missing_disk", disk.id, f"Disk file not found: {path}")
            elif details := disk_inconsistency(disk):
                yield Issue("disk_state_inconsistent", disk.id, details)
        for disk_id in files.keys() - {disk.id for disk in disks}:
            yield Issue("orphan_disk", disk_id, f"Disk file exists but not found in database: {files[disk_id]}")


def vm_mismatch(vm: Vm, active: bool) -> str:
    """How a machine's row and its domain differ, or nothing."""
    if vm.state == VmState.RUNNING:
        return "" if active else "DB state is 'running' but QEMU process not found"
    if active:
        return f"DB state is '{vm.state}' but QEMU process is running"
    if vm.state == VmState.ERROR and vm.desired_state == VmState.RUNNING:
        return "VM should be running but QEMU process not found (stopped unexpectedly)"
    return ""


def disk_inconsistency(disk: Disk) -> str:
    """How a disk's row contradicts itself, or nothing."""
    if disk.state == DiskState.ATTACHED and not disk.vm_id:
        return "Disk state is 'attached' but vm_id is None"
    if disk.state == DiskState.AVAILABLE and disk.vm_id:
        return f"Disk state is 'available' but attached to VM {disk.vm_id}"
    return ""
