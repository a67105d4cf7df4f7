"""What the role vm_machine promises."""

from __future__ import annotations

from xml.etree import ElementTree

from labyard.lab import LabHost
from labyard.testing.waiting import wait_until

# Of the module libvirt_domains; others, such as the service vms, may have domains of their own.
MARK = "https://labyard.example/domain/1"


class TestApplied:
    def test_every_machine_is_defined_as_declared(self, host: LabHost) -> None:
        for machine in host.value("vm_machine_machines"):
            domain = ElementTree.fromstring(host.check(f"virsh dumpxml {machine['name']}"))
            nic = domain.find("devices/interface")
            assert nic is not None
            assert nic.find("mac").get("address") == machine["mac"].lower()  # type: ignore[union-attr]
            assert nic.find("source").get("bridge") == host.value("vm_machine_bridge")  # type: ignore[union-attr]
            assert (domain.find("os/loader") is not None) == (machine.get("firmware") == "uefi")
            assert domain.find("devices/disk") is None, "the machine must have no disk"

    def test_defines_nothing_else(self, host: LabHost) -> None:
        declared = {machine["name"] for machine in host.value("vm_machine_machines")}
        found = host.check("virsh list --all --name").split()
        marked = {name for name in found if host.run(f"virsh metadata %s --uri {MARK}", name).rc == 0}
        assert marked == declared

    def test_console_is_kept_in_a_file(self, host: LabHost) -> None:
        for machine in host.value("vm_machine_machines")[:1]:
            domain = ElementTree.fromstring(host.check(f"virsh dumpxml {machine['name']}"))
            log = domain.find("devices/serial/log")
            assert log is not None
            assert log.get("file") == f"{host.value('vm_machine_console_folder')}/{machine['name']}.log"

    def test_a_machine_records_its_boot(self, host: LabHost) -> None:
        name = host.value("vm_machine_machines")[-1]["name"]
        folder = f"{host.value('vm_machine_capture_folder')}/{name}"
        running = host.check(f"virsh domstate {name}").strip() == "running"
        if not running:
            host.check(f"virsh --quiet start {name}")
        try:
            # The header of an empty capture has 24 bytes; the first packet comes when the firmware asks for an address.
            packet = f"[ $(stat --format %s {folder}/nic.pcap) -gt 24 ]"
            letter = f"grep --quiet serial_write {folder}/serial.trace"
            wait_until(lambda: host.run(f"{packet} && {letter}").rc == 0, "a packet and a letter are recorded")
        finally:
            if not running:
                host.check(f"virsh --quiet destroy {name}")

    def test_room_for_recorded_boots_is_bounded(self, host: LabHost) -> None:
        for machine in host.value("vm_machine_machines"):
            folder = f"{host.value('vm_machine_capture_folder')}/{machine['name']}"
            size = host.check("findmnt --noheadings --bytes --output SIZE,FSTYPE %s", folder).split()
            assert size == [str(int(host.value("vm_machine_capture_mb")) * 2**20), "tmpfs"]
            assert (
                host.check("stat --format %%a,%%U %s", folder).strip() == f"700,{host.value('vm_machine_capture_user')}"
            )


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert host.check("virsh list --all --name").split() == []

    def test_recorded_boots_are_gone(self, host: LabHost) -> None:
        folder = str(host.value("vm_machine_capture_folder"))
        assert not host.shell.file(folder).exists
        assert folder not in host.check("cat /proc/self/mounts")
        assert not host.shell.file("/etc/systemd/system/labyard-captures.service").exists
        assert host.run("grep -r 'labyard captures' /etc/apparmor.d/local").rc != 0
