"""A machine's life on a real libvirt: create, start, stop, restart, delete, and starts that fail."""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from integration.vms.guests import write_deaf_disk, write_greedy_disk
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
from labyard.testing.waiting import wait_until
from labyard.vms.service.manager import VmManager

pytestmark = pytest.mark.integration

CYCLES = 6  # of two machines
HOSTILE = ["../../x", "..", ".hidden", "a/b", "a\u0000b", "a" * 64, "-rf", "$(reboot)"]


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


def test_a_guest_that_minds_nothing_is_off_in_the_configured_time(
    start_service: Callable[..., TestClient], temp_storage: Path
) -> None:
    deaf = temp_storage / "deaf.raw"
    write_deaf_disk(deaf)
    patience = 3
    client = start_service(stop_timeout=patience, default_boot_disk=deaf)
    template = create_test_template(client)["name"]
    assert client.post("/vms", json={"template_name": template, "name": "deaf"}).status_code == 201
    assert client.post("/vms/deaf/actions/start").status_code == 202
    asked = time.monotonic()
    assert client.post("/vms/deaf/actions/stop").status_code == 202
    # Not at once, and long before the 30 s of the default.
    assert patience <= time.monotonic() - asked < 20
    verify_qemu_process("deaf", expected=False, timeout=0)
    deaf.unlink()


def test_a_guest_that_obeys_is_not_switched_off(
    real_vm: Callable[..., str], start_service: Callable[..., TestClient]
) -> None:
    """It has longer than this test."""
    vm_id = real_vm()
    client = start_service(stop_timeout=600)
    wait_for_console(client, vm_id, "u")
    assert client.post(f"/vms/{vm_id}/actions/stop").status_code == 202
    verify_qemu_process(vm_id, expected=False, timeout=0)
    assert client.get(f"/vms/{vm_id}").json()["state"] == "stopped"


def test_the_console_keeps_earlier_boots(test_client: TestClient, real_vm: Callable[..., str]) -> None:
    """The guest says one letter at each."""
    vm_id = real_vm()
    wait_for_console(test_client, vm_id, "u")
    assert test_client.post(f"/vms/{vm_id}/actions/restart").status_code == 202
    wait_for_console(test_client, vm_id, "uu")


def wait_for_console(client: TestClient, vm_id: str, wanted: str) -> None:
    def console() -> str:
        return str(client.get(f"/vms/{vm_id}/console").json()["console"])

    wait_until(lambda: console() == wanted, lambda: f"the console says {console()!r}, not {wanted!r}", pause=0.1)


def test_a_machine_whose_disk_is_full_can_be_stopped(
    test_client: TestClient, test_operator: VmManager, temp_storage: Path
) -> None:
    """QEMU holds a guest up whose disk cannot be written, and libvirt says so."""
    folder = temp_storage / "vms/full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", folder], check=True)
    try:
        write_greedy_disk(folder / "root.qcow2", temp_storage / "greedy.raw")
        template = create_test_template(test_client)["name"]
        assert test_client.post("/vms", json={"template_name": template, "name": "full"}).status_code == 201
        assert test_client.post("/vms/full/actions/start").status_code == 202
        trouble = wait_until(lambda: test_operator.shared.hypervisor.trouble("full"), "the disk fills up", pause=0.1)
        assert trouble == "paused after a disk could not be written or read"
        assert test_client.post("/vms/full/actions/stop").status_code == 202
        verify_qemu_process("full", expected=False, timeout=0)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_many_starts_and_stops_leak_nothing(test_client: TestClient, real_vm: Callable[..., str], virt: Any) -> None:
    vm_ids = [real_vm(name, running=False) for name in ("web-1", "web-10")]
    network = virt.networkLookupByName(TOKEN)

    def cycle(vm_id: str) -> None:
        assert test_client.post(f"/vms/{vm_id}/actions/start").status_code == 202
        assert test_client.post(f"/vms/{vm_id}/actions/stop?force=true").status_code == 202

    before = None
    with ThreadPoolExecutor(len(vm_ids)) as pool:
        for _ in range(CYCLES):
            list(pool.map(cycle, vm_ids))
            assert (reserved(network), network.DHCPLeases(), ports(network)) == ({}, [], [])
            before = before or open_files()  # what the first cycle opens for good is no leak
        assert open_files() <= before
    assert test_client.get("/network/leases").json() == []


def test_a_service_that_ends_lets_go_of_everything(start_service: Callable[..., TestClient]) -> None:
    before = None
    for _ in range(5):
        start_service()
        before = before or open_files()
    assert open_files() <= before


def open_files() -> int:
    """Descriptors of this process, in which the service runs; without the database's, whose pool opens connections as
    threads happen to meet, up to its limit."""
    gc.collect()
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this very look
            targets.append(descriptor.readlink().name)
    return sum(not target.startswith("states-") for target in targets)


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


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_id_makes_nothing(test_client: TestClient, temp_storage: Path, virt: Any, name: str) -> None:
    template = create_test_template(test_client)["name"]
    before = sorted(temp_storage.rglob("*"))
    refused = test_client.post("/vms", json={"template_name": template, "name": name})
    assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", "name"]
    assert sorted(temp_storage.rglob("*")) == before
    assert [domain.name() for domain in virt.listAllDomains() if domain.name().startswith(TOKEN)] == []
    for verb, path in (("get", ""), ("delete", ""), ("post", "/actions/start"), ("get", "/console")):
        assert test_client.request(verb, f"/vms/{quote(name, safe='')}{path}").status_code == 404


def test_template_in_use(test_client: TestClient, real_vm: Callable[..., str]) -> None:
    vm_id = real_vm(running=False)
    template = test_client.get(f"/vms/{vm_id}").json()["vm_template"]["name"]
    refused = test_client.delete(f"/templates/{template}")
    assert refused.status_code == 400 and "in use" in refused.json()["detail"]
    free = create_test_template(test_client)
    assert test_client.delete(f"/templates/{free['name']}").status_code == 204
