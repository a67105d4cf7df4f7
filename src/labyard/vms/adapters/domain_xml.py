"""Domain definitions (contract section 5.2), built and read with an XML library. Needs no libvirt."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labyard.vms.adapters.hypervisor import DataDisk, DomainSpec
from labyard.vms.names import TARGETS

NAMESPACE = "urn:labyard:vms:1"
VM_TAG = f"{{{NAMESPACE}}}vm"
ET.register_namespace("labyard", NAMESPACE)


@dataclass(frozen=True)
class DomainHost:
    """What all domains of a service have in common. `network_mode`: nat, isolated, user or none."""

    prefix: str
    domain_type: str
    cpu_mode: str  # maximum or host-passthrough; empty for the default model
    network_mode: str
    network_name: str
    gateway: str
    ip_mac_filter: bool


@dataclass(frozen=True)
class DomainRead:
    """A definition as libvirt has it. `vm_id` and `config` are empty without our metadata element."""

    vm_id: str
    config: str
    macs: tuple[str, ...]
    files: tuple[str, ...]
    disks: dict[str, DataDisk]  # by disk id
    targets: frozenset[str]  # all that are taken, ours or not; by their place on the SCSI bus, too
    aliases: dict[str, str]  # device alias by disk id; of a running domain only


def build(spec: DomainSpec, host: DomainHost) -> str:
    """The whole definition, data disks included, with its hash in the metadata element."""
    domain = _domain(spec, host)
    element = domain.find(f"metadata/{VM_TAG}")
    assert element is not None
    element.set("config", config_hash(spec, host))
    _put_disks(domain, spec.disks)
    return ET.tostring(domain, encoding="unicode")


def config_hash(spec: DomainSpec, host: DomainHost) -> str:
    """Hash of all that `build` generates but the data disks: a domain is not made anew because a disk came or went."""
    return hashlib.sha256(ET.tostring(_domain(spec, host))).hexdigest()


def disk_xml(disk: DataDisk) -> str:
    """A data disk as attachDevice and detachDevice take it."""
    return ET.tostring(_data_disk(disk), encoding="unicode")


def read(text: str) -> DomainRead:
    """What we need to know of a definition, stored or live, ours or not."""
    domain = ET.fromstring(text)
    element = domain.find(f"metadata/{VM_TAG}")
    disks = dict(_data_disks(domain))
    return DomainRead(
        vm_id="" if element is None else element.get("id", ""),
        config="" if element is None else element.get("config", ""),
        macs=tuple(mac.get("address", "").lower() for mac in domain.iterfind("devices/interface/mac")),
        files=tuple(source.get("file", "") for source in domain.iterfind("devices/disk/source")),
        disks={disk_id: _as_disk(disk_id, node) for disk_id, node in disks.items()},
        targets=frozenset(node.get("dev", "") for node in domain.iterfind("devices/disk/target"))
        | frozenset(_scsi_places(domain)),
        aliases={disk_id: _attribute(node, "alias", "name") for disk_id, node in disks.items()},
    )


def with_disks(text: str, disks: Iterable[DataDisk]) -> str | None:
    """The stored definition with exactly these data disks and all else untouched; None when it has them already."""
    wanted = {disk.disk_id: disk for disk in disks}
    domain = ET.fromstring(text)
    devices = domain.find("devices")
    assert devices is not None
    found = dict(_data_disks(domain))
    stale = [disk_id for disk_id, node in found.items() if wanted.get(disk_id) != _as_disk(disk_id, node)]
    missing = [disk for disk_id, disk in wanted.items() if disk_id not in found or disk_id in stale]
    if not stale and not missing:
        return None
    for disk_id in stale:
        devices.remove(found[disk_id])
    _put_disks(domain, missing)
    return ET.tostring(domain, encoding="unicode")


def _domain(spec: DomainSpec, host: DomainHost) -> ET.Element:
    domain = ET.Element("domain", type=host.domain_type)
    _child(domain, "name", text=host.prefix + spec.vm_id)
    _child(domain, "uuid", text=spec.uuid)
    _child(_child(domain, "metadata"), VM_TAG, id=spec.vm_id)
    _child(domain, "memory", text=str(spec.memory_mib), unit="MiB")
    _child(domain, "vcpu", text=str(spec.vcpus))
    _child(_child(domain, "os"), "type", text="hvm", arch="x86_64", machine="q35")
    features = _child(domain, "features")
    _child(features, "acpi")
    _child(features, "apic")
    if host.cpu_mode:
        _child(domain, "cpu", mode=host.cpu_mode)
    _child(domain, "on_poweroff", text="destroy")
    _child(domain, "on_reboot", text="restart")
    _child(domain, "on_crash", text="destroy")
    devices = _child(domain, "devices")
    _child(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    root = _file_disk(devices, "qcow2", spec.root, "vda", "virtio")
    _child(root, "boot", order="1")
    _child(_file_disk(devices, "raw", spec.seed, "vdb", "virtio"), "readonly")
    _interface(devices, spec, host)
    serial = _child(devices, "serial", type="pty")
    _child(serial, "target", port="0")
    _child(serial, "log", file=str(spec.console), append="on")
    # For screenshots. There is no graphics server: nobody can look at it over a network.
    _child(_child(devices, "video"), "model", type="vga")
    _child(_child(devices, "rng", model="virtio"), "backend", text="/dev/urandom", model="random")
    return domain


def _interface(devices: ET.Element, spec: DomainSpec, host: DomainHost) -> None:
    if host.network_mode == "none":
        return
    on_network = host.network_mode != "user"
    interface = _child(devices, "interface", type="network" if on_network else "user")
    _child(interface, "mac", address=spec.mac)
    if on_network:
        _child(interface, "source", network=host.network_name)
    _child(interface, "model", type="virtio")
    _child(interface, "boot", order="2")
    if on_network and host.ip_mac_filter:
        rule = _child(interface, "filterref", filter="clean-traffic")
        _child(rule, "parameter", name="CTRL_IP_LEARNING", value="dhcp")
        _child(rule, "parameter", name="DHCPSERVER", value=host.gateway)


def _file_disk(parent: ET.Element, image_format: str, path: Path, target: str, bus: str) -> ET.Element:
    disk = _child(parent, "disk", type="file", device="disk")
    _fill_disk(disk, image_format, path, target, bus)
    return disk


def _fill_disk(disk: ET.Element, image_format: str, path: Path, target: str, bus: str) -> None:
    _child(disk, "driver", name="qemu", type=image_format)
    _child(disk, "source", file=str(path))
    _child(disk, "target", dev=target, bus=bus)


def _data_disk(disk: DataDisk) -> ET.Element:
    node = ET.Element("disk", type="file", device="disk")
    _fill_disk(node, "qcow2", disk.path, disk.target, "scsi")
    _child(node, "serial", text=disk.disk_id)
    # Named, because libvirt would put the sixteenth on a second controller, which is not there to plug into.
    unit = str(TARGETS.index(disk.target))
    _child(node, "address", type="drive", controller="0", bus="0", target="0", unit=unit)
    return node


def _put_disks(domain: ET.Element, disks: Iterable[DataDisk]) -> None:
    devices = domain.find("devices")
    assert devices is not None
    devices.extend(_data_disk(disk) for disk in disks)


def _data_disks(domain: ET.Element) -> Iterator[tuple[str, ET.Element]]:
    """Our data disks with their ids: on the SCSI bus, with the id as serial and as the file's name."""
    for node in domain.iterfind("devices/disk[@device='disk']"):
        serial = node.findtext("serial", "")
        on_scsi = _attribute(node, "target", "bus") == "scsi"
        if serial and on_scsi and Path(_attribute(node, "source", "file")).stem == serial:
            yield serial, node


def _scsi_places(domain: ET.Element) -> Iterator[str]:
    """The targets whose places on our controller are taken: Redfish media are `sdx`, and in the first free place."""
    for node in domain.iterfind("devices/disk"):
        place = node.find("address[@type='drive'][@controller='0'][@bus='0'][@target='0']")
        if place is not None and _attribute(node, "target", "bus") == "scsi":
            unit = int(place.get("unit", "0"))
            if unit < len(TARGETS):
                yield TARGETS[unit]


def _as_disk(disk_id: str, node: ET.Element) -> DataDisk:
    return DataDisk(disk_id, Path(_attribute(node, "source", "file")), _attribute(node, "target", "dev"))


def _attribute(node: ET.Element, child: str, name: str) -> str:
    found = node.find(child)
    return "" if found is None else found.get(name, "")


def _child(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    node = ET.SubElement(parent, tag, attributes)
    node.text = text
    return node
