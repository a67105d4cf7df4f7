"""Domain definitions, without libvirt."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from labyard.vms.adapters import domain_xml
from labyard.vms.adapters.hypervisor import DataDisk, DomainSpec

VM = Path("/srv/vman/vms/web-1")
SPEC = DomainSpec(
    vm_id="web-1",
    uuid="1c0800ce-08c7-49fd-bb07-98c23b6ce814",
    mac="52:54:00:00:00:01",
    memory_mib=512,
    vcpus=1,
    root=VM / "root.qcow2",
    seed=VM / "seed.iso",
    console=VM / "console.txt",
)
HOST = domain_xml.DomainHost("labyard-", "qemu", "maximum", "nat", "labyard-vman", "192.168.100.1", True)
DISK = DataDisk(
    "0af44b50-7850-4321-bc30-57ce3da26a15", Path("/srv/vman/disks/0af44b50-7850-4321-bc30-57ce3da26a15.qcow2"), "sdq"
)
# Section 5.2 of the contract, with values in the place of its dots, and a screen (ours).
SHAPE = f"""
<domain type='qemu'><name>labyard-web-1</name><uuid>{SPEC.uuid}</uuid>
  <metadata><labyard:vm xmlns:labyard='urn:labyard:vms:1' id='web-1' config='{domain_xml.config_hash(SPEC, HOST)}'/></metadata>
  <memory unit='MiB'>512</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/><apic/></features><cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{VM}/root.qcow2'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{VM}/seed.iso'/><target dev='vdb' bus='virtio'/><readonly/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='labyard-vman'/><model type='virtio'/><boot order='2'/>
      <filterref filter='clean-traffic'><parameter name='CTRL_IP_LEARNING' value='dhcp'/><parameter name='DHCPSERVER' value='192.168.100.1'/></filterref></interface>
    <serial type='pty'><target port='0'/><log file='{VM}/console.txt' append='on'/></serial>
    <video><model type='vga'/></video>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices></domain>
"""  # noqa: E501


def plain(xml: str) -> str:
    return ET.canonicalize(xml, strip_text=True)


def test_the_shape_is_that_of_the_contract() -> None:
    assert plain(domain_xml.build(SPEC, HOST)) == plain(SHAPE)


@pytest.mark.parametrize(("mode", "cards"), [("isolated", ["network"]), ("user", ["user"]), ("none", [])])
def test_network_modes(mode: str, cards: list[str]) -> None:
    root = ET.fromstring(domain_xml.build(SPEC, replace(HOST, network_mode=mode)))
    assert [card.get("type") for card in root.iterfind("devices/interface")] == cards
    assert len(root.findall("devices/interface/filterref")) == (mode == "isolated")


def test_names_are_escaped() -> None:
    spec = replace(SPEC, console=Path("/srv/<&'\">.txt"))
    log = ET.fromstring(domain_xml.build(spec, HOST)).find("devices/serial/log")
    assert log is not None and log.get("file") == "/srv/<&'\">.txt"


def test_a_data_disk() -> None:
    text = domain_xml.build(replace(SPEC, disks=(DISK,)), HOST)
    read = domain_xml.read(text)
    assert read.disks == {DISK.disk_id: DISK}
    assert read.targets == {"vda", "vdb", "sdq"}
    address = ET.fromstring(text).find("devices/disk/address")
    assert address is not None and (address.get("controller"), address.get("unit")) == ("0", "16")


def test_the_place_of_a_redfish_medium_is_taken() -> None:
    """The emulator names it sdx and puts it into the first place that is free on the controller."""
    root = ET.fromstring(domain_xml.build(replace(SPEC, disks=(replace(DISK, target="sda"),)), HOST))
    devices = root.find("devices")
    assert devices is not None
    media = ET.SubElement(devices, "disk", type="file", device="cdrom")
    ET.SubElement(media, "target", dev="sdx", bus="scsi")
    ET.SubElement(media, "address", type="drive", controller="0", bus="0", target="0", unit="1")
    assert domain_xml.read(ET.tostring(root, encoding="unicode")).targets == {"vda", "vdb", "sda", "sdx", "sdb"}


def test_the_hash_covers_all_but_the_data_disks() -> None:
    same = domain_xml.config_hash(SPEC, HOST)
    assert domain_xml.config_hash(replace(SPEC, disks=(DISK,)), HOST) == same
    assert domain_xml.read(domain_xml.build(SPEC, HOST)).config == same
    changes = [replace(SPEC, memory_mib=513), replace(SPEC, mac="52:54:00:00:00:02"), replace(SPEC, seed=VM / "other")]
    assert same not in {domain_xml.config_hash(changed, HOST) for changed in changes}
    assert domain_xml.config_hash(SPEC, replace(HOST, ip_mac_filter=False)) != same


def test_disks_come_and_go_and_all_else_stays() -> None:
    root = ET.fromstring(domain_xml.build(SPEC, HOST))
    devices = root.find("devices")
    assert devices is not None
    media = ET.SubElement(devices, "disk", type="file", device="cdrom")
    ET.SubElement(media, "target", dev="sdx", bus="scsi")
    foreign = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(foreign, "source", file="/elsewhere.qcow2")
    ET.SubElement(foreign, "target", dev="sdw", bus="scsi")
    ET.SubElement(foreign, "serial").text = "someone's"
    before = ET.tostring(root, encoding="unicode")
    assert domain_xml.with_disks(before, ()) is None
    with_one = domain_xml.with_disks(before, (DISK,))
    assert with_one is not None
    assert domain_xml.with_disks(with_one, (DISK,)) is None
    moved = domain_xml.with_disks(with_one, (replace(DISK, target="sda"),))
    assert moved is not None
    assert domain_xml.read(moved).disks[DISK.disk_id].target == "sda"
    after = domain_xml.with_disks(moved, ())
    assert after is not None
    assert plain(after) == plain(before)


def test_a_definition_that_is_not_ours_can_be_read() -> None:
    read = domain_xml.read(
        "<domain type='kvm'><name>x</name><devices><disk><target dev='hda'/></disk></devices></domain>"
    )
    assert (read.vm_id, read.config, read.disks, read.targets) == ("", "", {}, {"hda"})
