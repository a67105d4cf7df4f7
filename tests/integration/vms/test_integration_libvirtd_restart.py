"""libvirtd stopped, killed and started again beneath the service. Its machines do not mind, and nothing is lost.

They run by themselves, after all others, and only where VMAN_TESTS_RESTART_LIBVIRTD says that this hurts nobody.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from integration.vms.integration_utils import (
    create_test_template,
    verify_qemu_process,
    wait_for_vm_state,
)
from labyard.core.adapter import AdapterError
from labyard.testing.waiting import wait_until
from labyard.vms.service.manager import VmManager

pytestmark = [pytest.mark.integration, pytest.mark.restarts_libvirtd]


def systemctl(*arguments: str) -> None:
    subprocess.run(["systemctl", *arguments], check=True)


def restart() -> None:
    systemctl("restart", "libvirtd.service")


def kill() -> None:
    """systemd starts it again."""
    systemctl("kill", "--signal=KILL", "--kill-whom=main", "libvirtd.service")


def is_connected(operator: VmManager) -> bool:
    try:
        operator.shared.hypervisor.ping()
    except AdapterError:
        return False
    return True


def until_connected(operator: VmManager) -> None:
    wait_until(lambda: is_connected(operator), "it is connected")


def until_lost(operator: VmManager) -> None:
    wait_until(lambda: not is_connected(operator), "the connection is lost", pause=0.01)


def issues(client: TestClient) -> list[dict[str, str]]:
    answer = client.post("/observer/check").json()
    assert answer["status"] == "ok", answer
    found: list[dict[str, str]] = answer["issues"]
    return found


@pytest.mark.parametrize("how", [restart, kill])
def test_machines_go_on_and_are_watched_again(
    test_client: TestClient, test_operator: VmManager, real_vm: Callable[..., str], how: Callable[[], None]
) -> None:
    vm_id = real_vm()
    before, pid = test_client.get(f"/vms/{vm_id}").json(), verify_qemu_process(vm_id)
    how()
    until_lost(test_operator)
    until_connected(test_operator)
    assert test_client.get(f"/vms/{vm_id}").json() == before and verify_qemu_process(vm_id) == pid
    assert test_client.get("/health").json()["checks"]["libvirt"] == "ok"
    assert issues(test_client) == []
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for_vm_state(test_client, vm_id, "error")
    assert test_client.get("/network/leases").json() == []
    assert test_client.post(f"/vms/{vm_id}/actions/restart").status_code == 202


def test_a_machine_that_ends_while_libvirtd_is_away(
    test_client: TestClient, test_operator: VmManager, real_vm: Callable[..., str]
) -> None:
    vm_id, pid = real_vm(), verify_qemu_process(real_vm("other"))
    assert pid is not None
    sockets = ["libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"]
    systemctl("stop", *sockets, "libvirtd.service")
    try:
        until_lost(test_operator)
        health = test_client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "degraded")
        refused = test_client.post(f"/vms/{vm_id}/actions/stop")
        assert refused.status_code == 400 and refused.json()["detail"].startswith("Failed to stop VM: ")
        assert test_client.get(f"/vms/{vm_id}").json()["state"] == "running"
        assert test_client.post("/observer/check").json()["status"] == "error"
        os.kill(pid, signal.SIGKILL)
    finally:
        systemctl("start", *sockets, "libvirtd.service")
    until_connected(test_operator)
    other = wait_for_vm_state(test_client, "other", "error")
    assert (other["state_reason"], other["local_ip"]) == (
        "not running after the connection to the hypervisor was lost",
        None,
    )
    assert [lease["vm_id"] for lease in test_client.get("/network/leases").json()] == [vm_id]
    assert [issue["resource_id"] for issue in issues(test_client)] == ["other"]
    assert test_client.post("/vms/other/actions/restart").status_code == 202
    assert issues(test_client) == []


def test_in_the_midst_of_starts_and_stops(
    test_client: TestClient, test_operator: VmManager, real_vm: Callable[..., str]
) -> None:
    """Each answer is true or a refusal, what a machine says afterwards is so, and each can be started and stopped."""
    template = create_test_template(test_client)["name"]
    names = [f"vm-{number}" for number in range(4)]
    for name in names:
        assert test_client.post("/vms", json={"template_name": template, "name": name}).status_code == 201
    running, starting = names[:2], names[2:]
    for name in running:
        assert test_client.post(f"/vms/{name}/actions/start").status_code == 202
    with ThreadPoolExecutor(len(names)) as pool:
        stops = [pool.submit(test_client.post, f"/vms/{name}/actions/stop") for name in running]
        starts = [pool.submit(test_client.post, f"/vms/{name}/actions/start") for name in starting]
        kill()
        until_lost(test_operator)
    for answer in (future.result() for future in stops + starts):
        assert answer.status_code == 202 or (answer.status_code == 400 and answer.json()["detail"]), answer.text
    until_connected(test_operator)

    for name in names:
        assert test_client.post(f"/vms/{name}/actions/restart").status_code == 202
        assert test_client.get(f"/vms/{name}").json()["state"] == "running"
        verify_qemu_process(name)
    assert issues(test_client) == []
    for name in names:
        assert test_client.post(f"/vms/{name}/actions/stop?force=true").status_code == 202
    assert issues(test_client) == [] and test_client.get("/network/leases").json() == []
