"""The adapters of the VM manager on a real libvirtd."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

libvirt = pytest.importorskip("libvirt", reason="python3-libvirt is missing: run inside a VM host")

from integration.vms import guests  # noqa: E402
from integration.vms.integration_utils import ADAPTER_SUBNET, TOKEN  # noqa: E402
from labyard.core.adapter import AdapterError  # noqa: E402
from labyard.testing.waiting import PATIENCE, wait_until  # noqa: E402
from labyard.vms.adapters import accel, libvirt_connection  # noqa: E402
from labyard.vms.adapters.hypervisor import DataDisk, DomainEvent, DomainSpec, EventKind  # noqa: E402
from labyard.vms.adapters.libvirt_connection import LibvirtConnection  # noqa: E402
from labyard.vms.adapters.libvirt_hypervisor import HypervisorOptions, LibvirtHypervisor  # noqa: E402
from labyard.vms.adapters.libvirt_network import LibvirtNetwork, NetworkOptions  # noqa: E402
from labyard.vms.adapters.qemu_img import ImageOptions, QemuImages  # noqa: E402

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left")]

URI = "qemu:///system"
KERNEL = Path("/usr/lib/labyard/probe-kernel")
GATEWAY = ADAPTER_SUBNET.network_address + 1
ADDRESS = str(ADAPTER_SUBNET.network_address + 7)
ANOTHER = str(ADAPTER_SUBNET.network_address + 8)


@pytest.fixture
def raw(virt: object) -> object:
    """A connection of the test's own, to look and to meddle with."""
    return virt


