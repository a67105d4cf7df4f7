"""A diskless machine boots over the network: power, lease, TFTP, iSCSI, userland, with each daemon's own evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from labyard.lab import LabHost, Machine
from labyard.testing import Console, PoweredMachine
from labyard.testing.waiting import wait_until

# Generous, since a shared machine under software emulation can be slow; `make bench` holds the targets.
BOOT_SECONDS = 120

TakeMachine = Callable[[str], PoweredMachine]


@dataclass(frozen=True)
class Evidence:
    """What a machine's console and the boot server's daemons said of one boot."""

    machine: Machine
    console: Console
    leases: str
    tftp: str
    phone_home: str
    nexus: str
    disk: dict[str, Any]


def log_size(host: LabHost, path: str) -> int:
    result = host.run("stat --format %%s %s", path)
    return int(result.stdout) if result.rc == 0 else 0


def boot(machine: PoweredMachine, host: LabHost) -> Evidence:
    """Power the machine on, wait until it is done, and collect what was said since."""
    leases, calls = str(host.value("dhcp_lease_log")), str(host.value("boot_http_log"))
    sizes = {path: log_size(host, path) for path in (leases, calls)}
    began = machine.power_on()
    console = machine.wait_for("done", BOOT_SECONDS)
    # nginx writes a call down after its answer; the boot's last one is this.
    last = f"tail -c +{sizes[calls] + 1} {calls} | grep --quiet event=disk_ok"
    wait_until(lambda: host.run(last).rc == 0, lambda: f"it phones home; its console ends with:\n{console.tail()}")
    since = {path: host.check(f"tail -c +{size + 1} {path}") for path, size in sizes.items()}
    disk = next(disk for disk in host.value("lab_disks") if disk["machine"] == machine.machine.name)
    shown = host.check("tgtadm --lld iscsi --mode target --op show")
    return Evidence(
        machine=machine.machine,
        console=console,
        leases=since[leases],
        tftp=host.check(f"journalctl --no-pager --output cat --unit tftpd-hpa --since @{began.timestamp():.3f}"),
        phone_home=since[calls],
        nexus=shown.split(f": {disk['iqn']}\n")[1].split("LUN information")[0],
        disk=disk,
    )


@pytest.fixture(scope="module", params=["bios", "uefi"])
def evidence(request: pytest.FixtureRequest, lab: Any, boot_host: LabHost) -> Any:
    """One real boot for each firmware; the tests below read its evidence."""
    found = next(machine for machine in lab.machines_with_disk if machine.firmware == request.param)
    machine = PoweredMachine(lab, found)
    before = boot_host.check(f"sha256sum {boot_host.value('iscsi_target_image')}")
    try:
        yield boot(machine, boot_host)
    finally:
        machine.power_off()
    assert boot_host.check(f"sha256sum {boot_host.value('iscsi_target_image')}") == before, "the base image was written"


def test_kea_leased_the_reserved_address(evidence: Evidence) -> None:
    mac, address = evidence.machine.mac.lower(), evidence.machine.address
    assert any(
        mac in line and f"lease {address} has been allocated" in line for line in evidence.leases.splitlines()
    ), evidence.leases


def test_tftp_served_programs_and_scripts_in_order(evidence: Evidence) -> None:
    script = f"machines/{evidence.machine.mac.lower().replace(':', '-')}.ipxe"
    # A BIOS machine's card brings its own iPXE; UEFI firmware loads it first, asking for the size before.
    wanted = ["boot.ipxe", script]
    if evidence.machine.firmware == "uefi":
        wanted.insert(0, "boot/snponly.efi")
    asked = [
        line.rpartition(" ")[2] for line in evidence.tftp.splitlines() if f"RRQ from {evidence.machine.address}" in line
    ]
    assert list(dict.fromkeys(asked)) == wanted, evidence.tftp


def test_machine_is_logged_in_to_its_target(evidence: Evidence) -> None:
    assert f"Initiator: {evidence.disk['initiator']}" in evidence.nexus
    assert f"IP Address: {evidence.machine.address}" in evidence.nexus


def test_userland_came_up_under_its_firmware(evidence: Evidence) -> None:
    assert evidence.console.reports["userland"] == "up", evidence.console.tail()
    assert evidence.console.reports["firmware"] == evidence.machine.firmware


def test_userland_knows_its_target_from_the_ibft(evidence: Evidence, boot_host: LabHost) -> None:
    reports = evidence.console.reports
    assert reports["ibft.target"] == evidence.disk["iqn"]
    assert reports["ibft.initiator"] == evidence.disk["initiator"]
    assert reports["ibft.portal"].startswith(boot_host.address)


def test_disk_was_written_and_read_back(evidence: Evidence) -> None:
    assert evidence.console.reports["disk.write_read"] == "ok", evidence.console.tail()
    assert evidence.console.reports["done"] == "ok"


def test_machine_phoned_home(evidence: Evidence) -> None:
    calls = [line for line in evidence.phone_home.splitlines() if f'"client":"{evidence.machine.address}"' in line]
    assert [event for event in ("event=userland", "event=disk_ok") for line in calls if event in line] == [
        "event=userland",
        "event=disk_ok",
    ], evidence.phone_home


def test_machines_on_one_image_do_not_see_each_other(machine: TakeMachine, lab: Any) -> None:
    """Both boot the same image, each writes its MAC on its disk; each finds only its own at the next boot."""
    pair = [machine(found.name) for found in lab.machines_with_disk if found.firmware == "bios"][1:3]
    for _ in range(2):
        for one in pair:
            one.power_on()
        markers = [one.wait_for("done", BOOT_SECONDS).reports["disk.marker"] for one in pair]
    assert [marker.lower() for marker in markers] == [one.machine.mac.lower() for one in pair]


def test_machine_without_a_disk_is_shown_the_menu(machine: TakeMachine, boot_host: LabHost, lab: Any) -> None:
    """No script of its own: the generic script's menu says so, and trying again boots once there is one."""
    last = machine([found.name for found in lab.machines_with_disk if found.firmware == "bios"][-1])
    script = f"{boot_host.value('ipxe_root')}/machines/{last.machine.mac.lower().replace(':', '-')}.ipxe"
    boot_host.check(f"mv {script} {script}.away")
    try:
        last.power_on()
        wait_until(lambda: "no session for this machine" in last.console().text, "it says so", BOOT_SECONDS)
    finally:
        boot_host.check(f"mv {script}.away {script}")
    assert last.wait_for("done", BOOT_SECONDS).reports["done"] == "ok"
