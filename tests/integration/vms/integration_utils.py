"""Helpers of the tests on a real libvirt (contract section 12), and the names that belong to this process alone."""

from __future__ import annotations

import json
import os
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from labyard.testing.waiting import PATIENCE, wait_until

TEMPLATES = {  # name: CPUs, MiB
    "small": (1, 512),
    "medium": (2, 1024),
    "large": (4, 2048),
}
DISK_SIZES = (1, 5, 10)  # GiB
QCOW2 = b"QFI\xfb"

# A pytest-xdist worker is a process: its number keeps workers, and runs side by side, apart.
_PID = os.getpid()
TOKEN = f"lyt{_PID:x}"
DOMAIN_PREFIX = f"{TOKEN}-"
BRIDGE = f"{TOKEN}br"
SUBNET = IPv4Network(f"10.{201 + (_PID >> 8) % 50}.{_PID & 255}.0/24")
ADAPTER_SUBNET = IPv4Network(f"10.{151 + (_PID >> 8) % 50}.{_PID & 255}.0/24")
SUBNET_OF_ONE = IPv4Network(f"192.168.{_PID & 255}.{(_PID >> 8 & 63) * 4}/30")  # room for one machine

_POLL = 0.1


def wait_for_vm_state(
    client: TestClient, vm_id: str, state: str, timeout: float = PATIENCE, interval: float = 0.2
) -> dict[str, Any]:
    """The VM's JSON when it is in this state. TimeoutError names the last state and its reason."""
    deadline = time.monotonic() + timeout
    while True:
        answer = client.get(f"/vms/{vm_id}")
        assert answer.status_code == 200, answer.text
        vm: dict[str, Any] = answer.json()
        if vm["state"] == state:
            return vm
        if time.monotonic() >= deadline:
            raise TimeoutError(
                f"VM {vm_id} was not {state} within {timeout:g} s: it is {vm['state']}, reason: {vm['state_reason']}"
            )
        time.sleep(interval)


def verify_qemu_process(vm_id: str, expected: bool = True, timeout: float = PATIENCE) -> int | None:
    """The pid of the VM's QEMU, or None; AssertionError when that is not as expected within `timeout` seconds."""

    def pid() -> int | None:
        return _qemu_processes().get(f"{DOMAIN_PREFIX}{vm_id}")

    def as_expected() -> tuple[int | None] | None:
        found = pid()
        return (found,) if (found is not None) == expected else None

    return wait_until(
        as_expected, lambda: f"QEMU of VM {vm_id}: pid {pid()}, expected: {expected}", timeout, pause=_POLL
    )[0]


def verify_disk_file(storage: Path, disk_id: str, expected: bool = True) -> Path:
    """The path of the disk's file; AssertionError when it is (not) there against expectation, or is no qcow2 file."""
    path = storage / "disks" / f"{disk_id}.qcow2"
    assert path.exists() == expected, f"{path} exists: {not expected}, expected: {expected}"
    if expected:
        with path.open("rb") as file:
            assert file.read(len(QCOW2)) == QCOW2, f"{path} has no qcow2 header"
    return path


def cleanup_test_resources(
    client: TestClient, vms: Iterable[str] = (), disks: Iterable[str] = (), templates: Iterable[str] = ()
) -> list[str]:
    """Delete VMs, then disks, then templates. The paths of what is left, each with why; never raises."""
    left = []
    for kind, names in (("vms", vms), ("disks", disks), ("templates", templates)):
        for name in names:
            path = f"/{kind}/{name}"
            try:
                answer = client.delete(path)
            except Exception as error:
                left.append(f"{path}: {error!r}")
                continue
            if answer.status_code not in (204, 404):
                left.append(f"{path}: {answer.status_code} {answer.text}")
    return left


def create_test_template(client: TestClient, size: str = "small", name: str | None = None) -> dict[str, Any]:
    """A new template of one of the sizes in TEMPLATES, with a name of its own when none is given."""
    cpus, memory = TEMPLATES[size]
    given = {"name": name or f"{size}-{uuid.uuid4().hex[:8]}", "cpu_count": cpus, "ram_amount": memory}
    answer = client.post("/templates", json=given)
    assert answer.status_code == 201, answer.text
    template: dict[str, Any] = answer.json()
    return template


def qemu_names() -> list[str]:
    """The guests of this process's prefix that a QEMU runs for, libvirt's or not."""
    return [name for name in _qemu_processes() if name.startswith(DOMAIN_PREFIX)]


def reserved(network: Any) -> dict[str, str]:
    """Reserved addresses of a libvirt network, by MAC. The one that holds the gateway's place is not counted."""
    addresses = ET.fromstring(network.XMLDesc()).iterfind("ip")
    return {
        host.get("mac", ""): host.get("ip", "")
        for ip in addresses
        for host in ip.iterfind("dhcp/host")
        if host.get("ip") != ip.get("address")
    }


def ports(network: Any) -> list[str]:
    """The interfaces of guests on a libvirt network."""
    return sorted(entry.name for entry in Path(f"/sys/class/net/{network.bridgeName()}/brif").iterdir())


def disks_in_qemu(virt: Any, vm_id: str) -> dict[str, str]:
    """What QEMU itself says (query-block): the qdev of each data disk by the path of its image."""
    import libvirt_qemu

    domain = virt.lookupByName(f"{DOMAIN_PREFIX}{vm_id}")
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": "query-block"}), 0))
    return {
        entry["inserted"]["file"]: entry["qdev"]
        for entry in answer["return"]
        if "inserted" in entry and entry["qdev"].startswith("scsi")
    }


def _qemu_processes() -> dict[str, int]:
    """Pids of all live QEMU processes by the name of their guest."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended while we looked
        if Path(words[0]).name.startswith("qemu-") and "-name" in words[:-1]:
            name = words[words.index("-name") + 1].split(",")[0].removeprefix("guest=")
            found[name] = int(entry.name)
    return found
