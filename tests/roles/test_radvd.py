"""What the role radvd promises."""

from __future__ import annotations

import ipaddress

from conftest import assert_gone, assert_runs

from labyard.lab import LabHost

# Asks for a router (RFC 4861, ICMPv6 type 133) and prints the first answer's sender, router lifetime and prefix. A lost
# packet is nobody's fault, so it asks as often as a host does: MAX_RTR_SOLICITATIONS times (section 6.3.7).
SOLICIT = r"""
import socket, struct, sys
name = sys.argv[1]
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.settimeout(4)

def ask():
    s.sendto(struct.pack("!BBHI", 133, 0, 0, 0), ("ff02::2", 0, 0, socket.if_nametoindex(name)))
    try:
        while True:
            data, sender = s.recvfrom(2000)
            if data[0] == 134:
                return data, sender
    except TimeoutError:
        return None

answer = ask() or ask() or ask()
if answer is None:
    sys.exit("no router advertisement after 3 solicitations")
data, sender = answer
options, prefix = data[16:], ""
while options:
    if options[0] == 3:
        prefix = socket.inet_ntop(socket.AF_INET6, options[16:32])
    options = options[options[1] * 8:]
print(sender[0], int.from_bytes(data[6:8], "big"), prefix)
"""


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "radvd.service")

    def test_answers_a_solicitation_without_offering_a_way_out(self, host: LabHost, probe_host: LabHost) -> None:
        interface = str(probe_host.value("lab_interface"))
        sender, lifetime, prefix = probe_host.check("python3 -c %s %s", SOLICIT, interface).split()
        assert ipaddress.ip_address(sender).is_link_local
        assert lifetime == "0", "the lab would become a default gateway"
        assert ipaddress.ip_address(prefix) in ipaddress.ip_network(host.value("radvd_prefix"))

    def test_advertises_on_its_interface_only(self, host: LabHost) -> None:
        named = [line.split()[1] for line in host.check("grep ^interface /etc/radvd.conf").splitlines()]
        assert named == [host.value("radvd_interface")]


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "radvd", "/etc/radvd.conf")
        assert not host.shell.service("radvd.service").is_running
