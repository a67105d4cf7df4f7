"""The boot matrix: firmware x transport x disk, every cell a real boot; the images' formats go round."""

from __future__ import annotations

from itertools import cycle, product

import pytest

from labyard.lab import Lab, LabHost
from labyard.testing import NetbootApi, PoweredMachine

BOOT_SECONDS = 120
FORMATS = ("raw", "qcow2", "vhdx")
METHODS = {"sanboot": "ram", "iscsi_root": "iscsi", "ram_root": "ram"}
CELLS = [
    pytest.param(machine, transport, method, form, id=f"{firmware}-{transport}-{method}-{form}")
    for ((firmware, machine), transport, method), form in zip(
        product((("bios", "s3"), ("uefi", "s2")), ("tftp", "http"), METHODS),
        # Four formats in a row of three methods, so that every method meets every format.
        cycle((*FORMATS, FORMATS[0])),
        strict=False,
    )
]


@pytest.mark.parametrize(("name", "transport", "method", "form"), CELLS)
def test_cell(
    lab: Lab, netboot_api: NetbootApi, boot_host: LabHost, name: str, transport: str, method: str, form: str
) -> None:
    path = str(boot_host.value("boot_image_path")).removesuffix("raw") + form
    image = netboot_api.image_id(path, "labyard-boot" if form == "raw" else f"labyard-boot-{form}")
    before = boot_host.check("sha256sum %s", path)
    machine = PoweredMachine(lab, lab.machines[name])
    with netboot_api.session(
        netboot_api.machine_id(machine.machine), image, boot_method=method, transport=transport
    ) as started:
        try:
            machine.power_on()
            session = netboot_api.wait_for_phase(started["session"]["id"], "booted", BOOT_SECONDS)
            reports = machine.wait_for("done", BOOT_SECONDS).reports
        finally:
            machine.power_off()
        assert (reports["done"], reports["root"], reports["firmware"]) == (
            "ok",
            METHODS[method],
            machine.machine.firmware,
        )
        if method != "ram_root":
            assert reports["ibft.target"] == started["iscsi_details"]["target_iqn"]
        assert session["boot_method"] == method and session["transport"] == transport
        fetched_by_tftp = boot_host.check(
            "journalctl --no-pager --output cat --unit tftpd-hpa --since %s",
            started["session"]["started_at"][:19].replace("T", " "),
        )
        script = f"filename machines/{machine.machine.mac.lower().replace(':', '-')}.ipxe"
        assert (script in fetched_by_tftp) == (transport == "tftp")
        if method != "sanboot":
            assert ("/vmlinuz" in fetched_by_tftp) == (transport == "tftp")
    assert boot_host.check("sha256sum %s", path) == before, "the base image was written"


def test_firmware_that_boots_over_http(lab: Lab, netboot_api: NetbootApi, boot_host: LabHost) -> None:
    """UEFI HTTP boot: OVMF fetches iPXE from the service itself, and nothing comes by TFTP."""
    machine = PoweredMachine(lab, lab.machines["s5"])
    image = netboot_api.image_id(str(boot_host.value("boot_image_path")), "labyard-boot")
    with netboot_api.session(netboot_api.machine_id(machine.machine), image, transport="http") as started:
        try:
            machine.power_on()
            session = netboot_api.wait_for_phase(started["session"]["id"], "booted", BOOT_SECONDS)
            console = machine.wait_for("done", BOOT_SECONDS)
        finally:
            machine.power_off()
        assert (console.reports["done"], console.reports["firmware"]) == ("ok", "uefi")
        assert console.reports["ibft.target"] == started["iscsi_details"]["target_iqn"]
        assert "Start HTTP Boot over IPv4" in console.plain
        assert {event["type"] for event in netboot_api.events(session["id"])} == {
            "dhcp_request",
            "ipxe_load",
            "iscsi_connect",
            "boot_success",
        }
