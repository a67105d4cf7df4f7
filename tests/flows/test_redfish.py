"""Machines driven by Redfish: sessions that switch theirs, and the VM manager's (contract of vms, section 11)."""

from __future__ import annotations

import os
import secrets
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from guests import wait_for_line, wait_until_off

from labyard.client.where import LabService
from labyard.lab import Lab, LabHost, Machine
from labyard.testing import NetbootApi, PoweredMachine
from labyard.testing.waiting import wait_until
from labyard.vms.client import Client

BOOT_SECONDS = 120
GUEST_SHELL = "labyard# "  # which asks when it hears the power button
AGREE_SECONDS = 2.0  # the contract's, of a machine that is not busy otherwise
IGNORED_SECONDS = 3.0  # a guest that hears the power button is off long before
SYSTEMS = "/redfish/v1/Systems"

TakeMachine = Callable[[str], PoweredMachine]
# What both sides took longer to agree on, of all tests of this file.
late: list[str] = []


def stored_devices(host: LabHost, domain: str) -> bytes:
    devices = ET.fromstring(host.check(f"virsh dumpxml --inactive {domain}")).find("devices")
    assert devices is not None
    return ET.tostring(devices)


class TestSessions:
    """The netboot service switches the lab's diskless machines by the emulator of the host that carries them."""

    @pytest.fixture(autouse=True)
    def nothing_is_left_over(self, netboot_api: NetbootApi) -> Iterator[None]:
        yield
        assert netboot_api.findings() == []

    @pytest.fixture
    def image(self, netboot_api: NetbootApi, boot_host: LabHost) -> int:
        return netboot_api.image_id(str(boot_host.value("boot_image_path")), "labyard-boot")

    def register(self, lab: Lab, netboot_api: NetbootApi, machine: Machine) -> int:
        host = lab.vm_host(machine)
        bmc = {
            "bmc_url": f"http://{host.address}:{host.value('bmc_http_port')}{SYSTEMS}/{machine.name}",
            "bmc_username": host.value("lab_bmc_username"),
            "bmc_password": host.value("lab_bmc_password"),
        }
        number = netboot_api.machine_id(machine)
        netboot_api.must("PUT", f"/machines/{number}", json=bmc)
        return number

    @pytest.mark.parametrize("name", ["s1", "s2"])
    def test_one_call_boots_a_machine_and_one_switches_it_off(
        self, lab: Lab, netboot_api: NetbootApi, machine: TakeMachine, image: int, name: str
    ) -> None:
        one = machine(name)
        one.power_off()
        devices = stored_devices(one.host, name)
        number = self.register(lab, netboot_api, one.machine)
        with netboot_api.session(number, image, power="cycle") as started:
            assert started["session"]["power_cycled"]
            # The console first: should it fail, it shows what the machine was at.
            reports = one.wait_for("done", BOOT_SECONDS).reports
            session = netboot_api.wait_for_phase(started["session"]["id"], "booted", BOOT_SECONDS)
            assert (reports["done"], reports["ibft.target"]) == ("ok", started["iscsi_details"]["target_iqn"])
            assert one.is_on()
            stopped = netboot_api.must("POST", f"/api/v1/sessions/{session['id']}/stop", json={"power": "off"})
        assert (stopped["powered_off"], stopped["power_error"]) == (True, None)
        assert not one.is_on()
        # It boots from the network anyway, so its definition is none of a session's business.
        assert stored_devices(one.host, name) == devices

    def test_a_machine_that_is_on_boots_anew(
        self, lab: Lab, netboot_api: NetbootApi, machine: TakeMachine, image: int
    ) -> None:
        one = machine("s1")
        one.power_on()
        before = one.host.check("virsh domid s1")
        number = self.register(lab, netboot_api, one.machine)
        with netboot_api.session(number, image, power="cycle") as started:
            assert one.host.check("virsh domid s1") != before
            session = netboot_api.wait_for_phase(started["session"]["id"], "booted", BOOT_SECONDS)
            netboot_api.must("POST", f"/api/v1/sessions/{session['id']}/stop")
        assert one.is_on(), "a stop that was not asked to switch it off did"

    def test_a_wrong_password_leaves_all_as_it_was(
        self, lab: Lab, netboot_api: NetbootApi, machine: TakeMachine, image: int
    ) -> None:
        one = machine("s1")
        one.power_off()
        number = self.register(lab, netboot_api, one.machine)
        netboot_api.must("PUT", f"/machines/{number}", json={"bmc_password": "wrong"})
        try:
            body = {"machine_id": number, "image_id": image, "power": "cycle"}
            answer = netboot_api.http.post("/api/v1/sessions/start", json=body)
            assert (answer.status_code, answer.json()["error"]) == (500, "power_error")
            assert "step power" in answer.json()["detail"] and "correct bmc_username" in answer.json()["detail"]
            assert not one.is_on()
            reserved = netboot_api.must("GET", "/api/v1/dhcp/reservations")
            assert number not in [entry["machine_id"] for entry in reserved]
        finally:
            self.register(lab, netboot_api, one.machine)

    def test_a_silent_bmc_does_not_keep_a_stop_from_finishing(
        self, lab: Lab, netboot_api: NetbootApi, machine: TakeMachine, image: int
    ) -> None:
        one = machine("s1")
        number = self.register(lab, netboot_api, one.machine)
        with netboot_api.session(number, image) as started:
            session = started["session"]["id"]
            # Nothing listens there.
            elsewhere = {"bmc_url": f"http://{one.host.address}:9{SYSTEMS}/s1", "bmc_password": "any"}
            netboot_api.must("PUT", f"/machines/{number}", json=elsewhere)
            try:
                stopped = netboot_api.must("POST", f"/api/v1/sessions/{session}/stop", json={"power": "off"})
            finally:
                self.register(lab, netboot_api, one.machine)
            assert not stopped["powered_off"] and "cannot be reached" in stopped["power_error"]
            assert netboot_api.get(session)["status"] == "stopped"


