"""Addresses of real machines: given by DHCP at the start, free again whichever way a machine ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from integration.vms.integration_utils import (
    BRIDGE,
    SUBNET,
    SUBNET_OF_ONE,
    TOKEN,
    create_test_template,
    reserved,
    verify_qemu_process,
    wait_for_vm_state,
)
from labyard.testing.waiting import wait_until
from labyard.vms.service.network import Network
from labyard.vms.settings import Settings

pytestmark = pytest.mark.integration

FIRST = str(SUBNET.network_address + 2)  # the gateway has 1


@pytest.fixture
def service_settings(service_settings: dict[str, Any]) -> dict[str, Any]:
    """Root disks are empty: the firmware, which is a DHCP client, goes to the network."""
    return service_settings | {"default_boot_disk": None}


def wait_until_seen(client: TestClient, vm_id: str) -> dict[str, Any]:
    """The machine's lease, when the DHCP server has given it to the machine's firmware."""

    def seen() -> dict[str, Any] | None:
        (lease,) = [lease for lease in client.get("/network/leases").json() if lease["vm_id"] == vm_id]
        return lease if lease["seen"] else None

    return wait_until(seen, f"VM {vm_id} has got its address by DHCP", pause=0.2)


def test_address_at_the_start(
    test_client: TestClient, test_network_manager: Network, real_vm: Callable[..., str], virt: Any
) -> None:
    vm = test_client.get(f"/vms/{real_vm()}").json()
    assert vm["local_ip"] == FIRST
    lease = wait_until_seen(test_client, vm["id"])
    assert (lease["ip"], lease["mac"]) == (FIRST, vm["mac"])
    network = virt.networkLookupByName(TOKEN)
    assert [(held["ipaddr"], held["mac"]) for held in network.DHCPLeases()] == [(FIRST, vm["mac"])]
    config = test_network_manager.config()
    assert config is not None and config.allocated == [FIRST]


def stop(client: TestClient, vm_id: str) -> None:
    assert client.post(f"/vms/{vm_id}/actions/stop").status_code == 202


def kill(client: TestClient, vm_id: str) -> None:
    pid = verify_qemu_process(vm_id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for_vm_state(client, vm_id, "error")


def delete(client: TestClient, vm_id: str) -> None:
    assert client.delete(f"/vms/{vm_id}").status_code == 204


def test_the_address_is_free_again_and_given_to_another(
    test_client: TestClient, real_vm: Callable[..., str], virt: Any
) -> None:
    vm_id = real_vm("vm-0")
    network = virt.networkLookupByName(TOKEN)
    for number, end in enumerate((stop, kill, delete), start=1):
        wait_until_seen(test_client, vm_id)
        end(test_client, vm_id)
        assert test_client.get("/network/leases").json() == []
        assert (reserved(network), network.DHCPLeases()) == ({}, [])
        config = test_client.get("/network/config").json()
        assert (config["allocated_ips"], config["available_ips"]) == ([], 253)

        vm_id = real_vm(f"vm-{number}")
        vm = test_client.get(f"/vms/{vm_id}").json()
        assert vm["local_ip"] == FIRST
        assert wait_until_seen(test_client, vm_id)["mac"] == vm["mac"]


def test_network_config(test_client: TestClient, real_vm: Callable[..., str], virt: Any) -> None:
    empty = test_client.get("/network/config").json()
    assert empty == {
        "vlan_id": 100,
        "bridge_name": BRIDGE,
        "subnet": str(SUBNET),
        "gateway": str(SUBNET.network_address + 1),
        "dns": ["8.8.8.8", "8.8.4.4"],
        "allocated_ips": [],
        "available_ips": 253,
        "network_name": TOKEN,
        "mode": "nat",
        "vlan_applied": False,
        "ip_mac_filter": empty["ip_mac_filter"],
    }
    network = virt.networkLookupByName(TOKEN)
    assert network.isActive() and network.bridgeName() == BRIDGE
    rules = subprocess.run(["iptables-save", "--table", "nat"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"-s {SUBNET} ! -d {SUBNET} .*-j MASQUERADE", rules)
    real_vm("web-1")
    real_vm("web-10")
    config = test_client.get("/network/config").json()
    assert config["allocated_ips"] == [FIRST, str(SUBNET.network_address + 3)]
    assert config["available_ips"] == 251


def test_changed_settings_make_the_network_foreign(
    start_service: Callable[..., TestClient], service_settings: dict[str, Any], virt: Any
) -> None:
    """It is not altered: machines may be on it."""
    client = start_service()
    before = virt.networkLookupByName(TOKEN).XMLDesc()
    template = create_test_template(client)["name"]
    assert client.post("/vms", json={"template_name": template, "name": "web-1"}).status_code == 201

    client = start_service(dns="9.9.9.9")
    health = client.get("/health")
    found = health.json()["checks"]["network"]
    assert found.startswith(f"error: network {TOKEN} is foreign: ") and "DNS 9.9.9.9" in found
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    refused = client.post("/vms/web-1/actions/start")
    assert refused.status_code == 400 and "is foreign" in refused.json()["detail"]
    vm = client.get("/vms/web-1").json()
    assert vm["state"] == "error" and "is foreign" in vm["state_reason"]
    assert client.get("/network/leases").json() == []
    assert virt.networkLookupByName(TOKEN).XMLDesc() == before

    client = start_service(dns=Settings().dns)
    assert client.get("/health").json()["checks"]["network"] == "ok"
    assert client.post("/vms/web-1/actions/start").status_code == 202


def test_a_full_subnet_refuses_the_next_start(start_service: Callable[..., TestClient]) -> None:
    client = start_service(
        network_mode="isolated", network_name=f"{TOKEN}-1", bridge_name=f"{BRIDGE}1", subnet=SUBNET_OF_ONE
    )
    template = create_test_template(client)["name"]
    for name in ("first", "second"):
        assert client.post("/vms", json={"template_name": template, "name": name}).status_code == 201
    assert client.post("/vms/first/actions/start").status_code == 202
    refused = client.post("/vms/second/actions/start")
    assert refused.status_code == 400 and f"No available IPs in subnet {SUBNET_OF_ONE}" in refused.json()["detail"]
    assert client.get("/vms/second").json()["state"] == "error"
    verify_qemu_process("second", expected=False)

    assert client.post("/vms/first/actions/stop").status_code == 202
    assert client.post("/vms/second/actions/start").status_code == 202
    assert client.get("/vms/second").json()["local_ip"] == str(SUBNET_OF_ONE.network_address + 2)
