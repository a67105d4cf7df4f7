"""Killed daemons and interrupted builds: run again and it completes; nothing is lost, nothing is left behind."""

from __future__ import annotations

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
UNITS = ["kea-dhcp4-server", "tftpd-hpa", "tgt", "nginx", "radvd"]


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
    run = subprocess.Popen(
        second_lab.command("site.yml"), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith(marker):
            break
    else:
        pytest.fail(f"the build never came to {marker}")
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    done = second_lab.run("site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    again = second_lab.run("site.yml")
    assert again.returncode == 0 and not re.search(r"changed=[1-9]", again.stdout), again.stdout[-3000:]


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
