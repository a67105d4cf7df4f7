"""Sessions of the netboot service with real machines: the manual steps of the requirement, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from labyard.lab import LabHost
from labyard.testing import DhcpProbe, NetbootApi, PoweredMachine, ProbeError, TftpProbe
from labyard.testing.waiting import wait_until

BOOT_SECONDS = 120

TakeMachine = Callable[[str], PoweredMachine]


@pytest.fixture(scope="module")
def image(netboot_api: NetbootApi, boot_host: LabHost) -> int:
    return netboot_api.image_id(str(boot_host.value("boot_image_path")), "labyard-boot")


@pytest.fixture(scope="module", autouse=True)
def base_image_is_never_written(boot_host: LabHost) -> Iterator[None]:
    path = str(boot_host.value("boot_image_path"))
    before = boot_host.check("sha256sum %s", path)
    yield
    assert boot_host.check("sha256sum %s", path) == before, "the base image was written"


@pytest.fixture(scope="module", autouse=True)
def observer_finds_nothing_afterwards(netboot_api: NetbootApi) -> Iterator[None]:
    yield
    assert netboot_api.findings() == []


@pytest.fixture(scope="class")
def booted(lab: Any, netboot_api: NetbootApi, image: int) -> Iterator[dict[str, Any]]:
    """One session from start to userland; the tests of the class read what it left."""
    machine = PoweredMachine(lab, lab.machines["s1"])
    with netboot_api.session(
        netboot_api.machine_id(machine.machine), image, description="flow", session_type="DISKLESS_BOOT"
    ) as started:
        machine.power_on()
        try:
            session = netboot_api.wait_for_phase(started["session"]["id"], "booted", BOOT_SECONDS)
            console = machine.wait_for("done", BOOT_SECONDS)
            yield {"started": started, "session": session, "console": console, "machine": machine}
        finally:
            machine.power_off()


class TestOneSession:
    def test_machine_reached_userland_from_its_target(self, booted: dict[str, Any]) -> None:
        reports = booted["console"].reports
        assert reports["done"] == "ok"
        assert reports["ibft.target"] == booted["started"]["iscsi_details"]["target_iqn"]

    def test_seed_told_the_machine_who_it_is(self, booted: dict[str, Any]) -> None:
        reports = booted["console"].reports
        assert reports["hostname"] == "s1"
        assert reports["seed"] == booted["started"]["session"]["session_id"]

    def test_every_stage_left_its_event_in_order(self, netboot_api: NetbootApi, booted: dict[str, Any]) -> None:
        events = netboot_api.events(booted["session"]["id"])
        order = list(dict.fromkeys(event["type"] for event in sorted(events, key=lambda event: event["created_at"])))
        assert order == ["dhcp_request", "tftp_request", "ipxe_load", "iscsi_connect", "boot_success"], events
        sources = {event["type"]: event["source"] for event in events}
        assert sources["dhcp_request"] == "dhcp" and sources["tftp_request"] == "tftp"
        assert sources["iscsi_connect"] == "iscsi" and sources["boot_success"] == "client"

    def test_record_of_the_boot(self, netboot_api: NetbootApi, booted: dict[str, Any]) -> None:
        session = booted["session"]
        assert session["ready_time"] and 1 < session["boot_duration_seconds"] < BOOT_SECONDS
        assert session["client_ip"] == booted["machine"].machine.address
        record = netboot_api.must("GET", f"/machines/{session['machine_id']}")
        assert record["boot_count"] >= 1 and record["is_online"]

    def test_target_has_its_client(self, netboot_api: NetbootApi, booted: dict[str, Any]) -> None:
        status = netboot_api.must("GET", f"/api/v1/targets/{booted['session']['target_id']}/status")
        assert status["status"] == "active" and [lun["lun_id"] for lun in status["luns"]] == [1, 2]
        # iPXE's connection stands beside the system's own until the daemon notices that nobody is there.
        assert {client["address"] for client in status["connections"]} == {booted["machine"].machine.address}

    def test_script_on_tftp_is_the_one_of_the_session(self, tftp_probe: TftpProbe, booted: dict[str, Any]) -> None:
        name = f"machines/{booted['machine'].machine.mac.lower().replace(':', '-')}.ipxe"
        assert tftp_probe.get(name).decode() == booted["started"]["boot_script"]

    def test_status_routes_know(self, netboot_api: NetbootApi, booted: dict[str, Any]) -> None:
        dhcp = netboot_api.must("GET", "/api/v1/dhcp/status")
        assert dhcp["service_running"] and dhcp["config_valid"] and dhcp["machines_configured"] >= 1
        assert dhcp["error"] is None
        tftp = netboot_api.must("GET", "/api/v1/tftp/status")
        assert tftp["service_running"] and tftp["machine_scripts_count"] >= 1 and tftp["boot_files_count"] >= 1
        services = netboot_api.must("GET", "/monitoring/network-services")["services"]
        assert {entry["name"]: entry["status"] for entry in services} == dict.fromkeys(
            ["dhcp", "tftp", "iscsi"], "RUNNING"
        )


def test_curl_steps_of_the_requirement(netboot_api: NetbootApi, boot_host: LabHost, image: int) -> None:
    """Steps 1, 2 and 4 as they stand there, with its machine; step 3 is for ISC (test_isc_dhcp.py)."""
    token = netboot_api.http.headers["Authorization"]
    machine = {"name": "workstation", "mac_address": "00:11:22:33:44:55", "boot_mode": "bios"}
    number = netboot_api.must("POST", "/machines", json=machine)["id"]

    def curl(method: str, path: str, *data: str) -> Any:
        command = ["curl", "--silent", "-X", method, f"{netboot_api.url}{path}", "-H", f"Authorization: {token}"]
        done = subprocess.run([*command, *data], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    try:
        body = {"machine_id": number, "image_id": image, "session_type": "DISKLESS_BOOT", "description": "Manual test"}
        started = curl("POST", "/api/v1/sessions/start", "-H", "Content-Type: application/json", "-d", json.dumps(body))
        assert started["session"]["status"] == "active"
        script = curl("GET", f"/api/v1/sessions/machine/{number}/boot-script")
        assert script["script_content"] == started["boot_script"]
        root = boot_host.value("ipxe_root")
        assert "00-11-22-33-44-55.ipxe" in boot_host.check("ls -la %s/machines/", root)
        assert boot_host.check("cat %s/machines/00-11-22-33-44-55.ipxe", root) == started["boot_script"]
        curl("POST", f"/api/v1/sessions/{started['session']['id']}/stop")
        assert boot_host.run("cat %s/machines/00-11-22-33-44-55.ipxe", root).rc != 0
    finally:
        netboot_api.must("DELETE", f"/machines/{number}")


def test_two_machines_boot_one_image_at_once(
    lab: Any, netboot_api: NetbootApi, image: int, machine: TakeMachine
) -> None:
    """Each writes on its disk, neither sees the other's data; after a stop the next session begins with the image."""
    pair = [machine("s1"), machine("s3")]
    for round_ in ("first", "again"):
        sessions = [netboot_api.session(netboot_api.machine_id(one.machine), image) for one in pair]
        with sessions[0] as first, sessions[1] as second:
            for one in pair:
                one.power_on()
            markers = [one.wait_for("done", BOOT_SECONDS).reports["disk.marker"] for one in pair]
            # The image reports the marker that it found: nothing at the first boot of a fresh overlay.
            assert len({first["iscsi_details"]["target_iqn"], second["iscsi_details"]["target_iqn"]}) == 2
            assert markers == ["", ""], round_
            for one in pair:
                one.power_on()
            again = [one.wait_for("done", BOOT_SECONDS).reports["disk.marker"].lower() for one in pair]
            assert again == [one.machine.mac.lower() for one in pair]
        for one in pair:
            one.power_off()


