"""What the role dhcp_isc promises."""

from __future__ import annotations

import re
from ipaddress import ip_address

import daemons
import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import LabHost
from labyard.testing import DhcpProbe, ProbeError

STRANGER = "52:54:00:0d:0d:02"
SESSION = "52:54:00:00:00:51"  # molecule/dhcp_isc/converge.yml


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "isc-dhcp-server.service")

    def test_leases_from_the_pool(self, host: LabHost, dhcp_probe: DhcpProbe) -> None:
        lease = dhcp_probe.exchange(STRANGER)
        first, last = map(ip_address, host.value("dhcp_isc_subnets")[0]["pools"][0].split(" - "))
        assert first <= ip_address(lease.address) <= last
        assert lease.seconds == host.value("dhcp_isc_lease_seconds")

    def test_honours_every_reservation(self, host: LabHost, dhcp_probe: DhcpProbe) -> None:
        for reserved in host.value("dhcp_isc_subnets")[0]["reservations"][:2]:
            lease = dhcp_probe.exchange(reserved["mac"])
            assert (lease.address, lease.hostname) == (reserved["address"], reserved["name"])

    @pytest.mark.parametrize(
        ("arch", "user_class", "kind"),
        [
            (0, "", "bios"),
            (7, "", "uefi_x64"),
            (9, "", "uefi_x64"),
            (11, "", "uefi_arm64"),
            (0, "iPXE", "ipxe"),
            (7, "iPXE", "ipxe"),
        ],
    )
    def test_boot_file_by_client(
        self, host: LabHost, dhcp_probe: DhcpProbe, arch: int, user_class: str, kind: str
    ) -> None:
        lease = dhcp_probe.exchange(STRANGER, arch=arch, user_class=user_class)
        assert lease.boot_file == host.value("dhcp_isc_boot_files")[kind]
        assert lease.next_server == host.value("dhcp_isc_subnets")[0]["next_server"]

    def test_a_session_s_entry_is_served_and_was_left_alone(self, host: LabHost, dhcp_probe: DhcpProbe) -> None:
        if host.name != "subject":
            pytest.skip("only the role's own scenario puts an entry there")
        section = host.shell.file("/etc/dhcp/dhcpd.conf").content_string.split("# BEGIN labyard netboot\n")[1]
        assert re.match(r"host session \{.*\}\n# END labyard netboot", section)
        script = dhcp_probe.exchange(SESSION, arch=0, user_class="iPXE")
        assert script.boot_file == "machines/52-54-00-00-00-51.ipxe"
        assert script.address.endswith(".51")
        assert dhcp_probe.exchange(SESSION, arch=0).boot_file == host.value("dhcp_isc_boot_files")["bios"]
        assert dhcp_probe.exchange(SESSION, arch=7).boot_file == host.value("dhcp_isc_boot_files")["uefi_x64"]

    def test_the_unit_knows_when_dhcpd_dies(self, host: LabHost) -> None:
        assert daemons.process(host, "isc-dhcp-server")
        daemons.kill(host, "isc-dhcp-server")

    def test_listens_on_its_interfaces_only(self, host: LabHost, probe_host: LabHost) -> None:
        # dhcpd binds port 67 on all addresses and picks by its packet sockets, so only asking tells.
        if probe_host.value("lab_mgmt") is None:
            assert not probe_host.url.startswith("docker"), "a container host always has the management network"
            return
        with pytest.raises(ProbeError):
            DhcpProbe(probe_host, "eth0").exchange(STRANGER, seconds=2)


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "dhcp_isc", "/etc/dhcp/dhcpd.conf", "/etc/systemd/system/isc-dhcp-server.service")

    def test_nobody_answers(self, dhcp_probe: DhcpProbe) -> None:
        with pytest.raises(ProbeError):
            dhcp_probe.exchange(STRANGER, seconds=2)
