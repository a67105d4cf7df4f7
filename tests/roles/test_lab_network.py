"""What the role lab_network promises, on the control machine."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from labyard.testing.lab_plugin import load_lab


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@pytest.fixture(scope="module")
def segments(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return list(load_lab(request.config).inventory.value("localhost", "lab_segments"))


@pytest.fixture(scope="module")
def blackhole(request: pytest.FixtureRequest) -> str:
    inventory = load_lab(request.config).inventory
    # A scenario sets the role's variable; the lab's playbook gives the role the supernet.
    return str(inventory.value("localhost", "lab_network_blackhole") or inventory.value("localhost", "lab_supernet"))


class TestApplied:
    def test_segment_is_a_bridge_that_leads_nowhere(self, segments: list[dict[str, Any]]) -> None:
        for segment in segments:
            network = json.loads(run("docker", "network", "inspect", segment["name"]))[0]
            assert network["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"
            assert network["IPAM"]["Config"][0]["Subnet"] == segment["subnet"]
            assert network["Labels"]["labyard"] == "network"

    def test_this_machine_has_no_address_on_it(self, segments: list[dict[str, Any]]) -> None:
        for segment in segments:
            (link,) = json.loads(run("ip", "-j", "-4", "address", "show", "dev", segment["bridge"])) or [{}]
            assert not link.get("addr_info"), f"{segment['bridge']} has an address"

    def test_what_no_network_takes_is_dropped(self, blackhole: str) -> None:
        routes = json.loads(run("ip", "-j", "route", "show", "type", "blackhole"))
        assert blackhole in [route["dst"] for route in routes]
