"""Real boots, recorded by the lab's machines and thinned by thin.py: what is found in them."""

from __future__ import annotations

import gzip
import io
import json
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from labyard.waterfall import Kind, Span, TimedEvent, Waterfall, svg, text, waterfall
from labyard.waterfall.advice import headline
from labyard.waterfall.model import Cause
from labyard.waterfall.serial import read_trace

DATA = Path(__file__).with_name("data")

# When libvirt began to start the machine: from its log.
POWER_ON = {
    "bios": "2026-11-21 10:49:32.002+0000",
    "uefi": "2026-11-21 10:49:44.074+0000",
    "no-router": "2026-11-21 10:50:01.973+0000",
    "proxydhcp": "2026-11-21 10:50:27.417+0000",
}


def power_on(name: str) -> float:
    return datetime.strptime(POWER_ON[name], "%Y-%m-%d %H:%M:%S.%f%z").timestamp()


def unpacked(file: str) -> bytes:
    return gzip.decompress((DATA / file).read_bytes())


def recorded(name: str, events: list[TimedEvent] | None = None) -> Waterfall:
    console = read_trace(unpacked(f"{name}.trace.gz").decode())
    return waterfall(unpacked(f"{name}.pcap.gz"), console.lines, events, power_on(name), running_at=console.running_at)


def named(found: Waterfall, name: str) -> list[Span]:
    return [span for span in found.spans if span.name == name]


def seconds(found: Waterfall, name: str) -> float:
    return sum(span.seconds for span in named(found, name))


@pytest.mark.parametrize("name", POWER_ON)
def test_spans_add_up_and_leave_no_gap(name: str) -> None:
    found = recorded(name)
    assert found.spans[0].start == 0
    for before, after in zip(found.spans, found.spans[1:], strict=False):
        assert after.start == pytest.approx(before.end, abs=1e-9)
        assert after.seconds > 0
    assert sum(span.seconds for span in found.spans) == pytest.approx(found.total, abs=1e-6)
    assert found.finished
    assert found.notes == []


@pytest.mark.parametrize("name", POWER_ON)
def test_nothing_is_left_unexplained(name: str) -> None:
    assert [span for span in recorded(name).spans if span.kind is Kind.UNEXPLAINED] == []


def test_bios_boot_has_every_step_in_order() -> None:
    found = recorded("bios")
    order = list(dict.fromkeys(span.name for span in found.spans))
    assert order == [
        "machine start",
        "firmware (SeaBIOS)",
        "iPXE banner (Ctrl-B)",
        "DHCP (iPXE)",
        "iPXE",
        "TFTP boot.ipxe",
        "TFTP machines/52-54-00-77-00-03.ipxe",
        "iSCSI login (iPXE)",
        "iSCSI disk (iPXE)",
        "kernel unpacks",
        "kernel",
        "userland",
        "HTTP /phone-home/52-54-00-77-00-03",
        "iSCSI login (operating system)",
        "iSCSI disk (operating system)",
    ]
    assert seconds(found, "kernel") == pytest.approx(1.12, abs=0.01)  # the console's uptime
    assert found.userland == pytest.approx(7.855, abs=0.01)


def test_bytes_are_those_of_the_wire() -> None:
    found = recorded("bios")
    assert named(found, "TFTP boot.ipxe")[0].size == 501
    assert named(found, "TFTP machines/52-54-00-77-00-03.ipxe")[0].size == 541
    # Kernel and initramfs, though all but a few of their packets were thinned out.
    assert named(found, "iSCSI disk (iPXE)")[0].size == pytest.approx(20.4e6, rel=0.01)
    assert named(recorded("uefi"), "TFTP boot/snponly.efi")[0].size == 173792


def test_a_lab_that_lacks_nothing_waits_for_the_banner_only() -> None:
    found = recorded("bios")
    assert [span.cause for span in found.waits] == [Cause.BANNER]
    assert "no setting removes it" in headline(found)


