"""Whole stories on a real libvirt, from template to nothing, and out of trouble again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from integration.vms.integration_utils import (
    DOMAIN_PREFIX,
    TOKEN,
    cleanup_test_resources,
    create_test_template,
    disks_in_qemu,
    ports,
    verify_disk_file,
    verify_qemu_process,
    wait_for_vm_state,
)
from labyard.core.database import Database

pytestmark = pytest.mark.integration


def act(client: TestClient, vm_id: str, action: str) -> int:
    return client.post(f"/vms/{vm_id}/actions/{action}").status_code


def issues(client: TestClient) -> list[tuple[str, str]]:
    answer = client.post("/observer/check").json()
    assert answer["status"] == "ok", answer
    return [(issue["resource_id"], issue["details"]) for issue in answer["issues"]]


def test_from_template_to_nothing(test_client: TestClient, temp_storage: Path, virt: Any) -> None:
    client = test_client
    assert client.get("/health").json()["status"] == "ok"
    template = create_test_template(client)["name"]
    assert client.post("/vms", json={"template_name": template, "name": "web-1"}).status_code == 201
    disk_id = client.post("/disks", json={"size": 5, "mount_point": "/data"}).json()["id"]
    assert act(client, "web-1", "start") == 202
    assert client.post(f"/disks/{disk_id}/attach", json={"vm_id": "web-1"}).status_code == 200

    verify_qemu_process("web-1")
    path = verify_disk_file(temp_storage, disk_id)
    assert list(disks_in_qemu(virt, "web-1")) == [str(path)]
    assert [vm["id"] for vm in client.get("/vms", params={"state": "running"}).json()] == ["web-1"]
    assert issues(client) == []

    assert client.post(f"/disks/{disk_id}/detach").status_code == 200
    assert act(client, "web-1", "stop") == 202
    verify_qemu_process("web-1", expected=False, timeout=0)
    assert client.delete(f"/disks/{disk_id}").status_code == 204
    verify_disk_file(temp_storage, disk_id, expected=False)
    assert client.delete("/vms/web-1").status_code == 204
    assert client.delete(f"/templates/{template}").status_code == 204
    assert [client.get(path).json() for path in ("/vms", "/disks", "/templates", "/network/leases")] == [[]] * 4
    assert issues(client) == []


def test_machines_of_one_prefix_at_the_same_time(test_client: TestClient, virt: Any) -> None:
    names = ["web-1", "web-10", "web-100"]
    template = create_test_template(test_client)["name"]
    for name in names:
        assert test_client.post("/vms", json={"template_name": template, "name": name}).status_code == 201
    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(lambda name: act(test_client, name, "start"), names)) == [202] * 3
        vms = test_client.get("/vms", params={"state": "running"}).json()
        assert sorted(vm["id"] for vm in vms) == names
        assert len({vm["mac"] for vm in vms}) == len({vm["local_ip"] for vm in vms}) == 3
        assert len({verify_qemu_process(name) for name in names}) == 3
        network = virt.networkLookupByName(TOKEN)
        assert len(ports(network)) == 3
        assert issues(test_client) == []
        assert list(pool.map(lambda name: act(test_client, name, "stop"), names)) == [202] * 3
    for name in names:
        verify_qemu_process(name, expected=False, timeout=0)
    assert ports(network) == [] and test_client.get("/network/leases").json() == []
    assert cleanup_test_resources(test_client, vms=names, templates=[template]) == []


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
def test_recovery_after_qemu_was_killed(
    test_client: TestClient, real_vm: Callable[..., str], with_signal: signal.Signals
) -> None:
    vm_id = real_vm()
    pid = verify_qemu_process(vm_id)
    assert pid is not None
    os.kill(pid, with_signal)
    verify_qemu_process(vm_id, expected=False)
    vm = wait_for_vm_state(test_client, vm_id, "error")
    assert vm["state_reason"] and vm["local_ip"] is None
    missing = "VM should be running but QEMU process not found (stopped unexpectedly)"
    assert issues(test_client) == [(vm_id, missing)]

    assert act(test_client, vm_id, "restart") == 202
    vm = wait_for_vm_state(test_client, vm_id, "running")
    assert vm["state_reason"] is None and vm["local_ip"]
    assert verify_qemu_process(vm_id) != pid
    assert issues(test_client) == []


def test_a_service_that_restarts_adopts_what_runs(
    start_service: Callable[..., TestClient], real_vm: Callable[..., str], real_disk: Callable[..., str]
) -> None:
    running, stopped = real_vm("running"), real_vm("stopped", running=False)
    real_disk(attach_to=running)
    client = start_service()
    before = [client.get(path).json() for path in ("/vms", "/disks")]
    pid = verify_qemu_process(running)
    client = start_service()
    assert [client.get(path).json() for path in ("/vms", "/disks")] == before
    assert verify_qemu_process(running) == pid
    verify_qemu_process(stopped, expected=False, timeout=0)
    assert issues(client) == []
    assert act(client, running, "stop") == 202


def test_a_machine_that_ended_while_the_service_was_away(
    start_service: Callable[..., TestClient], real_vm: Callable[..., str], test_db: Database, virt: Any
) -> None:
    vm_id = real_vm()
    client = start_service()
    client.__exit__(None, None, None)
    virt.lookupByName(f"{DOMAIN_PREFIX}{vm_id}").destroy()
    with test_db.engine.connect() as connection:
        assert connection.execute(text("SELECT state FROM vms")).scalar_one() == "running"
    client = start_service()
    vm = client.get(f"/vms/{vm_id}").json()
    assert (vm["state"], vm["state_reason"], vm["local_ip"]) == ("error", "not running after service start", None)
    assert client.get("/network/leases").json() == []
    assert act(client, vm_id, "start") == 202 and issues(client) == []


def test_a_row_says_stopped_while_it_runs(
    test_client: TestClient, test_db: Database, real_vm: Callable[..., str]
) -> None:
    vm_id = real_vm()
    pid = verify_qemu_process(vm_id)
    with test_db.engine.begin() as connection:
        connection.execute(text("UPDATE vms SET state = 'stopped' WHERE id = :id"), {"id": vm_id})
    assert issues(test_client) == [(vm_id, "DB state is 'stopped' but QEMU process is running")]
    assert act(test_client, vm_id, "restart") == 202
    assert test_client.get(f"/vms/{vm_id}").json()["state"] == "running"
    verify_qemu_process(vm_id)
    assert verify_qemu_process(vm_id) != pid
    assert issues(test_client) == []
