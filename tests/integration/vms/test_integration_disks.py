"""Data disks of real machines: plugged in and out while they run, kept over restarts, deleted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from integration.vms.integration_utils import DISK_SIZES, disks_in_qemu, verify_disk_file, verify_qemu_process
from labyard.testing.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("size", DISK_SIZES)
def test_create_and_attach_to_a_running_machine(
    test_client: TestClient,
    real_vm: Callable[..., str],
    real_disk: Callable[..., str],
    temp_storage: Path,
    qemu_available: dict[str, Any],
    virt: Any,
    size: int,
) -> None:
    vm_id = real_vm()
    disk_id = real_disk(size, mount_point="/data")
    path = verify_disk_file(temp_storage, disk_id)
    told = subprocess.run([qemu_available["img"], "info", "--output=json", path], capture_output=True, check=True)
    assert json.loads(told.stdout)["virtual-size"] == size * 1024**3
    assert path.stat().st_blocks * 512 < 1024**2  # thin

    assert test_client.post(f"/disks/{disk_id}/attach", json={"vm_id": vm_id}).status_code == 200
    seen = disks_in_qemu(virt, vm_id)
    assert list(seen) == [str(path)] and re.fullmatch(r"scsi0-0-0-\d+", seen[str(path)])
    disk = test_client.get(f"/disks/{disk_id}").json()
    assert (disk["state"], disk["vm_id"], disk["mount_point"]) == ("attached", vm_id, "/data")
    assert disk["device_path"] == f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{disk_id}"


def test_detach_from_a_running_machine(
    test_client: TestClient, real_vm: Callable[..., str], real_disk: Callable[..., str], virt: Any
) -> None:
    vm_id = real_vm()
    disk_id = real_disk(attach_to=vm_id)
    assert len(disks_in_qemu(virt, vm_id)) == 1
    detached = test_client.post(f"/disks/{disk_id}/detach")
    assert (detached.status_code, detached.json()) == (200, {"status": "detached"})
    assert disks_in_qemu(virt, vm_id) == {}
    disk = test_client.get(f"/disks/{disk_id}").json()
    assert (disk["state"], disk["vm_id"], disk["mount_point"], disk["target"]) == ("available", None, None, None)


def test_hot_plugging_does_not_interrupt_the_machine(
    test_client: TestClient, real_vm: Callable[..., str], real_disk: Callable[..., str], temp_storage: Path, virt: Any
) -> None:
    vm_id = real_vm()
    pid = verify_qemu_process(vm_id)
    disks = [real_disk(attach_to=vm_id) for _ in range(3)]
    paths = [str(verify_disk_file(temp_storage, disk_id)) for disk_id in disks]
    seen = disks_in_qemu(virt, vm_id)
    assert set(seen) == set(paths) and len(set(seen.values())) == 3
    assert [test_client.get(f"/disks/{disk_id}").json()["target"] for disk_id in disks] == ["sda", "sdb", "sdc"]

    assert test_client.post(f"/disks/{disks[1]}/detach").status_code == 200
    assert set(disks_in_qemu(virt, vm_id)) == {paths[0], paths[2]}
    assert test_client.post(f"/disks/{disks[1]}/attach", json={"vm_id": vm_id}).status_code == 200
    for disk_id in disks:
        assert test_client.post(f"/disks/{disk_id}/detach").status_code == 200
    assert disks_in_qemu(virt, vm_id) == {}
    assert verify_qemu_process(vm_id) == pid
    assert test_client.get(f"/vms/{vm_id}").json()["state"] == "running"


def test_delete_an_attached_disk(
    test_client: TestClient, real_vm: Callable[..., str], real_disk: Callable[..., str], temp_storage: Path, virt: Any
) -> None:
    vm_id = real_vm()
    disk_id = real_disk(attach_to=vm_id)
    refused = test_client.delete(f"/disks/{disk_id}")
    assert refused.status_code == 400 and "attached" in refused.json()["detail"]
    verify_disk_file(temp_storage, disk_id)

    assert test_client.post(f"/vms/{vm_id}/actions/stop").status_code == 202
    assert test_client.delete(f"/disks/{disk_id}").status_code == 204
    verify_disk_file(temp_storage, disk_id, expected=False)
    assert test_client.get(f"/disks/{disk_id}").status_code == 404
    assert test_client.post(f"/vms/{vm_id}/actions/start").status_code == 202
    assert disks_in_qemu(virt, vm_id) == {}


@pytest.mark.parametrize("actions", [("restart",), ("stop", "start")])
def test_a_disk_is_there_after_a_restart(
    test_client: TestClient,
    real_vm: Callable[..., str],
    real_disk: Callable[..., str],
    temp_storage: Path,
    virt: Any,
    actions: tuple[str, ...],
) -> None:
    vm_id = real_vm()
    disk_id = real_disk(attach_to=vm_id)
    before = test_client.get(f"/disks/{disk_id}").json()
    for action in actions:
        assert test_client.post(f"/vms/{vm_id}/actions/{action}").status_code == 202
    assert list(disks_in_qemu(virt, vm_id)) == [str(verify_disk_file(temp_storage, disk_id))]
    assert test_client.get(f"/disks/{disk_id}").json() == before


def test_a_failed_attach_can_be_tried_again(
    test_client: TestClient, real_vm: Callable[..., str], real_disk: Callable[..., str], temp_storage: Path, virt: Any
) -> None:
    vm_id = real_vm()
    disk_id = real_disk()
    path = verify_disk_file(temp_storage, disk_id)
    hidden = path.rename(path.with_suffix(".hidden"))
    refused = test_client.post(f"/disks/{disk_id}/attach", json={"vm_id": vm_id})
    assert refused.status_code == 400 and refused.json()["detail"].startswith("Failed to attach disk: ")
    disk = test_client.get(f"/disks/{disk_id}").json()
    assert (disk["state"], disk["vm_id"], disks_in_qemu(virt, vm_id)) == ("available", None, {})

    hidden.rename(path)
    assert test_client.post(f"/disks/{disk_id}/attach", json={"vm_id": vm_id}).status_code == 200
    assert list(disks_in_qemu(virt, vm_id)) == [str(path)]


def test_a_disk_is_attached_once(
    test_client: TestClient, real_vm: Callable[..., str], real_disk: Callable[..., str], virt: Any
) -> None:
    disk_id = real_disk(attach_to=real_vm("web-1"))
    before = test_client.get(f"/disks/{disk_id}").json()
    for vm_id in ("web-1", real_vm("web-2")):
        refused = test_client.post(f"/disks/{disk_id}/attach", json={"vm_id": vm_id})
        assert refused.status_code == 400 and "already attached" in refused.json()["detail"]
    assert (len(disks_in_qemu(virt, "web-1")), disks_in_qemu(virt, "web-2")) == (1, {})
    assert test_client.get(f"/disks/{disk_id}").json() == before


def test_a_refused_detach_leaves_the_disk_attached(
    start_service: Callable[..., TestClient], real_vm: Callable[..., str], real_disk: Callable[..., str], virt: Any
) -> None:
    """A QEMU that is held up lets no disk go; when it does at last, the next detach finds the disk gone."""
    vm_id = real_vm()
    disk_id = real_disk(attach_to=vm_id)
    client = start_service(detach_timeout=1)
    before = client.get(f"/disks/{disk_id}").json()
    pid = verify_qemu_process(vm_id)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        refused = client.post(f"/disks/{disk_id}/detach")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert refused.status_code == 400 and refused.json()["detail"].startswith("Failed to detach disk: ")
    assert client.get(f"/disks/{disk_id}").json() == before and before["state"] == "attached"
    kept = client.delete(f"/disks/{disk_id}")
    assert kept.status_code == 400 and "attached" in kept.json()["detail"]

    wait_until(lambda: not disks_in_qemu(virt, vm_id), "QEMU does what it was asked before", pause=0.1)
    assert client.post(f"/disks/{disk_id}/detach").status_code == 200
    assert client.get(f"/disks/{disk_id}").json()["state"] == "available"
    assert client.post(f"/vms/{vm_id}/actions/restart").status_code == 202
    assert disks_in_qemu(virt, vm_id) == {}


def test_a_start_without_a_disks_file(
    test_client: TestClient, real_vm: Callable[..., str], real_disk: Callable[..., str], temp_storage: Path, virt: Any
) -> None:
    vm_id = real_vm()
    disk_id = real_disk(attach_to=vm_id)
    assert test_client.post(f"/vms/{vm_id}/actions/stop").status_code == 202
    verify_disk_file(temp_storage, disk_id).unlink()
    refused = test_client.post(f"/vms/{vm_id}/actions/start")
    assert refused.status_code == 400 and f"{disk_id}.qcow2" in refused.json()["detail"]
    vm = test_client.get(f"/vms/{vm_id}").json()
    assert vm["state"] == "error" and f"{disk_id}.qcow2" in vm["state_reason"] and vm["local_ip"] is None
    verify_qemu_process(vm_id, expected=False, timeout=0)

    assert test_client.delete(f"/disks/{disk_id}").status_code == 204
    assert test_client.post(f"/vms/{vm_id}/actions/start").status_code == 202
    assert disks_in_qemu(virt, vm_id) == {}


@pytest.mark.parametrize("size", [0, -1, 16385, 1.5, 2**63, 10**30, "big", None])
def test_a_size_out_of_range_makes_nothing(test_client: TestClient, temp_storage: Path, size: Any) -> None:
    refused = test_client.post("/disks", json={"size": size})
    assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", "size"]
    assert (list((temp_storage / "disks").iterdir()), test_client.get("/disks").json()) == ([], [])


def test_a_stopped_machine_takes_no_disk(
    test_client: TestClient, real_vm: Callable[..., str], real_disk: Callable[..., str]
) -> None:
    vm_id = real_vm(running=False)
    disk_id = real_disk()
    refused = test_client.post(f"/disks/{disk_id}/attach", json={"vm_id": vm_id})
    assert (refused.status_code, refused.json()["detail"]) == (400, "VM must be running to attach disk")
    assert test_client.get(f"/disks/{disk_id}").json()["state"] == "available"
