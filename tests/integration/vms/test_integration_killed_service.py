"""The service killed in mid-operation: what the next one finds is put right, and every operation works again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from ports import free_port
from sqlalchemy import text

from integration.vms.integration_utils import (
    DOMAIN_PREFIX,
    create_test_template,
    disks_in_qemu,
    verify_qemu_process,
)
from labyard.core.database import Database
from labyard.testing.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.integration

BASE_SIZE = 128 * 1024 * 1024
# Said to a service before it runs, so that what it is killed in is not over before.
STARTS_DO_NOT_END = """
import time
from labyard.vms.service.desk import Listening
Listening.wait_start = lambda self: time.sleep(600)
"""
COPIES_TAKE_MINUTES = """
from labyard.vms.adapters import qemu_img
run = qemu_img._run
qemu_img._run = lambda seconds, verb, *rest: run(seconds, verb, *(["-r", "1M"] if verb == "convert" else []), *rest)
"""


class Service:
    """`python -m labyard.vms`, a process of its own, and its client. `first` is done before."""

    def __init__(self, settings: dict[str, Any], first: str = "") -> None:
        port = free_port()
        environment = {f"VMAN_{name.upper()}": str(value) for name, value in (settings | {"bind_port": port}).items()}
        code = f"{first}\nimport runpy\nrunpy.run_module('labyard.vms', run_name='__main__')"
        self.process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
        wait_until(self._answers, "the service answers")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.client.close()

    def cut_off(self, path: str, **body: Any) -> None:
        """Begin what cannot end, and kill the service in the midst of it."""
        with pytest.raises(httpx.ReadTimeout):
            self.client.post(path, json=body, timeout=3)
        self.kill()

    def kill_when(self, path: str, condition: Callable[[], Any], **body: Any) -> None:
        """Begin, and kill the service as soon as `condition` says that it has come so far."""
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(self.client.post, path, json=body)
            wait_until(condition, "it has come so far", pause=0.002)
            self.kill()
            assert isinstance(request.exception(), httpx.TransportError), "it had ended already"

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the service ended"
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def run_service(
    service_settings: dict[str, Any], start_service: Callable[..., TestClient]
) -> Iterator[Callable[..., Service]]:
    """Starts the service as a process. After it was killed, `start_service` is the next one."""
    running: list[Service] = []

    def run(first: str = "", **changes: Any) -> Service:
        running.append(Service(service_settings | changes, first))
        return running[-1]

    yield run
    for service in running:
        service.kill()


def make(client: httpx.Client, name: str = "web-1", start: bool = False) -> str:
    template = create_test_template(client)["name"]
    assert client.post("/vms", json={"template_name": template, "name": name}).status_code == 201
    if start:
        assert client.post(f"/vms/{name}/actions/start").status_code == 202
    return name


def all_is_well(client: httpx.Client, vm_id: str) -> None:
    """Nothing differs from what runs, and the machine can be started and stopped."""
    assert client.post("/observer/check").json()["issues"] == []
    assert client.post(f"/vms/{vm_id}/actions/restart").status_code == 202
    verify_qemu_process(vm_id)
    assert client.post(f"/vms/{vm_id}/actions/stop?force=true").status_code == 202
    verify_qemu_process(vm_id, expected=False, timeout=0)
    assert client.get("/network/leases").json() == []


def test_killed_while_it_starts_a_machine(
    run_service: Callable[..., Service], start_service: Callable[..., TestClient], test_db: Database
) -> None:
    service = run_service(STARTS_DO_NOT_END)
    vm_id = make(service.client)

    def has_address() -> Any:
        with test_db.engine.connect() as connection:
            return connection.execute(text("SELECT ip FROM leases")).one_or_none()

    service.kill_when(f"/vms/{vm_id}/actions/start", has_address)
    client = start_service()
    # libvirt may have been asked already, and the machine be up.
    running = client.get(f"/vms/{vm_id}").json()["state"] == "running"
    assert len(client.get("/network/leases").json()) == running
    verify_qemu_process(vm_id, expected=running)
    all_is_well(client, vm_id)


def test_killed_while_it_waits_for_a_guest_to_stop(
    run_service: Callable[..., Service], start_service: Callable[..., TestClient]
) -> None:
    service = run_service(stop_timeout=60)
    vm_id = make(service.client, start=True)
    before, pid = service.client.get(f"/vms/{vm_id}").json(), verify_qemu_process(vm_id)
    service.cut_off(f"/vms/{vm_id}/actions/stop")
    client = start_service()
    assert client.get(f"/vms/{vm_id}").json() == before and verify_qemu_process(vm_id) == pid
    all_is_well(client, vm_id)


def test_killed_while_it_plugs_a_disk_in_and_while_it_plugs_it_out(
    run_service: Callable[..., Service], start_service: Callable[..., TestClient], virt: Any
) -> None:
    """A QEMU that is held up answers libvirt later, when nobody waits any more."""
    service = run_service(detach_timeout=60)
    vm_id = make(service.client, start=True)
    disk_id = service.client.post("/disks", json={"size": 1}).json()["id"]
    pid = verify_qemu_process(vm_id)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    service.cut_off(f"/disks/{disk_id}/attach", vm_id=vm_id)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: disks_in_qemu(virt, vm_id), "QEMU has the disk")

    service = run_service(detach_timeout=60)
    disk = service.client.get(f"/disks/{disk_id}").json()
    assert (disk["state"], disk["vm_id"], disk["target"]) == ("attached", vm_id, "sda")
    os.kill(pid, signal.SIGSTOP)
    service.cut_off(f"/disks/{disk_id}/detach")
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not disks_in_qemu(virt, vm_id), "QEMU has let the disk go")

    client = start_service()
    disk = client.get(f"/disks/{disk_id}").json()
    assert (disk["state"], disk["vm_id"], disk["target"]) == ("available", None, None)
    assert client.post(f"/vms/{vm_id}/actions/restart").status_code == 202
    assert disks_in_qemu(virt, vm_id) == {}
    all_is_well(client, vm_id)


def test_killed_while_it_makes_a_machine(
    run_service: Callable[..., Service],
    start_service: Callable[..., TestClient],
    temp_storage: Path,
    qemu_available: dict[str, Any],
) -> None:
    """The halves are wiped when the name is used again."""
    base = temp_storage / "base.raw"
    base.write_bytes(os.urandom(BASE_SIZE))
    settings = {"default_boot_disk": base, "root_disk_clone": "copy"}
    service = run_service(COPIES_TAKE_MINUTES, **settings)
    template = create_test_template(service.client)["name"]
    body = {"template_name": template, "name": "web-1"}
    folder = temp_storage / "vms/web-1"
    service.kill_when("/vms", (folder / ".root.qcow2.part").exists, **body)
    assert not (folder / "root.qcow2").exists()

    client = start_service(**settings)
    assert client.get("/vms").json() == []
    assert client.post("/vms", json=body).status_code == 201
    assert list(folder.glob("*.part")) == []
    compare = [qemu_available["img"], "compare", "-q", "-f", "raw", "-F", "qcow2", base, folder / "root.qcow2"]
    assert subprocess.run(compare).returncode == 0
    all_is_well(client, "web-1")
    base.unlink()


def test_killed_while_it_deletes_a_machine(
    run_service: Callable[..., Service], start_service: Callable[..., TestClient], virt: Any, temp_storage: Path
) -> None:
    service = run_service()
    vm_id = make(service.client, start=True)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(service.client.delete, f"/vms/{vm_id}")
        wait_until(
            lambda: not any(domain.name() == f"{DOMAIN_PREFIX}{vm_id}" for domain in virt.listAllDomains()),
            "the domain is gone",
        )
        service.kill()
    client = start_service()
    # The service may have been a step further than we saw; then the row is gone, too.
    left = client.get(f"/vms/{vm_id}").status_code
    assert client.delete(f"/vms/{vm_id}").status_code == (204 if left == 200 else 404)
    assert not (temp_storage / "vms" / vm_id).exists()
    assert client.post("/observer/check").json()["issues"] == []