class Redfish:
    """The emulator of a VM host, called from this machine as an operator would."""

    def __init__(self, service: LabService) -> None:
        self.host = service.host
        login = next(iter(self.host.value("bmc_users").items()))
        self.http = httpx.Client(base_url=service.url, auth=login, timeout=60)

    def get(self, path: str) -> dict[str, Any]:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def change(self, method: str, path: str, body: dict[str, Any]) -> None:
        answer = self.http.request(method, path, json=body)
        assert answer.status_code == 204, f"{path}: {answer.status_code} {answer.text}"


class Vm:
    """A machine of the VM manager, seen from both sides."""

    def __init__(self, api: Client, redfish: Redfish, name: str) -> None:
        self.api, self.redfish, self.name = api, redfish, name
        self.host = redfish.host
        self.uuid = self.rest["domain_uuid"]
        self.domain = f"{self.host.value('vms_domain_prefix')}{name}"

    @property
    def rest(self) -> Any:
        return self.api.vm(self.name)

    @property
    def system(self) -> dict[str, Any]:
        return self.redfish.get(f"{SYSTEMS}/{self.uuid}")

    def reset(self, how: str) -> None:
        self.redfish.change("POST", f"{SYSTEMS}/{self.uuid}/Actions/ComputerSystem.Reset", {"ResetType": how})

    def start_again(self) -> None:
        """By REST, and without asking a guest that is not there."""
        self.api.stop(self.name, force=True)
        self.api.start(self.name)

    def boot_from(self, source: str) -> None:
        boot = {"BootSourceOverrideTarget": source, "BootSourceOverrideEnabled": "Once"}
        self.redfish.change("PATCH", f"{SYSTEMS}/{self.uuid}", {"Boot": boot})

    def media(self, action: str, **body: str) -> None:
        path = f"{SYSTEMS}/{self.uuid}/VirtualMedia/Cd/Actions/VirtualMedia.{action}"
        self.redfish.change("POST", path, body)

    def insert_cd(self) -> None:
        """Any file will do: the emulator's own start page."""
        self.media("InsertMedia", Image=f"http://127.0.0.1:{self.host.value('bmc_http_port')}/redfish/v1/")

    def agree(self, state: str) -> None:
        """Both sides say so, with what the contract wants. Noted in `late` when they take longer than its 2 s, or what
        others leave of these on a busy host: any of the processes may stand still for a while."""
        power = "On" if state == "running" else "Off"
        seen: tuple[Any, ...] = ()

        def agreed() -> bool:
            nonlocal seen
            rest = self.rest
            leased = [lease["ip"] for lease in self.api.leases() if lease["vm_id"] == self.name]
            addresses = [rest["local_ip"]] if state == "running" else []
            seen = (rest["state"], self.system["PowerState"], leased, rest["local_ip"])
            return seen[:3] == (state, power, addresses) and (rest["local_ip"] is not None) == (state == "running")

        limit = AGREE_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        began = time.monotonic()
        wait_until(agreed, lambda: f"both say {state}: {seen}")
        if (took := time.monotonic() - began) > limit:
            late.append(f"{state} after {took:.1f} s, where {limit:.1f} s are right")

    def is_clean(self) -> bool:
        """Whether the observer finds nothing of this machine."""
        return self.name not in [issue["resource_id"] for issue in self.api.check()["issues"]]

    def devices(self, *, stored: bool = False) -> ET.Element:
        found = ET.fromstring(self.host.check(f"virsh dumpxml {'--inactive ' if stored else ''}{self.domain}"))
        devices = found.find("devices")
        assert devices is not None
        return devices

    def boot_order(self, *, stored: bool = False) -> list[str]:
        """Devices with a boot order, in that order: targets of disks, and `network`."""
        found = {}
        for device in self.devices(stored=stored):
            boot = device.find("boot")
            if boot is not None:
                target = device.find("target")
                name = target.get("dev", "") if device.tag == "disk" and target is not None else "network"
                found[int(boot.get("order", "0"))] = name
        return [found[order] for order in sorted(found)]

    def targets(self, *, stored: bool = False) -> set[str]:
        return {node.get("dev", "") for node in self.devices(stored=stored).iterfind("disk/target")}

    def process(self) -> str:
        """The path of its QEMU process below /proc."""
        # Not `check`: grep exits with 2 when any process has ended between the listing and the look.
        found = str(self.host.run("grep -lsz %s /proc/[0-9]*/cmdline", f"^guest={self.domain}[,]").stdout).strip()
        assert found, f"no process has the machine {self.domain}"
        return found