def test_stop_while_booting_cuts_the_machine_off(
    netboot_api: NetbootApi, boot_host: LabHost, image: int, machine: TakeMachine, tftp_probe: TftpProbe
) -> None:
    one = machine("s3")
    script = f"machines/{one.machine.mac.lower().replace(':', '-')}.ipxe"
    # Its script waits before it asks for the disk, or the boot may be over before the stop.
    hold = r"sed --in-place -e 's/^:attempt$/sleep 10\n:attempt/' %s"
    with netboot_api.session(netboot_api.machine_id(one.machine), image) as started:
        number = started["session"]["id"]
        boot_host.check(hold, f"{boot_host.value('ipxe_root')}/{script}")
        one.power_on()
        netboot_api.wait_for_phase(number, "script", BOOT_SECONDS)
        netboot_api.must("POST", f"/api/v1/sessions/{number}/stop")
        session = netboot_api.get(number)
        assert (session["status"], session["cleanup_pending"]) == ("stopped", False)
        with pytest.raises(ProbeError):
            tftp_probe.get(script)
    # What the machine asks now finds nothing.
    menu = f"{one.machine.name} did not boot"
    wait_until(lambda: menu in one.console().plain, lambda: f"a menu:\n{one.console().tail()}", BOOT_SECONDS)
    assert netboot_api.get(number)["boot_phase"] != "booted"


def test_wrong_secret_shows_the_menu_and_trying_again_with_the_right_one_boots(
    netboot_api: NetbootApi, boot_host: LabHost, image: int, machine: TakeMachine
) -> None:
    one = machine("s3")
    script = f"{boot_host.value('ipxe_root')}/machines/{one.machine.mac.lower().replace(':', '-')}.ipxe"
    # Without its second line the script counts as somebody else's, so the observer leaves the wrong secret there.
    spoil = "sed --in-place=.right -e '2d' -e 's/^set password .*/set password notthesecret0000/' %s"
    with netboot_api.session(netboot_api.machine_id(one.machine), image) as started:
        number = started["session"]["id"]
        boot_host.check(spoil, script)
        try:
            one.power_on()
            netboot_api.wait_for_phase(number, "failed", BOOT_SECONDS)
            # Its script shows the menu after it has told.
            menu = f"{one.machine.name} did not boot"
            wait_until(lambda: menu in one.console().plain, lambda: f"a menu:\n{one.console().tail()}", BOOT_SECONDS)
            assert "Operation not permitted" in one.console().plain
            connects = [event for event in netboot_api.events(number) if event["type"] == "iscsi_connect"]
            assert connects == [], "nobody got in"
        finally:
            boot_host.check("mv %s.right %s", script, script)
        one.power_on()
        assert one.wait_for("done", BOOT_SECONDS).reports["done"] == "ok"
        netboot_api.wait_for_phase(number, "booted")


