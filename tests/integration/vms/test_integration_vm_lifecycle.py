"""A machine's life on a real libvirt: create, start, stop, restart, delete, and starts that fail."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from integration.vms.integration_utils import (
    DOMAIN_PREFIX,
    SUBNET,
    TEMPLATES,
    TOKEN,
    create_test_template,
    ports,
    reserved,
    verify_qemu_process,
    wait_for_vm_state,
)
from labyard.core.database import Database

pytestmark = pytest.mark.integration


def row(database: Database, vm_id: str) -> Any:
    """The machine's row, as another program reads it."""
    with database.engine.connect() as connection:
        return connection.execute(text("SELECT * FROM vms WHERE id = :id"), {"id": vm_id}).one_or_none()


def test_create_and_start(
    test_client: TestClient, test_db: Database, real_vm: Callable[..., str], temp_storage: Path
) -> None:
    vm_id = real_vm("web-1", running=False)
    assert test_client.get("/vms/web-1").json()["state"] == "stopped"
    verify_qemu_process(vm_id, expected=False)
    assert (temp_storage / "vms/web-1/root.qcow2").exists()

    assert test_client.post("/vms/web-1/actions/start").status_code == 202
    assert verify_qemu_process(vm_id)
    vm = wait_for_vm_state(test_client, vm_id, "running")
    assert IPv4Address(vm["local_ip"]) in SUBNET
    stored = row(test_db, vm_id)
    assert (stored.state, stored.desired_state, stored.local_ip) == ("running", "running", vm["local_ip"])
    again = test_client.post("/vms/web-1/actions/start")
    assert again.status_code == 400 and "already running" in again.json()["detail"]


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_a_machine_has_what_its_template_says(real_vm: Callable[..., str], virt: Any, size: str) -> None:
    domain = virt.lookupByName(f"{DOMAIN_PREFIX}{real_vm(size=size)}")
    _, memory_kib, _, cpus, _ = domain.info()
    assert (cpus, memory_kib // 1024) == TEMPLATES[size]


def test_stop(
    test_client: TestClient, test_db: Database, real_vm: Callable[..., str], test_network_manager: Any, virt: Any
) -> None:
    vm_id = real_vm()
    network = virt.networkLookupByName(TOKEN)
    mac = test_client.get(f"/vms/{vm_id}").json()["mac"]
    assert mac in reserved(network) and len(ports(network)) == 1

    stopped = test_client.post(f"/vms/{vm_id}/actions/stop")
    assert (stopped.status_code, stopped.json()) == (202, {"status": "stopped"})
    verify_qemu_process(vm_id, expected=False, timeout=0)
    stored = row(test_db, vm_id)
    assert (stored.state, stored.desired_state, stored.local_ip) == ("stopped", "stopped", None)
    assert test_network_manager.leases() == []
    assert (reserved(network), network.DHCPLeases(), ports(network)) == ({}, [], [])
    again = test_client.post(f"/vms/{vm_id}/actions/stop")
    assert again.status_code == 400 and "not running" in again.json()["detail"]


def test_restart(test_client: TestClient, test_db: Database, real_vm: Callable[..., str], temp_storage: Path) -> None:
    vm_id = real_vm()
    root = temp_storage / "vms" / vm_id / "root.qcow2"
    before, inode, pid = test_client.get(f"/vms/{vm_id}").json(), root.stat().st_ino, verify_qemu_process(vm_id)
    with test_db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE transitions (old, new)"))
        connection.execute(
            text(
                "CREATE TRIGGER watch AFTER UPDATE OF state ON vms WHEN old.state != new.state "
                "BEGIN INSERT INTO transitions VALUES (old.state, new.state); END"
            )
        )

    restarted = test_client.post(f"/vms/{vm_id}/actions/restart")
    assert (restarted.status_code, restarted.json()) == (202, {"status": "restarted"})
    assert verify_qemu_process(vm_id) != pid
    with test_db.engine.connect() as connection:
        seen = [tuple(change) for change in connection.execute(text("SELECT old, new FROM transitions"))]
    assert seen == [("running", "stopped"), ("stopped", "running")]
    # Same MAC, same domain, same address, same root disk.
    assert test_client.get(f"/vms/{vm_id}").json() == before
    assert root.stat().st_ino == inode


def test_delete_a_running_machine(
    test_client: TestClient,
    test_db: Database,
    real_vm: Callable[..., str],
    real_disk: Callable[..., str],
    temp_storage: Path,
    virt: Any,
) -> None:
    vm_id = real_vm()
    disk_id = real_disk(attach_to=vm_id)
    assert test_client.delete(f"/vms/{vm_id}").status_code == 204
    verify_qemu_process(vm_id, expected=False, timeout=0)
    assert row(test_db, vm_id) is None and test_client.get(f"/vms/{vm_id}").status_code == 404
    assert not (temp_storage / "vms" / vm_id).exists()
    assert [domain.name() for domain in virt.listAllDomains() if domain.name().startswith(DOMAIN_PREFIX)] == []
    disk = test_client.get(f"/disks/{disk_id}").json()
    assert (disk["state"], disk["vm_id"], disk["mount_point"]) == ("available", None, None)


def nothing_runs(test_client: TestClient, vm_id: str, virt: Any) -> None:
    verify_qemu_process(vm_id, expected=False, timeout=0)
    network = virt.networkLookupByName(TOKEN)
    assert test_client.get("/network/leases").json() == []
    assert (reserved(network), ports(network)) == ({}, [])


def test_more_memory_than_the_host_has(test_client: TestClient, real_vm: Callable[..., str], virt: Any) -> None:
    given = {"name": "huge", "cpu_count": 1, "ram_amount": 1048576}
    assert test_client.post("/templates", json=given).status_code == 201
    assert test_client.post("/vms", json={"template_name": "huge", "name": "huge"}).status_code == 201
    refused = test_client.post("/vms/huge/actions/start")
    assert refused.status_code == 400 and "insufficient host memory" in refused.json()["detail"]
    vm = test_client.get("/vms/huge").json()
    assert vm["state"] == "error" and "insufficient host memory" in vm["state_reason"] and vm["local_ip"] is None
    nothing_runs(test_client, "huge", virt)
    verify_qemu_process(real_vm("valid"))


def test_a_broken_root_image(
    test_client: TestClient, real_vm: Callable[..., str], temp_storage: Path, virt: Any
) -> None:
    vm_id = real_vm(running=False)
    root = temp_storage / "vms" / vm_id / "root.qcow2"
    whole = root.read_bytes()
    root.write_bytes(b"no image")
    refused = test_client.post(f"/vms/{vm_id}/actions/start")
    assert refused.status_code == 400 and refused.json()["detail"].startswith("Failed to start VM: ")
    vm = test_client.get(f"/vms/{vm_id}").json()
    assert vm["state"] == "error" and vm["state_reason"]
    nothing_runs(test_client, vm_id, virt)

    root.write_bytes(whole)
    assert test_client.post(f"/vms/{vm_id}/actions/start").status_code == 202
    assert wait_for_vm_state(test_client, vm_id, "running")["state_reason"] is None
    verify_qemu_process(vm_id)


def test_a_name_that_is_used_again_gets_a_new_root_disk(
    test_client: TestClient, real_vm: Callable[..., str], temp_storage: Path
) -> None:
    vm_id = real_vm(running=False)
    root = temp_storage / "vms" / vm_id / "root.qcow2"
    with root.open("ab") as file:
        file.write(b"old data")
    assert test_client.delete(f"/vms/{vm_id}").status_code == 204
    real_vm(vm_id, running=False)
    assert b"old data" not in root.read_bytes()


def test_template_in_use(test_client: TestClient, real_vm: Callable[..., str]) -> None:
    vm_id = real_vm(running=False)
    template = test_client.get(f"/vms/{vm_id}").json()["vm_template"]["name"]
    refused = test_client.delete(f"/templates/{template}")
    assert refused.status_code == 400 and "in use" in refused.json()["detail"]
    free = create_test_template(test_client)
    assert test_client.delete(f"/templates/{free['name']}").status_code == 204