@pytest.fixture(scope="module")
def redfish(lab: Lab) -> Iterator[Redfish]:
    emulator = Redfish(LabService(lab.inventory.path, "bmc"))
    with emulator.http:
        yield emulator


@pytest.fixture(scope="module")
def vms_api(lab: Lab) -> Iterator[Client]:
    service = LabService(lab.inventory.path, "vms")
    with Client(service.url, service.value("api_token")) as client:
        yield client


@pytest.fixture
def guest(vms_api: Client, redfish: Redfish) -> Iterator[Vm]:
    """A machine with the lab's guest that was made and never started."""
    name = f"redfish-{secrets.token_hex(4)}"
    vms_api.create_template(name, 1, 128)
    try:
        vms_api.create_vm(name, name)
        try:
            yield Vm(vms_api, redfish, name)
        finally:
            vms_api.delete_vm(name)
    finally:
        vms_api.delete_template(name)


@pytest.fixture
def vm(guest: Vm) -> Vm:
    """A machine with an empty root disk, so that only its firmware runs."""
    root = f"{guest.host.value('vms_storage_path')}/vms/{guest.name}/root.qcow2"
    guest.host.check(f"qemu-img create -q -f qcow2 {root} 1G")
    return guest


class TestVms:
    def test_is_listed_before_its_first_start(self, vm: Vm) -> None:
        members = [member["@odata.id"] for member in vm.redfish.get(SYSTEMS)["Members"]]
        assert f"{SYSTEMS}/{vm.uuid}" in members
        vm.agree("stopped")

    @pytest.mark.parametrize("how", ["On", "ForceOn"])
    def test_on_and_force_off(self, vm: Vm, how: str) -> None:
        vm.reset(how)
        vm.agree("running")
        vm.reset(how)  # on already
        vm.agree("running")
        vm.reset("ForceOff")
        vm.agree("stopped")
        assert vm.is_clean()
        vm.reset("ForceOff")
        vm.agree("stopped")

    def test_each_side_sees_what_the_other_does(self, vm: Vm) -> None:
        vm.api.start(vm.name)
        vm.agree("running")
        vm.reset("ForceOff")
        vm.agree("stopped")
        vm.reset("On")
        vm.agree("running")
        vm.api.stop(vm.name, force=True)
        vm.agree("stopped")

    def test_guest_without_acpi_ignores_the_graceful_ones(self, vm: Vm) -> None:
        vm.reset("On")
        vm.agree("running")
        process = vm.process()
        for how in ("GracefulShutdown", "GracefulRestart"):
            vm.reset(how)
            time.sleep(IGNORED_SECONDS)
            vm.agree("running")
            assert vm.process() == process

    def test_guest_that_hears_its_power_button(self, guest: Vm) -> None:
        guest.reset("On")
        wait_for_line(guest.api, guest.name, GUEST_SHELL)
        process = guest.process()
        guest.reset("GracefulRestart")
        wait_for_line(guest.api, guest.name, GUEST_SHELL, 2)
        guest.agree("running")
        assert guest.process() == process, "a reboot is the guest's; its machine stays on"
        guest.reset("GracefulShutdown")
        # The emulator is not asked meanwhile: it answers 500 in the moment in which a machine ends.
        wait_until_off(guest.api, guest.name)
        guest.agree("stopped")
        assert guest.is_clean()

    def test_force_restart_ends_running_with_its_address(self, vm: Vm) -> None:
        vm.reset("On")
        vm.agree("running")
        process, address = vm.process(), vm.rest["local_ip"]
        vm.reset("ForceRestart")
        vm.agree("running")
        assert vm.process() != process
        # Once more after what the events of both halves may still have to say.
        time.sleep(AGREE_SECONDS)
        vm.agree("running")
        assert vm.rest["local_ip"] == address and vm.is_clean()

    def test_nmi_leaves_it_running(self, vm: Vm) -> None:
        vm.reset("On")
        vm.agree("running")
        process = vm.process()
        vm.reset("Nmi")
        vm.agree("running")
        assert vm.process() == process

    @pytest.mark.parametrize(("source", "order"), [("Pxe", ["network", "vda"]), ("Hdd", ["vda", "vdb"])])
    def test_boot_override_is_kept_after_a_rest_start(self, vm: Vm, source: str, order: list[str]) -> None:
        vm.boot_from(source)
        assert vm.boot_order(stored=True) == order
        vm.api.start(vm.name)
        assert vm.boot_order() == vm.boot_order(stored=True) == order
        assert vm.system["Boot"]["BootSourceOverrideTarget"] == source
        vm.start_again()
        assert vm.boot_order() == order

    def test_boot_from_a_cd(self, vm: Vm) -> None:
        vm.insert_cd()
        vm.boot_from("Cd")
        vm.api.start(vm.name)
        assert vm.boot_order()[0] == "sdx"
        vm.agree("running")

    def test_media_disturb_neither_seed_nor_data_disks(self, vm: Vm) -> None:
        disks = [vm.api.create_disk(1)["id"] for _ in range(2)]
        try:
            vm.api.start(vm.name)
            vm.api.attach(disks[0], vm.name)
            vm.insert_cd()  # takes effect at the next power-on
            assert vm.targets() == {"vda", "vdb", "sda"}
            assert vm.targets(stored=True) == {"vda", "vdb", "sda", "sdx"}
            vm.api.attach(disks[1], vm.name)
            taken = {vm.api.disk(disk)["target"] for disk in disks}
            vm.start_again()
            assert vm.targets() == {"vda", "vdb", "sdx"} | taken and len(taken) == 2
            vm.media("EjectMedia")
            vm.reset("ForceRestart")
            vm.agree("running")
            assert vm.targets() == vm.targets(stored=True) == {"vda", "vdb"} | taken
            assert vm.is_clean()
        finally:
            for disk in disks:
                if vm.api.disk(disk)["vm_id"]:
                    vm.api.detach(disk)
                vm.api.delete_disk(disk)

    def test_both_sides_agreed_in_time(self) -> None:
        """In the tests above, but for two occasions: what is always late is so more often."""
        assert len(late) <= 2, late
