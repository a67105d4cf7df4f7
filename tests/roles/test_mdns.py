"""What the role mdns promises: what a host offers is found over the segment, and over no other network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from conftest import assert_gone, assert_runs

from labyard.lab import LabHost
from labyard.testing.waiting import PATIENCE, wait_until

TYPE = "_labyard-check._tcp"
SERVICE = f"""<?xml version="1.0" standalone="no"?><!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group><name>labyard-check</name><service><type>{TYPE}</type><port>4711</port></service></service-group>
"""
# Asks on one interface who offers the service (RFC 6762, section 6.7: an answer to a port other than 5353 is sent to
# who asked), as often as is needed in so many seconds, and prints who answered with its name.
ASK = r"""
import json, socket, struct, sys, time
interface, kind, seconds = sys.argv[1:]
question = b"".join(bytes([len(part)]) + part.encode() for part in f"{kind}.local".split(".")) + b"\0"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
index = socket.if_nametoindex(interface)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4sI", b"", b"", index))
s.settimeout(1)
answers, end = [], time.monotonic() + float(seconds)
while not answers and time.monotonic() < end:
    s.sendto(struct.pack("!6H", 4711, 0, 1, 0, 0, 0) + question + struct.pack("!2H", 12, 1), ("224.0.0.251", 5353))
    try:
        data, sender = s.recvfrom(9000)
    except TimeoutError:
        continue
    if b"labyard-check" in data[12 + len(question) + 4:]:
        answers.append(sender[0])
print(json.dumps(answers))
"""


@pytest.fixture
def offered(host: LabHost) -> Iterator[None]:
    """A service that the host says it offers."""
    host.check("printf %s > /etc/avahi/services/labyard-check.service", SERVICE)
    try:
        yield
    finally:
        host.check("rm /etc/avahi/services/labyard-check.service")


def ask(probe: LabHost, interface: str, seconds: float) -> list[str]:
    answers: list[str] = json.loads(probe.check("python3 -c %s %s %s %s", ASK, interface, TYPE, str(seconds)))
    return answers


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "avahi-daemon.service")

    @pytest.mark.usefixtures("offered")
    def test_what_a_host_offers_is_found_over_the_segment(self, host: LabHost, probe_host: LabHost) -> None:
        assert ask(probe_host, str(probe_host.value("lab_interface")), PATIENCE) == [host.address]

    @pytest.mark.usefixtures("offered")
    def test_its_tools_show_it(self, host: LabHost) -> None:
        found = f"avahi-browse --parsable --resolve --terminate {TYPE}"
        wait_until(lambda: re.search(f"^=.*;{host.address};4711;", host.run(found).stdout, re.MULTILINE), "it is shown")

    @pytest.mark.usefixtures("offered")
    def test_it_is_on_its_interfaces_only(self, host: LabHost, probe_host: LabHost) -> None:
        allowed = host.value("mdns_interfaces")
        assert allowed, "the lab's daemon shall not be on every network"
        others = set(host.shell.interface.names()) - set(allowed)
        assert others
        assert not [name for name in others if ask(probe_host, name, 5)]


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "mdns", "/etc/systemd/system/avahi-daemon.service.d")
        assert host.run("grep -E ^allow-interfaces /etc/avahi/avahi-daemon.conf").rc == 1
        for unit in ("avahi-daemon.service", "avahi-daemon.socket"):
            assert not host.shell.service(unit).is_running
            assert not host.shell.service(unit).is_enabled