def test_without_router_advertisements_the_wait_and_its_cure_are_named() -> None:
    longest = recorded("no-router").longest_wait
    assert longest is not None
    assert longest.cause is Cause.ROUTER
    assert 12 < longest.seconds < 18
    assert longest.detail == "6 solicitations, no answer"
    assert "radvd" in headline(recorded("no-router"))


def test_without_no_pxedhcp_the_wait_and_its_cure_are_named() -> None:
    longest = recorded("proxydhcp").longest_wait
    assert longest is not None
    assert longest.cause is Cause.PROXYDHCP
    assert longest.seconds == pytest.approx(3.05, abs=0.1)
    assert "dhcp_ipxe_skip_proxydhcp" in headline(recorded("proxydhcp"))


def test_uefi_firmware_and_ipxe_are_told_apart() -> None:
    found = recorded("uefi")
    assert [span.cause for span in found.waits] == [Cause.OFFERS, Cause.BANNER]
    assert named(found, "offer collection (UEFI)")[0].seconds == pytest.approx(3.93, abs=0.05)
    assert named(found, "DHCP (UEFI)")[0].start < named(found, "DHCP (iPXE)")[0].start
    assert named(found, "firmware (OVMF)")
    assert not named(found, "firmware (SeaBIOS)")


@pytest.mark.parametrize("name", POWER_ON)
def test_packets_and_console_are_on_one_clock(name: str) -> None:
    """The console reports each phone-home right after its answer was on the wire; filter-dump's clock is another."""
    console = read_trace(unpacked(f"{name}.trace.gz").decode())
    said = [line.end - power_on(name) for line in console.lines if "phone_home=ok" in line.text]
    called = [span.end for span in recorded(name).spans if span.name.startswith("HTTP /phone-home")]
    assert len(said) == len(called) == 2
    for wire, line in zip(called, said, strict=True):
        assert 0 <= line - wire < 0.1


def test_events_of_the_session_are_marked() -> None:
    at = power_on("bios")
    found = recorded(
        "bios", [TimedEvent(at + 5.0, "iscsi_connect", "iscsi"), TimedEvent(at + 2.0, "dhcp_request", "dhcp")]
    )
    assert [(mark.name, round(mark.at, 3)) for mark in found.marks[:2]] == [
        ("dhcp_request", 2.0),
        ("iscsi_connect", 5.0),
    ]
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(text.render(found, "m3", 110))
    assert "Events: dhcp_request 2.00 s, iscsi_connect 5.00 s" in console.export_text()
    assert "<title>iscsi_connect at 5.00 s (iscsi)</title>" in svg.render(found, "m3")


def test_without_a_console_what_can_be_seen_is_and_the_rest_is_said() -> None:
    found = waterfall(unpacked("bios.pcap.gz"))
    assert named(found, "iSCSI disk (iPXE)")
    assert named(found, "kernel and userland")
    assert sum(span.seconds for span in found.spans) == pytest.approx(found.total)
    assert not found.finished
    assert any("console" in note for note in found.notes)


def test_json_has_spans_total_and_advice() -> None:
    data = json.loads(recorded("no-router").to_json())
    assert sum(span["seconds"] for span in data["spans"]) == pytest.approx(data["total"], abs=1e-4)
    assert data["advice"][0]["name"] == "router advertisement wait"
    assert "radvd" in data["advice"][0]["text"]


@pytest.mark.parametrize("width", [80, 110, 200])
def test_terminal_picture_fits_and_names_the_longest_wait(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(text.render(recorded("no-router"), "m3", width))
    shown = console.export_text()
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    assert "router advertisement wait" in shown
    assert "16.12 s ◀ longest" in shown
    assert "radvd" in shown


def test_svg_is_self_contained_and_says_it_all() -> None:
    drawn = svg.render(recorded("no-router"), "m3 <&>")
    tree = ElementTree.fromstring(drawn)
    titles = [element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert any(said.startswith("router advertisement wait: 16.12") for said in titles)
    assert "<script" not in drawn
    assert "href" not in drawn
    assert "prefers-color-scheme: dark" in drawn
    assert "radvd" in drawn
