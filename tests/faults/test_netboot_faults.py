"""Daemons that are down, and a service that is killed: a start is undone and says why; nothing is left or lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import daemons
import httpx
import pytest
from second_lab import Inventory

from labyard.lab import LabHost
from labyard.testing import NetbootApi, PoweredMachine

UNIT = "labyard-netboot.service"
BOOT_SECONDS = 120


@pytest.fixture(scope="module")
def image(netboot_api: NetbootApi, boot_host: LabHost) -> int:
    return netboot_api.image_id(str(boot_host.value("boot_image_path")), "labyard-boot")


@pytest.fixture(autouse=True)
def nothing_is_found_afterwards(netboot_api: NetbootApi) -> Iterator[None]:
    yield
    netboot_api.wait_until_ready()
    netboot_api.findings(repair=True)
    assert netboot_api.findings() == []


@contextmanager
def stopped(host: LabHost, unit: str) -> Iterator[None]:
    """A daemon that is down, for as long as the test needs it."""
    host.check("systemctl stop %s", unit)
    try:
        yield
    finally:
        host.check("systemctl start %s", unit)


@pytest.mark.parametrize(
    ("unit", "code", "says"),
    [
        ("labyard-exports.service", "storage_error", "labyard-exports"),
        ("tgt.service", "iscsi_error", "tgt"),
        ("kea-dhcp4-server.service", "dhcp_error", "Kea"),
    ],
)
def test_a_daemon_that_is_down_is_named_and_the_start_undone(
    lab: Any, netboot_api: NetbootApi, boot_host: LabHost, image: int, unit: str, code: str, says: str
) -> None:
    machine = netboot_api.machine_id(lab.machines["s4"])
    with stopped(boot_host, unit):
        answer = netboot_api.http.post("/api/v1/sessions/start", json={"machine_id": machine, "image_id": image})
        assert (answer.status_code, answer.json()["error"]) == (500, code), answer.text
        assert says.lower() in answer.json()["detail"].lower()
    netboot_api.wait_until_healthy()
    with netboot_api.session(machine, image) as again:
        assert again["session"]["status"] == "active"


def test_killed_in_the_middle_of_starts_it_leaves_nothing(
    lab: Any, netboot_api: NetbootApi, boot_host: LabHost, image: int
) -> None:
    machines = [netboot_api.machine_id(lab.machines[name]) for name in ("s1", "s2", "s3", "s4")]

    def start(machine: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            netboot_api.http.post("/api/v1/sessions/start", json={"machine_id": machine, "image_id": image})

    for delay in ("0.02", "0.06", "0.15"):
        starts = [threading.Thread(target=start, args=(machine,)) for machine in machines]
        for one in starts:
            one.start()
        boot_host.check("sh -c %s", f"sleep {delay}; systemctl kill --signal KILL {UNIT}")
        for one in starts:
            one.join()
        netboot_api.wait_until_ready()
        netboot_api.findings(repair=True)
        assert netboot_api.findings() == []
        for machine in machines:
            with netboot_api.session(machine, image):
                pass


@pytest.mark.parametrize("unit", ["tgt.service", "labyard-exports.service"])
def test_a_disk_daemon_killed_under_a_session_is_rebuilt(
    lab: Any, netboot_api: NetbootApi, boot_host: LabHost, image: int, unit: str
) -> None:
    """The machine's data is in its overlay: after the repair it boots again and finds what it wrote."""
    machine = PoweredMachine(lab, lab.machines["s1"])
    with netboot_api.session(netboot_api.machine_id(machine.machine), image):
        try:
            machine.power_on()
            machine.wait_for("done", BOOT_SECONDS)
            daemons.kill(boot_host, unit)
            netboot_api.wait_until_healthy()
            netboot_api.findings(repair=True)
            assert netboot_api.findings() == []
            machine.power_on()
            reports = machine.wait_for("done", BOOT_SECONDS).reports
        finally:
            machine.power_off()
    assert (reports["done"], reports["disk.marker"].lower()) == ("ok", machine.machine.mac.lower())


def test_dhcp_is_refused_on_a_network_that_is_not_named(lab: Any, inventory: Inventory) -> None:
    host = lab.host("netboot")
    before = host.check("sha256sum /etc/kea/kea-dhcp4.conf")
    done = inventory.run("site.yml", "--tags", "netboot", "--extra-vars", '{"dhcp_interfaces": ["eth0"]}')
    assert done.returncode != 0 and "DHCP is never answered on a network" in done.stdout, done.stdout[-3000:]
    assert host.check("sha256sum /etc/kea/kea-dhcp4.conf") == before
