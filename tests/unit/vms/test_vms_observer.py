"""The observer's issues, word for word, and what it must not report (contract section 9)."""

from __future__ import annotations

import threading
import time

import pytest

from labyard.testing.waiting import PATIENCE, wait_until
from labyard.vms.adapters.hypervisor import EventKind, StrayProcess
from labyard.vms.observer import Issue, Observer

from .conftest import Lab
from .fakes import BOOM


def issues(lab: Lab) -> list[tuple[str, str, str]]:
    sweep = lab.manager.observer.check()
    assert sweep.error is None
    return [(issue.issue_type, issue.resource_id, issue.details) for issue in sweep.issues]


def test_a_healthy_lab_is_clean(lab: Lab) -> None:
    lab.make("on", running=True)
    lab.make("off")
    lab.disk()
    lab.manager.disks.attach(lab.disk(), "on")
    assert issues(lab) == []


@pytest.mark.parametrize(
    ("state", "desired", "active", "details"),
    [
        ("running", "running", False, "DB state is 'running' but QEMU process not found"),
        ("stopped", "stopped", True, "DB state is 'stopped' but QEMU process is running"),
        ("error", "running", True, "DB state is 'error' but QEMU process is running"),
        ("paused", None, True, "DB state is 'paused' but QEMU process is running"),
        (
            "error", "running", False,
            "VM should be running but QEMU process not found (stopped unexpectedly)",
        ),
        ("error", "stopped", False, None),
        ("error", None, False, None),
        ("stopped", "running", False, None),
        ("running", "stopped", True, None),
    ],
)  # fmt: skip
def test_states(lab: Lab, state: str, desired: str | None, active: bool, details: str | None) -> None:
    lab.make()
    lab.hypervisor.all["web"].active = active
    lab.sql("UPDATE vms SET state=:state, desired_state=:desired", state=state, desired=desired)
    assert issues(lab) == ([("vm_state_mismatch", "web", details)] if details else [])


@pytest.mark.parametrize("action", ["start", "restart", "delete"])
def test_a_killed_machine_is_reported_until_somebody_acts(lab: Lab, action: str) -> None:
    lab.make(running=True)
    lab.hypervisor.end("web", EventKind.FAILED)
    lab.until("error")
    text = "VM should be running but QEMU process not found (stopped unexpectedly)"
    for _ in range(2):
        assert issues(lab) == [("vm_state_mismatch", "web", text)]
    getattr(lab.manager.vms, action)("web")
    assert issues(lab) == []


def test_orphan_processes(lab: Lab) -> None:
    lab.make("known", running=True)
    lab.make("gone", running=True)
    lab.make("off")
    lab.sql("DELETE FROM leases")
    lab.sql("DELETE FROM vms WHERE id IN ('gone', 'off')")
    lab.hypervisor.stray = [StrayProcess("pid:77"), StrayProcess("known"), StrayProcess("gone")]
    text = "QEMU process running but VM not found in database"
    assert issues(lab) == [("orphan_process", "gone", text), ("orphan_process", "pid:77", text)]


def test_disks(lab: Lab) -> None:
    attached, available, missing = lab.disk(), lab.disk(), lab.disk()
    lab.make()
    lab.sql("UPDATE disks SET state='attached' WHERE id=:id", id=attached)
    lab.sql("UPDATE disks SET vm_id='web' WHERE id=:id", id=available)
    lab.sql("UPDATE disks SET state='attached' WHERE id=:id", id=missing)
    files = lab.manager.shared.files
    files.disk(missing).unlink()
    files.disk("stray").touch()
    assert sorted(issues(lab)) == sorted(
        [
            ("disk_state_inconsistent", attached, "Disk state is 'attached' but vm_id is None"),
            ("disk_state_inconsistent", available, "Disk state is 'available' but attached to VM web"),
            ("missing_disk", missing, f"Disk file not found: {files.disk(missing)}"),
            ("orphan_disk", "stray", f"Disk file exists but not found in database: {files.disk('stray')}"),
        ]
    )


def test_what_is_in_flight_is_left_out(lab: Lab) -> None:
    lab.make(running=True)
    disk = lab.disk()
    lab.hypervisor.all["web"].active = False
    lab.manager.shared.files.disk(disk).unlink()
    with lab.manager.shared.vm_locks.hold("web"), lab.manager.shared.disk_locks.hold(disk):
        assert issues(lab) == []
    assert len(issues(lab)) == 2


def test_nothing_false_while_disks_are_made(lab: Lab) -> None:
    stop = threading.Event()

    def make() -> None:
        while not stop.is_set():
            lab.manager.disks.delete(lab.disk())

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert issues(lab) == []
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_failed_sweep_never_looks_clean(lab: Lab) -> None:
    lab.make(running=True)
    lab.hypervisor.all["web"].active = False
    before = lab.manager.observer.check()
    lab.hypervisor.faults["domains"] = BOOM
    failed = lab.manager.observer.check()
    assert (failed.error, failed.issues) == ("boom failed: no reason", before.issues)
    lab.hypervisor.faults.clear()
    assert lab.manager.observer.check().error is None


class TestThread:
    def test_seen_once_is_somebodys_work(self) -> None:
        looks = iter([[Issue("a", "b", "c"), Issue("d", "e", "f")], [Issue("d", "e", "f")]])
        assert Observer(lambda: next(looks), 5).check().issues == [Issue("d", "e", "f")]

    def test_periodic(self) -> None:
        found: list[Issue] = []
        observer = Observer(lambda: found, 0.5)
        observer.start()
        observer.start()
        wait_until(lambda: observer.last, "a first sweep")
        found.append(Issue("a", "b", "c"))
        wait_until(lambda: observer.last and observer.last.issues, "a sweep finds it")
        observer.stop()
        observer.stop()
        assert observer.status == "stopped"
        observer.start()
        assert observer.status == "running"
        observer.stop()

    def test_sweeps_begin_on_the_interval_however_long_one_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        observer = Observer(lambda: time.sleep(0.1) or [], 0.5)
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            observer._stop.set()

        monkeypatch.setattr(observer._stop, "wait", wait)
        observer._run()
        assert 0 < waits[0] <= 0.4

    def test_a_check_makes_its_own_sweep(self) -> None:
        inside, go = threading.Event(), threading.Event()
        looks: list[int] = []

        def look() -> list[Issue]:
            looks.append(1)
            if len(looks) == 1:
                inside.set()
                assert go.wait(PATIENCE)
                return []
            return [Issue("a", "b", "c")]

        observer = Observer(look, 3600)
        observer.start()
        assert inside.wait(PATIENCE)
        threading.Timer(0.1, go.set).start()
        assert observer.check().issues == [Issue("a", "b", "c")]
        assert observer.sweeps == 2
        observer.stop()
