"""Disks when the world refuses (contract sections 4.3 and 5.3)."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from labyard.core.errors import ServiceError

from .conftest import Lab
from .fakes import BOOM


def test_a_failed_creation_leaves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.images.faults["create"] = BOOM
    with pytest.raises(ServiceError) as refusal:
        lab.disk()
    assert (refusal.value.status, refusal.value.detail) == (400, "Failed to create disk: boom failed: no reason")
    lab.images.faults.clear()

    def full() -> None:
        raise OperationalError("INSERT", {}, Exception("disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(lab.manager.database, "write", full)
        with pytest.raises(OperationalError):
            lab.disk()
    assert list(lab.manager.settings.disks_dir.iterdir()) == [] and lab.manager.disks.list() == []


def test_a_failed_attach_leaves_the_row_and_can_be_tried_again(lab: Lab) -> None:
    lab.make(running=True)
    disk = lab.disk()
    lab.hypervisor.faults["attach"] = BOOM
    with pytest.raises(ServiceError) as refusal:
        lab.manager.disks.attach(disk, "web")
    assert refusal.value.detail == "Failed to attach disk: boom failed: no reason"
    assert (lab.disk_row(disk).state, lab.disk_row(disk).vm_id) == ("available", None)
    lab.hypervisor.faults.clear()
    lab.manager.disks.attach(disk, "web")
    assert lab.disk_row(disk).target == "sda"


def test_an_attach_that_cannot_be_recorded_is_taken_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.make(running=True)
    disk = lab.disk()

    def full() -> None:
        raise OperationalError("UPDATE", {}, Exception("disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(lab.manager.database, "write", full)
        with pytest.raises(OperationalError):
            lab.manager.disks.attach(disk, "web")
    assert lab.hypervisor.all["web"].disks == {}
    assert lab.disk_row(disk).state == "available"


def test_the_hypervisor_decides_whether_a_machine_runs(lab: Lab) -> None:
    lab.make(running=True)
    disk = lab.disk()
    lab.sql("UPDATE vms SET state='stopped'")
    lab.manager.disks.attach(disk, "web")
    with pytest.raises(ServiceError) as refusal:
        lab.manager.disks.delete(disk)
    assert refusal.value.detail == "Cannot delete attached disk. Detach it first."
    lab.hypervisor.all["web"].active = False
    lab.sql("UPDATE vms SET state='running'")
    other = lab.disk()
    with pytest.raises(ServiceError) as refusal:
        lab.manager.disks.attach(other, "web")
    assert refusal.value.detail == "VM must be running to attach disk"


def test_a_refused_detach_leaves_the_disk_attached(lab: Lab) -> None:
    lab.make(running=True)
    disk = lab.disk()
    lab.manager.disks.attach(disk, "web")
    lab.hypervisor.faults["detach"] = BOOM
    with pytest.raises(ServiceError) as refusal:
        lab.manager.disks.detach(disk)
    assert refusal.value.detail == "Failed to detach disk: boom failed: no reason"
    assert (lab.disk_row(disk).state, lab.disk_row(disk).vm_id) == ("attached", "web")
    lab.hypervisor.faults.clear()
    lab.manager.disks.detach(disk)
    assert lab.hypervisor.all["web"].disks == {}


def test_deleting_one_of_a_stopped_machine_takes_it_out_of_the_definition(lab: Lab) -> None:
    lab.make(running=True)
    disk = lab.disk()
    lab.manager.disks.attach(disk, "web")
    lab.manager.vms.stop("web")
    assert lab.hypervisor.all["web"].disks == {disk: "sda"}
    lab.manager.disks.delete(disk)
    assert lab.hypervisor.all["web"].disks == {}
    assert not lab.manager.shared.files.disk(disk).exists()
    lab.manager.vms.start("web")


def test_a_file_that_is_gone_already(lab: Lab) -> None:
    disk = lab.disk()
    lab.manager.shared.files.disk(disk).unlink()
    lab.manager.disks.delete(disk)
    assert lab.manager.disks.list() == []
