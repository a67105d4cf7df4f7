"""A lab with ISC dhcpd (`lab_dhcp: isc`), built beside the one that is up: machines boot by sessions, and their entries
stand in dhcpd's own file for as long as these live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from second_lab import Inventory

from labyard.lab import Lab
from labyard.testing import NetbootApi, PoweredMachine

BOOT_SECONDS = 120
# On a machine that has not built this lab yet the image of its boot host is baked first.
BUILD_SECONDS = 600
pytestmark = pytest.mark.timeout(BUILD_SECONDS + 300)

# Besides DHCP, the ways to boot that differ most.
CELLS = {
    "workstation": {"boot_method": "sanboot", "transport": "tftp"},
    "efi": {"boot_method": "iscsi_root", "transport": "http"},
}
MACHINES = [
    {"name": name, "firmware": firmware, "mac": f"52:54:00:81:01:0{number}", "address": f"10.81.2.{number}"}
    | {"vm_host": "vmhost1", "memory_mb": 256, "disk": "session"}
    for number, (name, firmware) in enumerate((("workstation", "bios"), ("efi", "uefi")), start=1)
]


@pytest.fixture(scope="module")
def isc_lab(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    inventory = Inventory.copied_to(tmp_path_factory.mktemp("isc") / "inventory")
    inventory.edit("lab_dhcp: kea", "lab_dhcp: isc")
    inventory.set_apart("isc", 80, {"netboot", "vm_hosts"}, MACHINES)
    # Both labs are on this machine: what the first found out about it need not be tried again.
    found = json.loads(lab.host("vm_hosts").check("cat /etc/ansible/facts.d/labyard_vm_host.fact"))
    try:
        built = inventory.run("site.yml", "--extra-vars", f"vm_host_accel={found['accel']}", seconds=BUILD_SECONDS)
        assert built.returncode == 0, built.stdout[-3000:]
        yield Lab(inventory.hosts)
    finally:
        destroyed = inventory.run("playbooks/destroy.yml")
    assert destroyed.returncode == 0, destroyed.stdout[-3000:]


def test_machines_boot_and_dhcpd_knows_them_while_their_sessions_live(isc_lab: Lab) -> None:
    api, host = NetbootApi(isc_lab), isc_lab.host("netboot")
    path = str(host.value("boot_image_path"))
    image, checksum = api.image_id(path, "labyard-boot"), host.check("sha256sum %s", path)
    machines = {name: PoweredMachine(isc_lab, isc_lab.machines[name]) for name in CELLS}

    def entry(name: str) -> tuple[int, str]:
        """Status and output of the requirement's command: 0 when grep finds the entry, 1 when the file has none."""
        found = host.run(f'grep "host {name}" /etc/dhcp/dhcpd.conf')
        return found.rc, found.stdout

    with ExitStack() as running:
        sessions = {}
        for name, machine in machines.items():
            assert entry(name) == (1, "")
            number = api.machine_id(machine.machine)
            sessions[name] = running.enter_context(api.session(number, image, **CELLS[name]))
            running.callback(machine.power_off)
            assert entry(name) == (0, f"host {name} {{\n")
        for machine in machines.values():
            machine.power_on()
        for name, machine in machines.items():
            session = api.wait_for_phase(sessions[name]["session"]["id"], "booted", BOOT_SECONDS)
            reports = machine.wait_for("done", BOOT_SECONDS).reports
            assert (reports["done"], reports["firmware"]) == ("ok", machine.machine.firmware)
            assert reports["ibft.target"] == sessions[name]["iscsi_details"]["target_iqn"]
            assert session["client_ip"] == machine.machine.address
            events = sorted(api.events(session["id"]), key=lambda event: event["created_at"])
            assert list(dict.fromkeys((event["type"], event["source"]) for event in events)) == [
                ("dhcp_request", "dhcp"),
                ("tftp_request", "tftp"),
                ("ipxe_load", "client"),
                ("iscsi_connect", "iscsi"),
                ("boot_success", "client"),
            ], events
        status = api.must("GET", "/api/v1/dhcp/status")
        assert status["service_running"] and status["config_valid"] and status["error"] is None
        assert status["machines_configured"] == len(machines)
        assert api.findings() == []

        api.must("POST", f"/api/v1/sessions/{sessions['workstation']['session']['id']}/stop")
        assert entry("workstation") == (1, "")
        assert entry("efi") == (0, "host efi {\n"), "the other machine's entry went as well"
    assert entry("efi") == (1, "")
    assert api.findings() == []
    assert host.check("sha256sum %s", path) == checksum, "the base image was written"
