"""Boots that go wrong, captures that are spoilt, and clocks that differ: made by hand, packet by packet."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labyard.waterfall import Kind, Span, TimedLine, Waterfall, waterfall
from labyard.waterfall.advice import headline
from labyard.waterfall.capture import CaptureError, clock_offset, read_capture
from labyard.waterfall.model import Cause
from labyard.waterfall.recording import events_of
from labyard.waterfall.serial import read_trace

OURS, SERVERS, OTHERS = "52:54:00:00:00:01", "02:00:00:00:00:02", "52:54:00:00:00:09"
US, SERVER, NOBODY, ALL = "192.0.2.11", "192.0.2.2", "0.0.0.0", "255.255.255.255"
BROADCAST = "ff:ff:ff:ff:ff:ff"
SYN, ACK, PUSH = 0x02, 0x10, 0x18
T0 = 1_700_000_000.0  # power-on


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def address(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def ip(source: str, target: str, protocol: int, body: bytes) -> bytes:
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0)
        + address(source)
        + address(target)
        + body
    )


def frame(source: str, target: str, body: bytes, kind: int = 0x0800) -> bytes:
    return mac(target) + mac(source) + struct.pack("!H", kind) + body


def udp(ours: bool, port: int, to: int, body: bytes) -> bytes:
    ends = (US, SERVER) if ours else (SERVER, US)
    packet = struct.pack("!HHHH", port, to, 8 + len(body), 0) + body
    return frame(*((OURS, SERVERS) if ours else (SERVERS, OURS)), ip(*ends, 17, packet))


def tcp(ours: bool, port: int, sequence: int, flags: int, body: bytes = b"", server_port: int = 3260) -> bytes:
    ports = (port, server_port) if ours else (server_port, port)
    packet = struct.pack("!HHIIBBHHH", *ports, sequence, 0, 0x50, flags, 65535, 0, 0) + body
    ends = (US, SERVER) if ours else (SERVER, US)
    return frame(*((OURS, SERVERS) if ours else (SERVERS, OURS)), ip(*ends, 6, packet))


def dhcp(kind: int, client: str = OURS, transaction: int = 1, ipxe: bool = True) -> bytes:
    asks = kind in (1, 3)
    body = struct.pack("!BBBBI", 1 if asks else 2, 1, 6, 0, transaction) + bytes(20) + mac(client).ljust(208, b"\0")
    body += b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + (b"\x4d\x04iPXE" if ipxe and asks else b"")
    # As iPXE's offers have it here: no ProxyDHCP server.
    body += (b"\xaf\x03\xb0\x01\x01" if not asks else b"") + b"\xff"
    ports = (68, 67) if asks else (67, 68)
    packet = struct.pack("!HHHH", *ports, 8 + len(body), 0) + body
    if asks:
        return frame(client, BROADCAST, ip(NOBODY, ALL, 17, packet))
    return frame(SERVERS, client, ip(SERVER, US, 17, packet))


def capture(packets: list[tuple[float, bytes]], start: float = T0, before: bytes = b"", kept: int = 65535) -> bytes:
    data = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for at, packet in packets:
        packet = before + packet
        micros = round((start + at) * 1e6)
        data += struct.pack("<IIII", *divmod(micros, 1_000_000), min(kept, len(packet)), len(packet)) + packet[:kept]
    return data


LEASE = [(2.0, dhcp(1)), (2.001, dhcp(2)), (2.002, dhcp(3)), (2.003, dhcp(5))]
READ_REQUEST = b"\0\1boot.ipxe\0octet\0"


def look(packets: list[tuple[float, bytes]], lines: list[TimedLine] | None = None, **more: float) -> Waterfall:
    found = waterfall(capture(packets), lines, None, T0, **more)
    assert sum(span.seconds for span in found.spans) == pytest.approx(found.total)
    return found


def the(found: Waterfall, cause: Cause) -> Span:
    (span,) = [span for span in found.spans if span.cause is cause]
    return span


def said(at: float, text: str, until: float | None = None) -> TimedLine:
    return TimedLine(T0 + at, T0 + (at if until is None else until), text)


def test_silence_before_the_first_dhcp_answer_points_to_the_bridge() -> None:
    asked = [(2.0 + at, dhcp(1)) for at in (0, 1, 3, 7)]
    found = look([*asked, (15.0, dhcp(1)), (15.1, dhcp(2)), (15.2, dhcp(3)), (15.3, dhcp(5))])
    wait = the(found, Cause.DHCP_SILENT)
    assert wait.seconds == pytest.approx(13.1)
    assert wait.detail == "asked 5 times before an answer"
    assert "forward_delay" in headline(found)


def test_no_dhcp_answer_at_all() -> None:
    found = look(
        [(2.0 + at, dhcp(1)) for at in (0, 1, 3)],
        [said(2.0, "Configuring (net0)"), said(9.0, "No configuration methods succeeded")],
    )
    assert the(found, Cause.DHCP_SILENT).seconds == pytest.approx(3)
    assert not found.finished
    assert "No configuration methods succeeded" in found.notes[0]


def test_other_machines_broadcasts_are_not_ours() -> None:
    others = [(0.5 + at / 10, dhcp(1, OTHERS, transaction=9)) for at in range(10)]
    tftp = [
        (2.5, udp(True, 2000, 69, READ_REQUEST)),
        (2.6, udp(False, 3000, 2000, b"\0\3\0\1abc")),
        (2.7, udp(True, 2000, 3000, b"\0\4\0\1")),
    ]
    found = waterfall(capture(sorted([*others, *LEASE, *tftp])), None, None, T0, mac=OURS.upper())
    assert found.spans[0].end == pytest.approx(2.0)
    assert [span.size for span in found.spans if span.kind is Kind.TFTP] == [3]


def test_a_tftp_server_that_is_away() -> None:
    found = look([*LEASE, *[(2.1 + at, udp(True, 2000, 69, READ_REQUEST)) for at in (0, 1, 3)]])
    wait = the(found, Cause.TFTP_SILENT)
    assert wait.detail == "asked 3 times, no answer"
    assert "tftp_address" in headline(found)


def test_a_file_that_is_not_there() -> None:
    found = look(
        [*LEASE, (2.1, udp(True, 2000, 69, READ_REQUEST)), (2.2, udp(False, 3000, 2000, b"\0\5\0\1not found\0"))]
    )
    assert [span.detail for span in found.spans if span.kind is Kind.TFTP] == ["refused"]


def test_a_slow_tftp_transfer_is_named_when_nothing_waits() -> None:
    blocks = [(2.1 + n / 1000, udp(False, 3000, 2000, struct.pack("!HH", 3, n) + bytes(1432))) for n in range(1, 3000)]
    found = look([*LEASE, (2.1, udp(True, 2000, 69, READ_REQUEST)), *blocks])
    assert "HTTP" in headline(found)


def login(port: int, at: float, status: int = 0) -> list[tuple[float, bytes]]:
    request = b"\x43\x87\0\0" + bytes(44)
    answer = b"\x23\x87\0\0" + bytes(32) + struct.pack("!H", status) + bytes(10)
    return [
        (at, tcp(True, port, 100, SYN)),
        (at + 0.001, tcp(False, port, 500, SYN | ACK)),
        (at + 0.01, tcp(True, port, 101, PUSH, request)),
        (at + 0.02, tcp(False, port, 501, PUSH, answer)),
    ]


def test_a_refused_login_names_the_secrets() -> None:
    found = look([*LEASE, *login(2000, 2.1, 0x0201), (3.0, tcp(True, 2000, 149, 0x11))])
    wait = the(found, Cause.LOGIN)
    assert "0x0201" in wait.detail
    assert "ipxe_chap_user" in headline(found)


def test_a_login_answered_in_data_that_looks_like_one_is_not_one() -> None:
    data = [(2.2 + n / 100, tcp(False, 2000, 549 + n * 1000, PUSH, b"\x23" + b"\xff" * 999)) for n in range(5)]
    found = look([*LEASE, *login(2000, 2.1), *data])
    assert [(span.name, round(span.seconds, 3), span.size) for span in found.spans if span.kind is Kind.ISCSI] == [
        ("iSCSI login (iPXE)", 0.02, None),
        ("iSCSI disk (iPXE)", 0.04, 5000),
    ]


def test_http_requests_on_one_connection_are_told_apart() -> None:
    def get(path: str, at: float, sequence: int, answered: int, size: int) -> list[tuple[float, bytes]]:
        head = f"GET {path} HTTP/1.1\r\n\r\n".encode()
        body = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(size - 19)
        return [
            (at, tcp(True, 2000, sequence, PUSH, head, 80)),
            (at + 0.1, tcp(False, 2000, answered, PUSH, body[:1400], 80)),
            (at + 0.3, tcp(False, 2000, answered + 1400, PUSH, body[1400:], 80)),
        ]

    opened = [(2.1, tcp(True, 2000, 100, SYN, b"", 80))]
    found = look([*LEASE, *opened, *get("/vmlinuz?x=1", 2.2, 101, 500, 2000), *get("/initrd", 3.0, 140, 2500, 2800)])
    spans = [span for span in found.spans if span.kind is Kind.HTTP]
    assert [(span.name, span.size) for span in spans] == [("HTTP /vmlinuz", 2000), ("HTTP /initrd", 2800)]
    assert spans[0].detail == "x=1, status 200"


def test_a_menu_is_a_wait() -> None:
    lines = [said(2.5, "Labyard: nothing to boot for 52:54:00:00:00:01"), said(2.6, "Try again")]
    found = look(
        [
            *LEASE,
            (2.1, udp(True, 2000, 69, READ_REQUEST)),
            (2.2, udp(False, 3000, 2000, b"\0\3\0\1a")),
            (17.6, udp(True, 2001, 69, READ_REQUEST)),
            (17.7, udp(False, 3000, 2001, b"\0\3\0\1a")),
        ],
        lines,
    )
    assert the(found, Cause.MENU).seconds == pytest.approx(15.1, abs=0.2)
    assert "lab_machines" in headline(found)


def test_what_nobody_explains_is_shown_as_that() -> None:
    transfer = [(2.1, udp(True, 2000, 69, READ_REQUEST)), (2.2, udp(False, 3000, 2000, b"\0\3\0\1a"))]
    found = look([*LEASE, *transfer, *login(2000, 9.2)], [said(2.2, "Thinking")])
    wait = the(found, Cause.UNKNOWN)
    assert (wait.kind, wait.name) == (Kind.UNEXPLAINED, "waiting (unexplained)")
    assert wait.seconds == pytest.approx(7.0)
    assert "Thinking" in wait.detail


def test_a_machine_that_sent_nothing() -> None:
    found = waterfall(capture([]), [said(0.5, "SeaBIOS (version 1)"), said(3.0, "No bootable device.")], None, T0)
    assert found.total == pytest.approx(3.0)
    assert "no packet of this machine" in found.notes[0]


def test_an_empty_capture_without_a_console() -> None:
    found = waterfall(capture([]))
    assert (found.spans, found.total) == ([], 0)


@pytest.mark.parametrize("before", [b"", bytes(12), bytes(10)])
@pytest.mark.parametrize("kept", [65535, 384])
def test_header_of_the_tap_device_is_found(before: bytes, kept: int) -> None:
    packets = read_capture(capture(LEASE, before=before, kept=kept))
    assert [packet.ends[1][1] for packet in packets] == [67, 68, 67, 68]


@pytest.mark.parametrize("spoilt", [b"", b"not a capture at all", b"\x0a\x0d\x0d\x0a" + bytes(60)])
def test_what_is_no_capture_is_refused(spoilt: bytes) -> None:
    with pytest.raises(CaptureError, match="classic pcap"):
        read_capture(spoilt)


@pytest.mark.parametrize(
    ("dumped", "started", "zone"),
    [(100.2, 100.6, 0), (100.95, 101.25, 0), (100.2, 100.6, -7200), (100.95, 101.25, 5400)],
)
def test_clock_of_the_dump_is_set_right(dumped: float, started: float, zone: int) -> None:
    """Made at `dumped`, the dump counts from that whole second (in local time) what passed since `started`."""
    asked = started + 3.25
    in_capture = int(dumped) + zone + 3.25
    offset = clock_offset(in_capture, started, dumped - 0.1, asked + 0.02)
    assert in_capture + offset == pytest.approx(asked, abs=1e-6)


def test_trace_is_read_character_by_character() -> None:
    written = [(0.1, 3, 0x83), (0.1, 0, 0x01), (0.1, 3, 0x03)]  # the speed, which is no text
    for at, text in ((0.2, "\x1b[2J\x1b[0mPress Ctrl-B..."), (2.2, "\b \b\b \b"), (2.3, "net0: up\r\n")):
        written += [(at, 0, ord(letter)) for letter in text]
    trace = "7@1700000000.000100:vm_state_notify running 1 reason 9 (running)\n" + "".join(
        f"7@{T0 + at:.6f}:serial_write write addr 0x{register:02x} val 0x{value:02x}\n"
        for at, register, value in written
    )
    console = read_trace(trace)
    assert console.running_at == pytest.approx(T0 + 0.0001)
    assert [(round(line.start - T0, 3), round(line.end - T0, 3), line.text) for line in console.lines] == [
        (0.2, 2.2, "Press Ctrl-B..."),
        (2.3, 2.3, "net0: up"),
    ]


def test_events_are_read_as_the_service_answers_them() -> None:
    listed = '[{"type": "ipxe_load", "source": "client", "created_at": "2023-11-14T22:13:20Z"}]'
    for answer in (listed, f'{{"events": {listed}, "total": 1}}'):
        (event,) = events_of(answer)
        assert (event.at, event.name, event.source) == (T0, "ipxe_load", "client")
    with pytest.raises(ValueError, match="not boot events"):
        events_of('{"detail": "no"}')


REAL = gzip.decompress(Path(__file__).with_name("data").joinpath("bios.pcap.gz").read_bytes())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(24, len(REAL)))
def test_no_spoilt_packet_brings_it_down(seed: int, spoilt: int, length: int) -> None:
    """Whatever is in the packets, there is a waterfall, and it adds up."""
    data, dice = bytearray(REAL[:length]), random.Random(seed)
    place = 24
    while place + 16 <= len(data):
        kept = int.from_bytes(data[place + 8 : place + 12], "little")
        for _ in range(spoilt // 20):
            at = place + 16 + dice.randrange(kept)
            if at < len(data):
                data[at] = dice.randrange(256)
        place += 16 + kept
    found = waterfall(bytes(data))
    assert sum(span.seconds for span in found.spans) == pytest.approx(found.total, abs=1e-6)
    assert all(span.seconds > 0 for span in found.spans)