@pytest.fixture
def crowd(netboot_api: NetbootApi) -> Iterator[list[int]]:
    """Fifty machines on record; whatever the test did, they are gone afterwards."""
    numbers = [
        int(netboot_api.must("POST", "/machines", json={"name": f"crowd-{n:02}", "mac_address": f"02c0{n:08x}"})["id"])
        for n in range(50)
    ]
    yield numbers
    for number in numbers:
        active = netboot_api.http.get(f"/api/v1/sessions/machine/{number}/active")
        if active.is_success:
            netboot_api.must("POST", f"/api/v1/sessions/{active.json()['id']}/stop")
        netboot_api.must("DELETE", f"/machines/{number}")


def test_fifty_machines_start_and_stop_at_once(netboot_api: NetbootApi, crowd: list[int], image: int) -> None:
    """Contract 11.7, with the real daemons: every start succeeds, with names and a disk of its own."""
    with ThreadPoolExecutor(len(crowd)) as pool:
        bodies = [{"machine_id": number, "image_id": image} for number in crowd]
        started = list(pool.map(lambda body: netboot_api.http.post("/api/v1/sessions/start", json=body), bodies))
        assert {answer.status_code for answer in started} == {201}, [answer.text for answer in started]
        details = [answer.json()["iscsi_details"] for answer in started]
        for name in ("target_iqn", "initiator_iqn", "chap_username"):
            assert len({detail[name] for detail in details}) == len(crowd), name
        assert netboot_api.findings() == []
        numbers = [answer.json()["session"]["id"] for answer in started]
        stopped = list(pool.map(lambda number: netboot_api.http.post(f"/api/v1/sessions/{number}/stop"), numbers))
        assert {answer.status_code for answer in stopped} == {200}, [answer.text for answer in stopped]


def test_five_starts_of_one_machine_at_once(netboot_api: NetbootApi, crowd: list[int], image: int) -> None:
    body = {"machine_id": crowd[0], "image_id": image}
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: netboot_api.http.post("/api/v1/sessions/start", json=body), range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 400, 400, 400, 400]
    refused = {answer.json()["detail"] for answer in answers if answer.status_code == 400}
    assert refused == {f"Machine {crowd[0]} already has an active session"}


def test_machine_in_session_is_not_deleted(netboot_api: NetbootApi, lab: Any, image: int) -> None:
    number = netboot_api.machine_id(lab.machines["s4"])
    with netboot_api.session(number, image):
        assert netboot_api.http.delete(f"/machines/{number}").status_code == 409
        assert netboot_api.http.delete(f"/images/{image}").status_code == 409
    assert netboot_api.http.delete(f"/machines/{number}").status_code == 200


def test_service_restarted_in_mid_session(
    netboot_api: NetbootApi, boot_host: LabHost, image: int, machine: TakeMachine
) -> None:
    """The machine's disk is not the service's process: it goes on, and the session is still known."""
    one = machine("s1")
    with netboot_api.session(netboot_api.machine_id(one.machine), image) as started:
        one.power_on()
        netboot_api.wait_for_phase(started["session"]["id"], "script", BOOT_SECONDS)
        boot_host.check("systemctl restart labyard-netboot.service")
        netboot_api.wait_until_ready()
        assert one.wait_for("done", BOOT_SECONDS).reports["done"] == "ok"
        netboot_api.wait_for_phase(started["session"]["id"], "booted")
        assert netboot_api.findings() == []


def test_reservation_is_answered_to_a_real_client(
    netboot_api: NetbootApi, lab: Any, image: int, dhcp_probe: DhcpProbe
) -> None:
    """BIOS, UEFI and iPXE clients each get their own boot file; afterwards the machine is nobody's."""
    machine = lab.machines["s4"]
    script = f"machines/{machine.mac.lower().replace(':', '-')}.ipxe"
    with netboot_api.session(netboot_api.machine_id(machine), image):
        for arch, user_class, file in (
            (0, "", "boot/undionly.kpxe"),
            (7, "", "boot/snponly.efi"),
            (0, "iPXE", script),
        ):
            lease = dhcp_probe.exchange(machine.mac, arch=arch, user_class=user_class)
            assert (lease.address, lease.boot_file) == (machine.address, file)
    assert dhcp_probe.exchange(machine.mac, arch=0, user_class="iPXE").boot_file == "boot.ipxe"
