"""Killed daemons of the boot host: they come back by themselves, and nothing is lost."""

from __future__ import annotations

from typing import Any

import daemons
import pytest

from labyard.testing import DhcpProbe, TftpProbe

UNITS = ["kea-dhcp4-server", "tftpd-hpa", "tgt", "nginx", "radvd"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_killed_daemon_comes_back_by_itself(lab: Any, unit: str) -> None:
    daemons.kill(lab.host("netboot"), unit)


def test_after_the_kills_everything_still_serves(
    lab: Any, dhcp_probe: DhcpProbe, tftp_probe: TftpProbe, iscsi_probe: Any
) -> None:
    machine = next(iter(lab.machines.values()))
    assert dhcp_probe.exchange(machine.mac, arch=0, user_class="iPXE").address == machine.address
    assert tftp_probe.get("boot.ipxe").startswith(b"#!ipxe")
    disk = lab.host("netboot").value("lab_disks")[-1]
    assert iscsi_probe(disk["initiator"]).inquiry(disk["iqn"])["Vendor"]
