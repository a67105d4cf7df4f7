"""Killed daemons and interrupted builds: run again and it completes; nothing is lost, nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from second_lab import ROOT, Inventory

from labyard.testing import DhcpProbe, TftpProbe

Snapshot = Callable[[], dict[str, set[str]]]
FORMER = "ly-former"
UNITS = ["kea-dhcp4-server", "tftpd-hpa", "tgt", "nginx", "radvd"]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.parametrize("unit", UNITS)
def test_a_killed_daemon_comes_back_by_itself(lab: Any, unit: str) -> None:
    host = lab.host("netboot")
    process = host.check("systemctl show --property MainPID --value %s", unit).strip()
    host.check(f"kill -9 {process}")
    waited = host.run(
        f"timeout 20 sh -c 'until systemctl is-active --quiet {unit} && "
        f'[ "$(systemctl show --property MainPID --value {unit})" != {process} ]; do sleep 0.2; done\''
    )
    assert waited.rc == 0, host.run(f"journalctl --no-pager -n 20 -u {unit}").stdout


def test_after_the_kills_everything_still_serves(
    lab: Any, dhcp_probe: DhcpProbe, tftp_probe: TftpProbe, iscsi_probe: Any
) -> None:
    machine = next(iter(lab.machines.values()))
    assert dhcp_probe.exchange(machine.mac, arch=0, user_class="iPXE").address == machine.address
    assert tftp_probe.get("boot.ipxe").startswith(b"#!ipxe")
    disk = lab.host("netboot").value("lab_disks")[-1]
    assert iscsi_probe(disk["initiator"]).inquiry(disk["iqn"])["Vendor"]


# Points of a run that leave different halves behind: before the networks, with networks and no host, with hosts.
@pytest.mark.parametrize(
    "marker", ["TASK [lab_network : Make the networks]", "TASK [lab_host : Run the container]", "TASK [probe : Install"]
)
def test_an_interrupted_build_is_completed_by_the_next(second_lab: Inventory, marker: str) -> None:
    build = subprocess.Popen(
        second_lab.command("site.yml"), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert build.stdout is not None
    for line in build.stdout:
        if line.startswith(marker):
            break
    else:
        pytest.fail(f"the build never came to {marker}")
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
    done = second_lab.run("site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    again = second_lab.run("site.yml")
    assert again.returncode == 0 and not re.search(r"changed=[1-9]", again.stdout), again.stdout[-3000:]


def test_a_former_interface_takes_no_address(second_lab: Inventory) -> None:
    """What a crash can leave on the segment for a while: another interface with the host's MAC address."""
    assert second_lab.run("playbooks/provision.yml").returncode == 0
    name = "labyard-second-probe1"
    mac = json.loads(run("docker", "exec", name, "ip", "-json", "link", "show", "eth1"))[0]["address"]
    run("docker", "stop", name)
    run("ip", "netns", "add", FORMER)
    try:
        run("ip", "link", "add", FORMER, "type", "veth", "peer", "name", "eth1", "address", mac, "netns", FORMER)
        run("ip", "link", "set", FORMER, "master", "ly-78-segment", "up")
        run("ip", "-netns", FORMER, "link", "set", "eth1", "up")
        time.sleep(3)  # until it has its address: there is no event for that
        done = second_lab.run("playbooks/provision.yml")
        assert done.returncode == 0, done.stdout[-3000:]
        addresses = run("docker", "exec", name, "ip", "-6", "address", "show", "dev", "eth1", "scope", "link")
        assert "fe80::" in addresses and "tentative" not in addresses
    finally:
        run("ip", "netns", "delete", FORMER)


def test_destroy_leaves_nothing_behind_and_touches_nothing_else(
    lab: Any, second_lab: Inventory, take_snapshot: Snapshot
) -> None:
    before = take_snapshot()
    assert second_lab.run("site.yml").returncode == 0
    assert take_snapshot() != before
    done = second_lab.run("playbooks/destroy.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    # The kernel forgets a bridge's last traces a moment after the engine removed it.
    deadline = time.monotonic() + 10
    while take_snapshot() != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert take_snapshot() == before
    again = second_lab.run("playbooks/destroy.yml")
    assert again.returncode == 0 and not re.search(r"changed=[1-9]", again.stdout), again.stdout[-3000:]
    for host in lab.hosts():
        assert host.run("true").rc == 0, f"{host.name} of the other lab is gone"
