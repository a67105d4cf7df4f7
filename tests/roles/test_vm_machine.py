"""What the role vm_machine promises."""

from __future__ import annotations

from xml.etree import ElementTree

from labyard.lab import LabHost


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
        assert set(host.check("virsh list --all --name").split()) == declared

    def test_console_is_kept_in_a_file(self, host: LabHost) -> None:
        for machine in host.value("vm_machine_machines")[:1]:
            domain = ElementTree.fromstring(host.check(f"virsh dumpxml {machine['name']}"))
            log = domain.find("devices/serial/log")
            assert log is not None
            assert log.get("file") == f"{host.value('vm_machine_console_folder')}/{machine['name']}.log"


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert host.check("virsh list --all --name").split() == []
