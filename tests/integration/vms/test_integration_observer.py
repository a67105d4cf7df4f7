"""The observer finds what really differs between rows and domains, processes and files."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from integration.vms.integration_utils import (
    DOMAIN_PREFIX,
    verify_disk_file,
    verify_qemu_process,
    wait_for_vm_state,
)
from labyard.core.database import Database
from labyard.testing.waiting import wait_until
from labyard.vms.observer import Observer

pytestmark = pytest.mark.integration


def check(client: TestClient) -> list[dict[str, str]]:
    """What a sweep finds now."""
    answer = client.post("/observer/check")
    assert answer.status_code == 200 and answer.json()["status"] == "ok", answer.text
    issues: list[dict[str, str]] = answer.json()["issues"]
    return issues


def sql(database: Database, statement: str, **values: Any) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(statement), values)


@pytest.fixture
def start_qemu(qemu_available: dict[str, Any]) -> Iterator[Callable[..., None]]:
    """Starts a QEMU that libvirt knows nothing of, without a guest."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        plain = ["-machine", "q35", "-accel", "tcg", "-m", "64", "-display", "none", "-nodefaults", "-S"]
        started.append(subprocess.Popen([qemu_available["bin"], "-name", f"guest={name}", *plain, *arguments]))

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_all_is_well(test_client: TestClient, real_vm: Callable[..., str], real_disk: Callable[..., str]) -> None:
    real_disk(attach_to=real_vm("on"))
    real_vm("off", running=False)
    real_disk()
    assert check(test_client) == []


def test_a_row_says_running_and_nothing_runs(
    test_client: TestClient, test_db: Database, real_vm: Callable[..., str]
) -> None:
    vm_id = real_vm(running=False)
    sql(test_db, "UPDATE vms SET state = 'running' WHERE id = :id", id=vm_id)
    verify_qemu_process(vm_id, expected=False)
    assert check(test_client) == [
        {
            "issue_type": "vm_state_mismatch",
            "resource_id": vm_id,
            "details": "DB state is 'running' but QEMU process not found",
        }
    ]


def test_repair_starts_what_should_run_and_writes_down_what_is(
    test_client: TestClient, test_db: Database, real_vm: Callable[..., str], real_disk: Callable[..., str]
) -> None:
    killed, plugged = real_vm("killed"), real_disk()
    assert test_client.post(f"/disks/{plugged}/attach", json={"vm_id": killed}).status_code == 200
    process = verify_qemu_process(killed)
    assert process is not None
    os.kill(process, signal.SIGKILL)
    wait_for_vm_state(test_client, killed, "error")
    idle = real_vm("idle", running=False)
    sql(test_db, "UPDATE vms SET state = 'running' WHERE id = :id", id=idle)
    answer = test_client.post("/observer/check?repair=true").json()
    assert {issue["resource_id"] for issue in answer["repaired"]} == {killed, idle} and answer["issues"] == []
    assert verify_qemu_process(killed) != process
    verify_qemu_process(idle, expected=False)
    assert test_client.get(f"/vms/{idle}").json()["state"] == "stopped"
    # Records of disks that a machine really has are mended too.
    sql(test_db, "UPDATE disks SET vm_id = NULL, target = NULL WHERE id = :id", id=plugged)
    assert test_client.post("/observer/check?repair=true").json()["issues"] == []
    assert test_client.get(f"/disks/{plugged}").json()["vm_id"] == killed


def test_a_qemu_that_was_started_by_hand(
    test_client: TestClient, start_qemu: Callable[..., None], temp_storage: Path, real_vm: Callable[..., str]
) -> None:
    vm_id = real_vm(running=False)
    start_qemu(f"{DOMAIN_PREFIX}by-hand")
    start_qemu("another", "-drive", f"if=none,file={temp_storage}/vms/{vm_id}/root.qcow2,format=qcow2")
    verify_qemu_process("by-hand")
    assert check(test_client) == [
        {
            "issue_type": "orphan_process",
            "resource_id": "by-hand",
            "details": "QEMU process running but VM not found in database",
        }
    ]
    assert test_client.delete(f"/vms/{vm_id}").status_code == 204
    assert {issue["resource_id"] for issue in check(test_client)} == {"by-hand", vm_id}


def test_a_disk_without_its_file(test_client: TestClient, real_disk: Callable[..., str], temp_storage: Path) -> None:
    disk_id = real_disk()
    path = verify_disk_file(temp_storage, disk_id)
    path.unlink()
    assert check(test_client) == [
        {"issue_type": "missing_disk", "resource_id": disk_id, "details": f"Disk file not found: {path}"}
    ]
    assert test_client.delete(f"/disks/{disk_id}").status_code == 204
    assert check(test_client) == []


def test_a_file_without_its_disk(test_client: TestClient, temp_storage: Path, qemu_available: dict[str, Any]) -> None:
    path = temp_storage / "disks/stray.qcow2"
    subprocess.run([qemu_available["img"], "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    assert check(test_client) == [
        {
            "issue_type": "orphan_disk",
            "resource_id": "stray",
            "details": f"Disk file exists but not found in database: {path}",
        }
    ]
    path.unlink()
    assert check(test_client) == []


def test_periodic_checks(start_service: Callable[..., TestClient], test_db: Database, temp_storage: Path) -> None:
    client = start_service(observer_interval=1)
    status = client.get("/observer/status").json()
    assert (status["status"], status["check_interval"]) == ("running", 1.0)
    sql(test_db, "INSERT INTO vms (id, state) VALUES ('ghost', 'running')")
    sql(test_db, "INSERT INTO disks (id, size, state) VALUES ('lost', 1, 'available')")
    stray = temp_storage / "disks/stray.qcow2"
    stray.touch()
    wanted = {("vm_state_mismatch", "ghost"), ("missing_disk", "lost"), ("orphan_disk", "stray")}
    # One may have been under way; the next begins an interval after it began.
    enough = client.get("/observer/status").json()["sweeps"] + 2

    def swept() -> dict[str, Any] | None:
        status: dict[str, Any] = client.get("/observer/status").json()
        return status if status["sweeps"] >= enough else None

    status = wait_until(swept, f"sweep {enough}", pause=0.1)
    stray.unlink()
    assert {(issue["issue_type"], issue["resource_id"]) for issue in status["last_issues"]} == wanted
    assert status["last_error"] is None


def test_a_failed_sweep_never_looks_clean(
    test_client: TestClient,
    test_db: Database,
    test_observer: Observer,
    real_disk: Callable[..., str],
    temp_storage: Path,
) -> None:
    disk_id = real_disk()
    verify_disk_file(temp_storage, disk_id).unlink()
    before = check(test_client)
    assert [issue["resource_id"] for issue in before] == [disk_id]
    sql(test_db, "ALTER TABLE disks RENAME TO hidden")
    answer = test_client.post("/observer/check").json()
    assert (answer["status"], answer["issues"]) == ("error", before) and answer["error"]
    status = test_client.get("/observer/status").json()
    assert status["last_error"] and status["last_issues"] == before
    sql(test_db, "ALTER TABLE hidden RENAME TO disks")
    assert check(test_client) == before
    assert test_observer.last is not None and test_observer.last.error is None


def test_disks_that_are_being_made_are_no_issue(test_client: TestClient, test_observer: Observer) -> None:
    sweeps = []
    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(test_client.post, "/disks", json={"size": 1}) for _ in range(12)]
        while not all(future.done() for future in made):
            sweeps.append(check(test_client))
    assert {future.result().status_code for future in made} == {201}
    assert sweeps and all(found == [] for found in sweeps), sweeps
    assert test_observer.check().issues == []
