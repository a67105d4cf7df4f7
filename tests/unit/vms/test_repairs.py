"""Mending what the observer found."""

from __future__ import annotations

from labyard.vms.adapters.hypervisor import EventKind
from labyard.vms.observer import Issue

from .conftest import Lab
from .fakes import BOOM


def mend(lab: Lab) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """What was mended, and what is left, as type and resource."""
    mended = lab.manager.repairs.mend(lab.manager.observer.check().issues)
    return _named(mended), _named(lab.manager.observer.check().issues)


def _named(issues: list[Issue]) -> set[tuple[str, str]]:
    return {(issue.issue_type, issue.resource_id) for issue in issues}


def test_a_machine_that_was_killed_is_started_again(lab: Lab) -> None:
    lab.make(running=True)
    lab.hypervisor.end("web", EventKind.FAILED, "QEMU process ended unexpectedly")
    lab.until("error")
    assert mend(lab) == ({("vm_state_mismatch", "web")}, set())
    assert lab.row().state == "running" and lab.hypervisor.is_active("web")


def test_a_record_that_wrongly_says_running_says_stopped(lab: Lab) -> None:
    lab.make()
    lab.sql("UPDATE vms SET state = 'running', local_ip = '192.168.100.5'")
    assert mend(lab) == ({("vm_state_mismatch", "web")}, set())
    assert (lab.row().state, lab.row().local_ip) == ("stopped", None) and not lab.hypervisor.is_active("web")


def test_a_machine_that_runs_against_its_record_is_adopted(lab: Lab) -> None:
    lab.make(running=True)
    lab.sql("UPDATE vms SET state = 'stopped', desired_state = 'stopped'")
    assert mend(lab) == ({("vm_state_mismatch", "web")}, set())
    assert (lab.row().state, lab.row().local_ip) == ("running", "192.168.100.2")


def test_a_start_that_fails_is_left_and_keeps_no_other(lab: Lab) -> None:
    lab.make("a", running=True)
    lab.make("b", running=True)
    lab.sql("UPDATE vms SET state = 'stopped', desired_state = 'stopped' WHERE id = 'b'")
    lab.hypervisor.end("a", EventKind.FAILED, "QEMU process ended unexpectedly")
    lab.until("error", "a")
    lab.hypervisor.faults["start"] = BOOM
    assert mend(lab) == ({("vm_state_mismatch", "b")}, {("vm_state_mismatch", "a")})
    assert lab.row("a").state == "error" and lab.row("b").state == "running"


def test_disks_are_recorded_where_they_are(lab: Lab) -> None:
    lab.make(running=True)
    loose, plugged, forgotten = lab.disk(), lab.disk(), lab.disk()
    for disk in (plugged, forgotten):
        lab.manager.disks.attach(disk, "web")
    target = lab.disk_row(forgotten).target
    lab.sql("UPDATE disks SET state = 'attached' WHERE id = :disk", disk=loose)
    lab.sql("UPDATE disks SET state = 'available' WHERE id = :disk", disk=plugged)
    lab.sql("UPDATE disks SET vm_id = NULL, target = NULL WHERE id = :disk", disk=forgotten)
    mended, left = mend(lab)
    assert mended == {("disk_state_inconsistent", disk) for disk in (loose, plugged, forgotten)} and left == set()
    assert (lab.disk_row(loose).state, lab.disk_row(loose).vm_id) == ("available", None)
    for disk in (plugged, forgotten):
        assert (lab.disk_row(disk).state, lab.disk_row(disk).vm_id) == ("attached", "web")
    assert lab.disk_row(forgotten).target == target


def test_nothing_is_removed(lab: Lab) -> None:
    gone = lab.disk()
    files = lab.manager.shared.files
    files.disk(gone).unlink(missing_ok=True)
    stray = files.disk(gone).with_name("stray.qcow2")
    stray.touch()
    mended, left = mend(lab)
    assert mended == set() and left == {("missing_disk", gone), ("orphan_disk", "stray")}
    assert stray.exists() and lab.disk_row(gone).state == "available"


def test_what_has_settled_meanwhile_is_not_mended(lab: Lab) -> None:
    lab.make(running=True)
    disk = lab.disk()
    old = [Issue("vm_state_mismatch", "web", ""), Issue("disk_state_inconsistent", disk, "")]
    assert lab.manager.repairs.mend([*old, Issue("vm_state_mismatch", "../web", "")]) == []
    assert lab.row().state == "running"
