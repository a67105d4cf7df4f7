"""What the role dhcp promises."""

from __future__ import annotations

import json
import re
import shlex
from ipaddress import ip_address
from typing import Any

import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import LabHost
from labyard.testing import DhcpProbe, ProbeError

STRANGER = "52:54:00:0d:0d:01"


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "kea-dhcp4-server.service")

    def test_leases_from_the_pool(self, host: LabHost, dhcp_probe: DhcpProbe) -> None:
        lease = dhcp_probe.exchange(STRANGER)
        first, last = map(ip_address, host.value("dhcp_subnets")[0]["pools"][0].split(" - "))
        assert first <= ip_address(lease.address) <= last
        assert lease.seconds == host.value("dhcp_lease_seconds")

    def test_honours_every_reservation(self, host: LabHost, dhcp_probe: DhcpProbe) -> None:
        for reserved in host.value("dhcp_subnets")[0]["reservations"][:2]:
            lease = dhcp_probe.exchange(reserved["mac"])
            assert (lease.address, lease.hostname) == (reserved["address"], reserved["name"])

    @pytest.mark.parametrize(
        ("arch", "user_class", "kind"),
        [(0, "", "bios"), (7, "", "uefi_x64"), (9, "", "uefi_x64"), (0, "iPXE", "ipxe"), (7, "iPXE", "ipxe")],
    )
    def test_boot_file_by_client_class(
        self, host: LabHost, dhcp_probe: DhcpProbe, arch: int, user_class: str, kind: str
    ) -> None:
        lease = dhcp_probe.exchange(STRANGER, arch=arch, user_class=user_class)
        assert lease.boot_file == host.value("dhcp_boot_files")[kind]
        assert lease.next_server == host.value("dhcp_subnets")[0]["next_server"]

    def test_a_client_that_does_not_boot_gets_no_boot_file(self, dhcp_probe: DhcpProbe) -> None:
        assert dhcp_probe.exchange(STRANGER).boot_file == ""

    def test_only_ipxe_is_told_to_skip_proxydhcp(self, dhcp_probe: DhcpProbe) -> None:
        assert dhcp_probe.exchange(STRANGER, arch=0, user_class="iPXE").options["opt175"] == "b00101"
        assert "opt175" not in dhcp_probe.exchange(STRANGER, arch=0).options

    def test_lease_events_are_logged(self, host: LabHost, dhcp_probe: DhcpProbe) -> None:
        lease = dhcp_probe.exchange(STRANGER)
        log = host.check(f"tail -n 20 {host.value('dhcp_lease_log')}")
        assert f"{STRANGER}" in log and f"lease {lease.address} has been allocated" in log

    def test_listens_on_its_interfaces_only(self, host: LabHost) -> None:
        named = [host.check(f"ip -4 -o address show dev {name}") for name in host.value("dhcp_interfaces")]
        wanted = {re.findall(r"inet ([0-9.]+)/", shown)[0] + ":67" for shown in named}
        assert {line.split()[3] for line in host.check("ss -H -lnu sport = :67").splitlines()} == wanted

    def test_answers_on_no_other_network(self, host: LabHost, probe_host: LabHost) -> None:
        # Only a network of this machine's own engine may be asked; on a real network that would be a stranger's.
        management = probe_host.value("lab_mgmt")
        if management is None:
            assert not probe_host.url.startswith("docker"), "a container host always has the management network"
            return
        with pytest.raises(ProbeError):
            DhcpProbe(probe_host, "eth0").exchange(STRANGER, seconds=2)

    def test_control_socket_answers(self, host: LabHost) -> None:
        interfaces = ask(host, "config-get")["arguments"]["Dhcp4"]["interfaces-config"]["interfaces"]
        assert interfaces == host.value("dhcp_interfaces")

    def test_kea_may_write_its_file_and_keeps_the_base_s_digest_in_it(self, host: LabHost) -> None:
        path = "/etc/kea/kea-dhcp4.conf"
        before = json.loads(host.check(f"cat {path}"))["Dhcp4"]["user-context"]["labyard-base"]
        answer = ask(host, "config-write", filename=path)
        assert answer["result"] == 0, answer
        assert json.loads(host.check(f"cat {path}"))["Dhcp4"]["user-context"]["labyard-base"] == before
        host.check(f"kea-dhcp4 -t {path}")


def ask(host: LabHost, command: str, **arguments: str) -> dict[str, Any]:
    """What Kea answers on its control socket."""
    request = json.dumps({"command": command, "arguments": arguments})
    client = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(sys.argv[2].encode()); print(s.makefile().read())"
    )
    command_line = ["python3", "-c", client, str(host.value("dhcp_control_socket")), request]
    answer: dict[str, Any] = json.loads(host.check(shlex.join(command_line)))
    return answer


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "dhcp", "/etc/kea/kea-dhcp4.conf", "/etc/kea/labyard-base.json", host.value("dhcp_lease_log"))

    def test_nobody_answers(self, host: LabHost, dhcp_probe: DhcpProbe) -> None:
        with pytest.raises(ProbeError):
            dhcp_probe.exchange(STRANGER, seconds=2)
