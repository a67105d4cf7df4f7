"""What the role lab_host promises: a systemd container with just what the inventory gives it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from labyard.lab import LabHost
from labyard.testing.lab_plugin import load_lab
from labyard.testing.waiting import wait_until


def containers(config: pytest.Config) -> list[LabHost]:
    lab = load_lab(config)
    return [LabHost(name, lab.inventory) for name in lab.inventory.hosts("lab_containers")]


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest) -> list[tuple[LabHost, dict[str, Any]]]:
    found = []
    for host in containers(request.config):
        command = ["docker", "inspect", str(host.value("lab_host_name"))]
        found.append((host, json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]))
    return found


def failed(host: LabHost) -> str:
    return str(host.run("systemctl --failed --no-legend --plain").stdout)


class TestApplied:
    def test_systemd_is_up_and_nothing_failed(self, hosts: list[tuple[LabHost, dict[str, Any]]]) -> None:
        for host, _ in hosts:
            assert host.check("cat /proc/1/comm").strip() == "systemd"
            # Tests that run beside this one kill daemons, which come back.
            wait_until(
                lambda host=host: not failed(host), lambda host=host: f"nothing failed on {host.name}: {failed(host)}"
            )

    def test_is_not_privileged_and_has_the_devices_it_was_given(
        self, hosts: list[tuple[LabHost, dict[str, Any]]]
    ) -> None:
        for host, container in hosts:
            assert container["HostConfig"]["Privileged"] is False
            given = [device["PathInContainer"] for device in container["HostConfig"]["Devices"] or []]
            assert given == list(host.value("lab_host_devices"))

    def test_label_says_whose_it_is(self, hosts: list[tuple[LabHost, dict[str, Any]]]) -> None:
        for _, container in hosts:
            assert container["Config"]["Labels"]["labyard"] == "host"

    def test_first_interface_is_management_second_the_segment(
        self, hosts: list[tuple[LabHost, dict[str, Any]]]
    ) -> None:
        for host, container in hosts:
            names = [network["name"] for network in host.value("lab_host_networks")]
            addresses = [container["NetworkSettings"]["Networks"][name]["IPAddress"] for name in names]
            assert addresses[0] in host.check("ip -4 -o address show dev eth0")
            assert host.check("ip route show default").split()[4] == "eth0", "the segment must not be a way out"

    def test_machine_ids_differ(self, hosts: list[tuple[LabHost, dict[str, Any]]]) -> None:
        ids = [host.check("cat /etc/machine-id") for host, _ in hosts]
        assert len(set(ids)) == len(ids) and all(len(found.strip()) == 32 for found in ids)