@pytest.fixture(scope="module")
def storage(nothing_left: None) -> Iterator[Path]:
    # Not pytest's folder: QEMU's user may not look into it.
    folder = Path(tempfile.mkdtemp(prefix="labyard-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    for name in ("disks", "vms"):
        (folder / name).mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def options(storage: Path) -> HypervisorOptions:
    return HypervisorOptions(
        storage_path=storage,
        domain_prefix=f"{TOKEN}a-",
        domain_type="qemu",
        probe=accel.Probe(None, None, 1),
        network_mode="user",
        network_name=f"{TOKEN}a",
        gateway=str(GATEWAY),
        observer_scope="storage",
    )


class Events:
    """What the hypervisor told, in order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[DomainEvent] = queue.SimpleQueue()

    def put(self, event: DomainEvent) -> None:
        self._queue.put(event)

    def expect(self, vm_id: str, kind: EventKind) -> DomainEvent:
        event = self._queue.get(timeout=PATIENCE)
        assert (event.vm_id, event.kind) == (vm_id, kind), event
        return event

    def none_left(self) -> None:
        assert self._queue.empty(), self._queue.get()


class Host:
    """A hypervisor with its connection and events, and machines on it that are cleared away."""

    def __init__(self, options: HypervisorOptions) -> None:
        self.options = options
        self.events = Events()
        self.reconnected: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.connection = LibvirtConnection(URI)
        self.hypervisor = LibvirtHypervisor(self.connection, options)
        self.hypervisor.open(self.events.put, lambda: self.reconnected.put(time.monotonic()))

    def spec(self, vm_id: str, mac: str = "52:54:00:aa:00:01") -> DomainSpec:
        """A machine whose guest obeys the power button."""
        folder = self.options.storage_path / "vms" / vm_id
        folder.mkdir(exist_ok=True)
        root, seed, base = folder / "root.qcow2", folder / "seed.iso", folder / "base.raw"
        guests.write_obedient_disk(base)
        seed.write_bytes(bytes(4096))
        QemuImages(ImageOptions(base, 1, "overlay")).create_root(root)
        return DomainSpec(vm_id, str(uuid.uuid4()), mac, 128, 1, root, seed, folder / "console.txt")

    def disk(self) -> tuple[str, Path]:
        disk_id = str(uuid.uuid4())
        path = self.options.storage_path / "disks" / f"{disk_id}.qcow2"
        QemuImages(ImageOptions(None, 1, "overlay")).create(path, 1)
        return disk_id, path

    def started(self, vm_id: str) -> DomainSpec:
        spec = self.spec(vm_id)
        self.hypervisor.define(spec)
        self.hypervisor.start(vm_id)
        self.events.expect(vm_id, EventKind.STARTED)
        return spec

    def clear(self) -> None:
        for vm_id, seen in self.hypervisor.domains().items():
            if seen.active:
                self.hypervisor.destroy(vm_id)
            self.hypervisor.undefine(vm_id)
        self.hypervisor.close()
        for folder in (self.options.storage_path / "vms").iterdir():
            shutil.rmtree(folder)


@pytest.fixture
def host(raw: object, options: HypervisorOptions) -> Iterator[Host]:
    made = Host(options)
    yield made
    made.clear()


@pytest.fixture
def network_options(options: HypervisorOptions) -> NetworkOptions:
    metadata_ip = f"169.254.{ADAPTER_SUBNET.network_address.packed[2]}.254"
    return NetworkOptions(
        "nat", options.network_name, f"{TOKEN}abr", ADAPTER_SUBNET, GATEWAY, ("8.8.8.8",), metadata_ip
    )


@pytest.fixture
def network(raw: object, host: Host, network_options: NetworkOptions) -> Iterator[LibvirtNetwork]:
    made = LibvirtNetwork(host.connection, network_options)
    yield made
    remove_network(raw, network_options.name)


def remove_network(raw: object, name: str) -> None:
    for network in raw.listAllNetworks():
        if network.name() == name:
            if network.isActive():
                network.destroy()
            network.undefine()


def admin(*arguments: str) -> list[list[str]]:
    """Rows of virt-admin's answer, in words."""
    done = subprocess.run(["virt-admin", *arguments], capture_output=True, text=True, check=True)
    return [words for line in done.stdout.splitlines() if (words := line.split())]


def is_ours(client: str) -> bool:
    if not client.isdigit():
        return False
    try:
        return ["unix_process_id:", str(os.getpid())] in admin("client-info", "libvirtd", client)
    except subprocess.CalledProcessError:  # somebody else's, and gone since the list was made
        return False


def qemu_pid(options: HypervisorOptions, vm_id: str) -> int:
    for line in subprocess.run(
        ["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if f"guest={options.domain_prefix}{vm_id}," in line:
            return int(line.split()[0])
    raise AssertionError(f"no QEMU process of {vm_id}")


def blocks(raw: object, options: HypervisorOptions, vm_id: str) -> dict[str, str]:
    """What QEMU itself says: image file by qdev, of the SCSI disks."""
    import libvirt_qemu

    domain = raw.lookupByName(options.domain_prefix + vm_id)
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-block"}', 0))
    return {entry["qdev"]: entry["inserted"]["file"] for entry in answer["return"] if entry["qdev"].startswith("scsi")}


def stored(raw: object, options: HypervisorOptions, vm_id: str) -> ET.Element:
    domain = raw.lookupByName(options.domain_prefix + vm_id)
    return ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def serials(root: ET.Element) -> set[str]:
    return {node.text for node in root.iterfind("devices/disk/serial")}


class TestLife:
    def test_define_start_destroy_undefine(self, host: Host, options: HypervisorOptions) -> None:
        spec = host.spec("web-1")
        host.hypervisor.define(spec)
        seen = host.hypervisor.domains()["web-1"]
        assert (seen.uuid, seen.active) == (spec.uuid, False)
        assert spec.mac in host.hypervisor.macs()
        host.hypervisor.start("web-1")
        host.events.expect("web-1", EventKind.STARTED)
        assert host.hypervisor.is_active("web-1")
        assert qemu_pid(options, "web-1")
        host.hypervisor.destroy("web-1")
        assert host.hypervisor.wait_inactive("web-1", PATIENCE)
        host.events.expect("web-1", EventKind.STOPPED)
        host.hypervisor.destroy("web-1")
        host.hypervisor.undefine("web-1")
        host.hypervisor.undefine("web-1")
        assert "web-1" not in host.hypervisor.domains()
        host.events.none_left()

    def test_a_guest_that_obeys_the_power_button_is_stopped(self, host: Host) -> None:
        host.started("web-1")

        def is_off() -> bool:
            if host.hypervisor.wait_inactive("web-1", 0.5):
                return True
            host.hypervisor.shutdown("web-1")  # the firmware did not obey it yet
            return False

        # Refused when the guest has just obeyed the request before.
        wait_until(is_off, "the guest obeys the power button", despite=AdapterError)
        assert host.events.expect("web-1", EventKind.STOPPED).detail == "guest powered off"

    def test_a_guest_that_does_not_end_is_waited_for_no_longer_than_told(self, host: Host) -> None:
        host.started("web-1")
        begun = time.monotonic()
        assert not host.hypervisor.wait_inactive("web-1", 0.3)
        assert time.monotonic() - begun < PATIENCE  # not without an end

    @pytest.mark.parametrize(
        ("number", "detail"),
        [
            (signal.SIGKILL, "QEMU process ended unexpectedly"),
            (signal.SIGTERM, "QEMU process was ended by a signal from outside"),
        ],
    )
    def test_a_killed_qemu_has_failed(
        self, host: Host, options: HypervisorOptions, number: signal.Signals, detail: str
    ) -> None:
        host.started("web-1")
        os.kill(qemu_pid(options, "web-1"), number)
        assert host.events.expect("web-1", EventKind.FAILED).detail == detail
        assert not host.hypervisor.is_active("web-1")
        host.hypervisor.start("web-1")
        host.events.expect("web-1", EventKind.STARTED)

    def test_a_start_with_a_broken_disk_leaves_nothing(self, host: Host, options: HypervisorOptions) -> None:
        spec = host.spec("web-1")
        spec.root.write_bytes(b"broken")
        host.hypervisor.define(spec)
        with pytest.raises(AdapterError, match="virDomainCreate failed: "):
            host.hypervisor.start("web-1")
        assert not host.hypervisor.is_active("web-1")
        with pytest.raises(AssertionError):
            qemu_pid(options, "web-1")

    def test_limits_are_those_of_the_host(self, host: Host) -> None:
        limits = host.hypervisor.limits()
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024**2
        assert abs(limits.memory_mib - pages) <= 1
        assert limits.vcpus >= 255

    def test_the_connection_comes_back_with_its_events(self, host: Host) -> None:
        host.started("web-1")
        # The last client of this process is the adapter; `raw` came before it.
        mine = [client for client in admin("client-list", "libvirtd") if is_ours(client[0])]
        admin("client-disconnect", "libvirtd", mine[-1][0])
        host.reconnected.get(timeout=PATIENCE)
        host.hypervisor.ping()
        host.hypervisor.destroy("web-1")
        host.events.expect("web-1", EventKind.STOPPED)


class TestDefine:
    def test_a_boot_override_survives_a_new_definition_and_new_disks(self, host: Host, raw: object) -> None:
        spec = host.spec("web-1")
        host.hypervisor.define(spec)
        override(raw, host.options, "web-1")
        host.hypervisor.define(spec)
        assert boot_orders(stored(raw, host.options, "web-1")) == {"vda": "2", "net": "1"}
        disk_id, path = host.disk()
        host.hypervisor.define(replace(spec, disks=(DataDisk(disk_id, path, "sdc"),)))
        root = stored(raw, host.options, "web-1")
        assert boot_orders(root) == {"vda": "2", "net": "1"}
        assert serials(root) == {disk_id}
        host.hypervisor.define(spec)
        assert serials(stored(raw, host.options, "web-1")) == set()

    def test_another_spec_makes_it_anew(self, host: Host, raw: object) -> None:
        spec = host.spec("web-1")
        host.hypervisor.define(spec)
        override(raw, host.options, "web-1")
        host.hypervisor.define(replace(spec, memory_mib=256))
        root = stored(raw, host.options, "web-1")
        assert root.findtext("memory") == str(256 * 1024)
        assert boot_orders(root) == {"vda": "1", "net": "2"}

    def test_an_inactive_leftover_of_the_name_is_replaced(self, host: Host) -> None:
        host.hypervisor.define(host.spec("web-1"))
        spec = host.spec("web-1")
        host.hypervisor.define(spec)
        assert host.hypervisor.domains()["web-1"].uuid == spec.uuid

    def test_a_running_leftover_of_the_name_is_not_touched(self, host: Host) -> None:
        running = host.started("web-1")
        with pytest.raises(AdapterError, match="is running"):
            host.hypervisor.define(replace(running, uuid=str(uuid.uuid4())))
        assert host.hypervisor.is_active("web-1")

    def test_all_targets_can_be_taken_at_once(self, host: Host, raw: object) -> None:
        disks = tuple(DataDisk(*host.disk(), f"sd{letter}") for letter in "abcdefghijklmnopqrstuvw")
        host.hypervisor.define(replace(host.spec("web-1"), disks=disks))
        host.hypervisor.start("web-1")
        found = blocks(raw, host.options, "web-1")
        assert found == {f"scsi0-0-0-{unit}": str(disk.path) for unit, disk in enumerate(disks)}
        with pytest.raises(AdapterError, match="no free target"):
            host.hypervisor.attach("web-1", *host.disk())


def override(raw: object, options: HypervisorOptions, vm_id: str) -> None:
    """Boot from the network first, as Redfish writes it into the stored definition."""
    root = stored(raw, options, vm_id)
    root.find("devices/interface/boot").set("order", "1")
    root.find("devices/disk/boot").set("order", "2")
    raw.defineXML(ET.tostring(root, encoding="unicode"))


def boot_orders(root: ET.Element) -> dict[str, str]:
    """Of the root disk, the first of all, and of the network card."""
    found = {"vda": root.find("devices/disk/boot"), "net": root.find("devices/interface/boot")}
    return {name: node.get("order") for name, node in found.items()}


class TestScreen:
    def test_it_shows_what_the_firmware_writes(self, host: Host, options: HypervisorOptions) -> None:
        host.started("web-1")
        picture = wait_until(lambda: text_of(host.hypervisor.screenshot("web-1")), "the screen has text")
        assert picture.startswith((b"P6", b"\x89PNG"))
        listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
        assert f"pid={qemu_pid(options, 'web-1')}," not in listening
        host.hypervisor.destroy("web-1")
        with pytest.raises(AdapterError, match=r"virDomainScreenshot failed: .*not running"):
            host.hypervisor.screenshot("web-1")

    def test_a_machine_of_an_earlier_version_has_none(self, host: Host, raw: object) -> None:
        host.hypervisor.define(host.spec("web-1"))
        root = stored(raw, host.options, "web-1")
        devices = root.find("devices")
        devices.remove(devices.find("video"))
        raw.defineXML(ET.tostring(root, encoding="unicode"))
        host.hypervisor.start("web-1")
        with pytest.raises(AdapterError, match="virDomainScreenshot failed: "):
            host.hypervisor.screenshot("web-1")


def text_of(picture: bytes) -> bytes:
    """The picture once something is written on it: a black one has two values of bytes at most after its header."""
    return picture if picture.startswith(b"\x89PNG") or len(set(picture[20:])) > 1 else b""


class TestDisks:
    def test_three_disks_come_and_go_while_it_runs(self, host: Host, raw: object) -> None:
        host.started("web-1")
        pid = qemu_pid(host.options, "web-1")
        disks = [host.disk() for _ in range(3)]
        targets = [host.hypervisor.attach("web-1", *disk) for disk in disks]
        assert targets == ["sda", "sdb", "sdc"]
        plugged = {f"scsi0-0-0-{unit}": str(path) for unit, (_, path) in enumerate(disks)}
        assert blocks(raw, host.options, "web-1") == plugged
        assert serials(stored(raw, host.options, "web-1")) == {disk_id for disk_id, _ in disks}
        host.hypervisor.detach("web-1", disks[1][0], PATIENCE)
        del plugged["scsi0-0-0-1"]
        assert blocks(raw, host.options, "web-1") == plugged
        assert serials(stored(raw, host.options, "web-1")) == {disks[0][0], disks[2][0]}
        assert host.hypervisor.attach("web-1", *disks[1]) == "sdb"
        assert qemu_pid(host.options, "web-1") == pid

    def test_a_disk_is_there_again_after_a_restart(self, host: Host, raw: object) -> None:
        host.started("web-1")
        disk_id, path = host.disk()
        host.hypervisor.attach("web-1", disk_id, path)
        host.hypervisor.destroy("web-1")
        assert host.hypervisor.wait_inactive("web-1", PATIENCE)
        host.hypervisor.start("web-1")
        assert blocks(raw, host.options, "web-1") == {"scsi0-0-0-0": str(path)}
        host.hypervisor.destroy("web-1")
        host.hypervisor.detach("web-1", disk_id, PATIENCE)
        host.hypervisor.start("web-1")
        assert blocks(raw, host.options, "web-1") == {}

    def test_a_frozen_qemu_keeps_nobody_for_ever(
        self, host: Host, raw: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(libvirt_connection, "ANSWER_SECONDS", 0.5)
        host.started("web-1")
        pid = qemu_pid(host.options, "web-1")
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(AdapterError, match="did not answer"):
            host.hypervisor.attach("web-1", *host.disk())
        os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        # Now it is plugged in after all, and taken out again: nobody has it on record. QEMU is asked after the former.
        wait_until(lambda: blocks(raw, host.options, "web-1") == {}, "QEMU has no disk")
        assert serials(stored(raw, host.options, "web-1")) == set()
        assert host.hypervisor.attach("web-1", *host.disk()) == "sda"
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(libvirt_connection, "ANSWER_SECONDS", 0.5)
        with pytest.raises(AdapterError, match="did not answer"):
            host.hypervisor.shutdown("web-1")
        host.hypervisor.destroy("web-1")
        assert host.hypervisor.wait_inactive("web-1", PATIENCE)

    def test_a_failed_attach_leaves_nothing_and_can_be_tried_again(self, host: Host, raw: object) -> None:
        host.started("web-1")
        disk_id, path = host.disk()
        hidden = path.with_suffix(".hidden")
        path.rename(hidden)
        with pytest.raises(AdapterError, match="virDomainAttachDevice failed: "):
            host.hypervisor.attach("web-1", disk_id, path)
        assert blocks(raw, host.options, "web-1") == {}
        assert serials(stored(raw, host.options, "web-1")) == set()
        hidden.rename(path)
        assert host.hypervisor.attach("web-1", disk_id, path) == "sda"
        # Once more, as after a crash before the row was written.
        assert host.hypervisor.attach("web-1", disk_id, path) == "sda"
        assert blocks(raw, host.options, "web-1") == {"scsi0-0-0-0": str(path)}

    def test_what_is_not_there_is_detached(self, host: Host) -> None:
        host.hypervisor.detach("nobody", str(uuid.uuid4()), PATIENCE)
        host.started("web-1")
        host.hypervisor.detach("web-1", str(uuid.uuid4()), PATIENCE)

    def test_a_stopped_machine_takes_no_disk(self, host: Host) -> None:
        host.hypervisor.define(host.spec("web-1"))
        with pytest.raises(AdapterError, match="not running"):
            host.hypervisor.attach("web-1", *host.disk())

    def test_a_cd_on_the_same_bus_is_left_alone(self, host: Host, raw: object) -> None:
        """As Redfish inserts virtual media."""
        spec = host.spec("web-1")
        host.hypervisor.define(spec)
        root = stored(raw, host.options, "web-1")
        root.find("devices").append(
            ET.fromstring("<disk type='file' device='cdrom'><target dev='sdx' bus='scsi'/><readonly/></disk>")
        )
        raw.defineXML(ET.tostring(root, encoding="unicode"))
        disk_id, path = host.disk()
        host.hypervisor.define(replace(spec, disks=(DataDisk(disk_id, path, "sda"),)))
        host.hypervisor.define(spec)
        targets = stored(raw, host.options, "web-1").iterfind("devices/disk/target")
        assert [node.get("dev") for node in targets] == ["vda", "vdb", "sdx"]


class TestNetwork:
    MACS = ("52:54:00:bb:00:01", "52:54:00:bb:00:02")

    def test_a_foreign_network_is_not_altered(
        self, network: LibvirtNetwork, network_options: NetworkOptions, raw: object
    ) -> None:
        name = network_options.name
        foreign = raw.networkDefineXML(
            f"<network><name>{name}</name><ip address='192.168.214.1' prefix='24'/></network>"
        )
        before = foreign.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
        for use in (network.ensure, lambda: network.reserve(ADDRESS, self.MACS[0], "web-1")):
            with pytest.raises(AdapterError, match="foreign"):
                use()
        assert foreign.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE) == before
        assert not foreign.isActive()

    def test_a_network_of_an_earlier_version_is_renewed_when_no_machine_uses_it(
        self,
        host: Host,
        network: LibvirtNetwork,
        network_options: NetworkOptions,
        raw: object,
        options: HypervisorOptions,
    ) -> None:
        isolated = replace(network_options, mode="isolated")
        LibvirtNetwork(host.connection, isolated).ensure()
        there = raw.networkLookupByName(isolated.name)
        routed = there.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
        assert f"dhcp-option=121,{isolated.metadata_ip}/32,{GATEWAY}" in routed
        old = ET.fromstring(routed)
        old.remove(next(node for node in old if node.tag.endswith("}options")))
        old = ET.tostring(old, encoding="unicode")
        there.destroy()
        raw.networkDefineXML(old).create()

        lan = Host(replace(host.options, network_mode="isolated"))
        try:
            lan.started("web-1")
            LibvirtNetwork(host.connection, isolated).ensure()
            assert "dhcp-option" not in there.XMLDesc()
        finally:
            lan.clear()
        renewed = LibvirtNetwork(host.connection, isolated)
        renewed.ensure()
        assert there.isActive()
        for flags in (0, libvirt.VIR_NETWORK_XML_INACTIVE):
            assert "dhcp-option=121" in there.XMLDesc(flags)
        # Only when the service starts: later a machine may be about to come up on it.
        there.destroy()
        raw.networkDefineXML(old)
        renewed.ensure()
        assert there.isActive() and "dhcp-option" not in there.XMLDesc()

    @pytest.mark.parametrize("mode", ["nat", "isolated"])
    def test_reservations(
        self, host: Host, network: LibvirtNetwork, network_options: NetworkOptions, raw: object, mode: str
    ) -> None:
        network = LibvirtNetwork(host.connection, replace(network_options, mode=mode))
        network.ensure()
        network.ensure()
        for _ in range(2):
            network.reserve(ADDRESS, self.MACS[0], "web-1")
            assert reservations(raw, network_options.name) == [{(ADDRESS, self.MACS[0])}] * 2
        network.reserve(ANOTHER, self.MACS[0].upper(), "web-1")
        network.reserve(ADDRESS, self.MACS[1], "Web_1")
        wanted = {(ANOTHER, self.MACS[0]), (ADDRESS, self.MACS[1])}
        assert reservations(raw, network_options.name) == [wanted] * 2
        for _ in range(2):
            network.release(ANOTHER, self.MACS[0])
            network.release(ADDRESS, self.MACS[0])  # another's by now
            assert reservations(raw, network_options.name) == [{(ADDRESS, self.MACS[1])}] * 2

    def test_a_stopped_network_is_started_with_its_reservations(
        self, network: LibvirtNetwork, network_options: NetworkOptions, raw: object
    ) -> None:
        network.reserve(ADDRESS, self.MACS[0], "web-1")
        raw.networkLookupByName(network_options.name).destroy()
        assert network.leases() == {}
        network.release(ADDRESS, self.MACS[0])
        network.ensure()
        assert reservations(raw, network_options.name) == [set(), set()]

    def test_a_released_address_is_given_to_another_at_once(
        self, network: LibvirtNetwork, raw: object, options: HypervisorOptions
    ) -> None:
        """The firmware is the DHCP client: the machines boot from the network."""
        host = Host(replace(options, network_mode="nat"))
        try:
            network.ensure()
            for vm_id, mac in zip(("web-1", "web-2"), self.MACS, strict=True):
                network.reserve(ADDRESS, mac, vm_id)
                spec = host.spec(vm_id, mac)
                spec.root.unlink()
                QemuImages(ImageOptions(None, 1, "overlay")).create_root(spec.root)  # nothing to boot there
                host.hypervisor.define(spec)
                host.hypervisor.start(vm_id)
                lease = wait_until(lambda: network.leases().get(ADDRESS), "the firmware has its lease")
                assert lease.mac == mac
                host.hypervisor.destroy(vm_id)
                network.release(ADDRESS, mac)
                assert network.leases() == {}
        finally:
            host.clear()

    @pytest.mark.parametrize("mode", ["user", "none"])
    def test_without_a_network_nothing_is_made(
        self, host: Host, network_options: NetworkOptions, raw: object, mode: str
    ) -> None:
        network = LibvirtNetwork(host.connection, replace(network_options, mode=mode))
        network.ensure()
        network.reserve(ADDRESS, self.MACS[0], "web-1")
        network.release(ADDRESS, self.MACS[0])
        assert network.leases() == {}
        assert network_options.name not in [there.name() for there in raw.listAllNetworks()]

    @pytest.mark.parametrize(("mode", "cards"), [("user", ["user"]), ("none", [])])
    def test_a_machine_without_a_network_starts(
        self, options: HypervisorOptions, raw: object, mode: str, cards: list[str]
    ) -> None:
        host = Host(replace(options, network_mode=mode))
        try:
            host.started("web-1")
            assert [node.get("type") for node in stored(raw, options, "web-1").iterfind("devices/interface")] == cards
        finally:
            host.clear()


def reservations(raw: object, name: str) -> list[set[tuple[str, str]]]:
    """Of the running network and of the stored one, without the gateway's own."""
    network = raw.networkLookupByName(name)
    found = []
    for flags in (0, libvirt.VIR_NETWORK_XML_INACTIVE):
        hosts = ET.fromstring(network.XMLDesc(flags)).iterfind("ip/dhcp/host")
        found.append({(node.get("ip"), node.get("mac")) for node in hosts if node.get("ip") != str(GATEWAY)})
    return found


class TestStrays:
    def test_what_libvirt_does_not_own_is_found(self, host: Host, options: HypervisorOptions) -> None:
        host.started("web-1")
        known = frozenset({"web-1"})
        assert host.hypervisor.strays(known) == []
        _, path = host.disk()
        with (
            qemu("-name", f"{options.domain_prefix}ghost"),
            qemu("-drive", f"file={path},if=none,id=d") as holder,
            qemu("-name", "somebody-else") as other,
        ):
            assert ids(host, known) == {"ghost", f"pid:{holder}"}
            wide = LibvirtHypervisor(LibvirtConnection(URI), replace(options, observer_scope="host"))
            wide.open(lambda event: None)
            found = {stray.resource_id for stray in wide.strays(known)}
            wide.close()
            assert found >= {"ghost", f"pid:{holder}", f"pid:{other}"}
            (options.storage_path / "vms" / "old").mkdir()
            (options.storage_path / "vms" / "old" / "qemu.pid").write_text(f"{other}\n")
            assert ids(host, known) == {"ghost", f"pid:{holder}", "old"}
        (options.storage_path / "vms" / "old" / "qemu.pid").write_text(f"{os.getpid()}\n")
        assert ids(host, frozenset()) == set()

    def test_another_services_domains_are_not_ours(self, host: Host, options: HypervisorOptions) -> None:
        """Its prefix begins with ours, and it has storage of its own."""
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            Path(folder).chmod(0o755)
            (Path(folder) / "vms").mkdir()
            prefix = f"{options.domain_prefix}b-"
            theirs = Host(replace(options, domain_prefix=prefix, storage_path=Path(folder)))
            try:
                theirs.started("web-1")
                assert theirs.hypervisor.domains()["web-1"].active
                assert ids(theirs, frozenset()) == ids(host, frozenset()) == set()
                assert host.hypervisor.domains() == {}
            finally:
                theirs.clear()


class qemu:
    """A QEMU process that nobody but this test started, as a context; gives its pid."""

    def __init__(self, *arguments: str) -> None:
        common = ["-machine", "none", "-S", "-nodefaults", "-display", "none", "-monitor", "stdio"]
        self._process = subprocess.Popen(
            ["qemu-system-x86_64", *common, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> int:
        self._process.stdout.read(1)  # the monitor speaks once everything is open
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def ids(host: Host, known: frozenset[str]) -> set[str]:
    return {stray.resource_id for stray in host.hypervisor.strays(known)}


def probe_domains(raw: object) -> list[str]:
    """Those of this process."""
    return [domain.name() for domain in raw.listAllDomains() if domain.name() == f"accel-probe-{os.getpid()}"]


class TestAccel:
    @pytest.fixture
    def probe(self, storage: Path) -> accel.Probe:
        if not KERNEL.exists():
            pytest.skip(f"there is no kernel at {KERNEL}: role vm_host puts it there")
        initrd = storage / "initrd.gz"
        guests.write_probe_initrd(initrd)
        return accel.Probe(KERNEL, initrd, 20)

    def test_qemu_is_taken_at_its_word(self, raw: object, storage: Path) -> None:
        found = accel.resolve(raw, "qemu", accel.Probe(None, None, 1), storage)
        assert (found.domain_type, found.cpu_mode) == ("qemu", "maximum")

    def test_auto_without_a_probe_is_qemu(self, raw: object, storage: Path) -> None:
        assert accel.resolve(raw, "auto", accel.Probe(None, None, 1), storage).domain_type == "qemu"

    def test_the_probe_guest_is_heard(self, raw: object, storage: Path, probe: accel.Probe) -> None:
        assert accel.boots(raw, "qemu", "maximum", probe, storage) == ""
        assert probe_domains(raw) == []

    def test_a_guest_that_says_nothing_in_time_has_not_booted(
        self, raw: object, storage: Path, probe: accel.Probe
    ) -> None:
        problem = accel.boots(raw, "qemu", "maximum", replace(probe, seconds=0.1), storage)
        assert problem == "it was not up within 0.1 s"
        assert probe_domains(raw) == []

    def test_kvm_is_refused_where_libvirt_does_not_offer_it(self, storage: Path) -> None:
        """A libvirt of its own, with no /dev/kvm in its mount namespace."""
        root = storage / "without-kvm"
        root.mkdir()
        resolve = (
            "import sys, pathlib, libvirt; from labyard.vms.adapters import accel;"
            "libvirt.virEventRegisterDefaultImpl();"
            "connection = libvirt.open(sys.argv[1]); folder = pathlib.Path(sys.argv[2]);"
            "print(accel.resolve(connection, sys.argv[3], accel.Probe(None, None, 1), folder).domain_type)"
        )
        hidden = 'test ! -e /dev/kvm || mount --bind /dev/null /dev/kvm; exec "$@"'
        answers = {}
        for wanted in ("auto", "kvm"):
            command = [sys.executable, "-c", resolve, f"qemu:///embed?root={root}", str(root), wanted]
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", hidden, "sh", *command], capture_output=True, text=True
            )
            answers[wanted] = done.stdout.strip() or done.stderr.splitlines()[-1]
        assert answers["auto"] == "qemu"
        refusal = "AdapterError: VMAN_DOMAIN_TYPE is kvm, but virConnectGetDomainCapabilities failed: "
        assert refusal in answers["kvm"], answers

    def test_auto_is_found_out_once(self, raw: object, storage: Path, probe: accel.Probe) -> None:
        probe = replace(probe, seconds=5)
        first = accel.resolve(raw, "auto", probe, storage)
        begun = time.monotonic()
        assert accel.resolve(raw, "auto", probe, storage) == first
        assert time.monotonic() - begun < 2
        assert first.domain_type in ("qemu", "kvm")
        assert "probe guest" in first.reason or "does not offer" in first.reason

    def test_a_probe_that_cannot_be_started_proves_nothing(
        self, raw: object, storage: Path, probe: accel.Probe
    ) -> None:
        found = accel.resolve(raw, "auto", replace(probe, kernel=storage / "missing"), storage)
        assert found.domain_type == "qemu"
        assert "not tried" in found.reason or "does not offer" in found.reason
