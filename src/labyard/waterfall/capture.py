"""Reads a packet capture as QEMU's filter-dump writes it.

Own reader, of what a boot needs and no more: dpkt has had no release since 2022 and refuses packets that are cut
short, which ours are on purpose; scapy is large, slow to import and under another licence. Formats: classic pcap
(draft-ietf-opsawg-pcap), Ethernet II, RFC 791, RFC 8200, RFC 768, RFC 9293, RFC 4443, RFC 826.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
_ETHERTYPES = {0x0800: "ip", 0x0806: "arp", 0x86DD: "ip6", 0x8100: "vlan"}
# QEMU before 8.0 dumps the virtio-net header of a tap device in front of the Ethernet header.
_VNET_HEADERS = (0, 12, 10)
QUARTER_HOUR = 900


class CaptureError(ValueError):
    """The bytes are not a capture that can be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. `length` counts the payload's bytes on the wire, of which `payload` may hold fewer."""

    at: float
    source: str  # MAC address
    target: str
    protocol: str  # tcp, udp, icmp6, arp, or empty for another
    ends: tuple[tuple[str, int], tuple[str, int]] = (("", 0), ("", 0))  # (address, port) of sender and receiver
    payload: bytes = b""
    length: int = 0
    sequence: int = 0
    flags: int = 0


def _mac(data: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in data)


def _records(data: bytes) -> Iterator[tuple[float, bytes, int]]:
    """(time, bytes, length on the wire) of each packet; a last one that was cut off is left out."""
    if data[:4] not in _MAGIC:
        raise CaptureError("this is not a packet capture in the classic pcap format")
    order, unit = _MAGIC[data[:4]]
    header = struct.Struct(order + "IIII")
    place = 24
    while place + header.size <= len(data):
        seconds, fraction, kept, length = header.unpack_from(data, place)
        place += header.size
        if place + kept > len(data):
            return
        yield seconds + fraction * unit, data[place : place + kept], length
        place += kept


def _header_before(frames: list[tuple[float, bytes, int]]) -> int:
    """How many bytes stand before the Ethernet header: the place at which most frames make sense."""

    def sensible(skip: int) -> int:
        return sum(
            len(frame) >= skip + 14 and int.from_bytes(frame[skip + 12 : skip + 14]) in _ETHERTYPES
            for _, frame, _ in frames[:200]
        )

    return max(_VNET_HEADERS, key=sensible)


def _parse(at: float, frame: bytes, length: int) -> Packet:
    target, source, kind, place = _mac(frame[:6]), _mac(frame[6:12]), int.from_bytes(frame[12:14]), 14
    if kind == 0x8100:
        kind, place = int.from_bytes(frame[16:18]), 18
    if kind == 0x0806 and len(frame) >= place + 28:
        asked = ".".join(map(str, frame[place + 24 : place + 28]))
        sender = ".".join(map(str, frame[place + 14 : place + 18]))
        return Packet(at, source, target, "arp", ((sender, 0), (asked, 0)))
    if kind == 0x0800 and len(frame) >= place + 20:
        start, protocol = place + (frame[place] & 15) * 4, frame[place + 9]
        end = place + int.from_bytes(frame[place + 2 : place + 4])
        addresses = [".".join(map(str, frame[place + at : place + at + 4])) for at in (12, 16)]
    elif kind == 0x86DD and len(frame) >= place + 40:
        start, protocol = place + 40, frame[place + 6]
        end = start + int.from_bytes(frame[place + 4 : place + 6])
        if protocol == 0:  # hop-by-hop options: multicast listener reports have them
            protocol, start = frame[start], start + 8 + frame[start + 1] * 8
        addresses = [frame[place + at : place + at + 16].hex(":", 2) for at in (8, 24)]
    else:
        return Packet(at, source, target, "")
    # The length in the header; a segment that the card is to cut up has none that counts.
    end = end if place < end <= length else length
    if protocol == 58 and len(frame) > start:
        return Packet(at, source, target, "icmp6", ((addresses[0], 0), (addresses[1], frame[start])))
    if protocol not in (6, 17) or len(frame) < start + 8:
        return Packet(at, source, target, "")
    ports = struct.unpack_from("!HH", frame, start)
    ends = ((addresses[0], ports[0]), (addresses[1], ports[1]))
    if protocol == 17:
        return Packet(at, source, target, "udp", ends, frame[start + 8 : end], max(0, end - start - 8))
    if len(frame) < start + 14:
        return Packet(at, source, target, "")
    body = start + (frame[start + 12] >> 4) * 4
    sequence = int.from_bytes(frame[start + 4 : start + 8])
    return Packet(at, source, target, "tcp", ends, frame[body:end], max(0, end - body), sequence, frame[start + 13])


def read_capture(data: bytes) -> list[Packet]:
    """The packets of a capture, times as they stand in it. CaptureError when it is none."""
    frames = list(_records(data))
    skip = _header_before(frames)
    return [_parse(at, frame[skip:], length - skip) for at, frame, length in frames if len(frame) >= skip + 14]


def machine_of(packets: list[Packet]) -> str:
    """The MAC address of the machine whose card was captured: of those that asked by DHCP, the one that sent most.

    Broadcasts of other machines are in the capture too. Empty when nobody asked.
    """
    sent = Counter(packet.source for packet in packets)
    asked = {packet.source for packet in packets if packet.protocol == "udp" and packet.ends[1][1] == 67}
    return max(asked, key=lambda mac: sent[mac], default="")


def clock_offset(first_discover: float, running_at: float, power_on: float, configured_at: float | None) -> float:
    """Seconds to add to a capture's times to have the VM host's clock.

    filter-dump counts from the moment the guest's clock starts, and adds the second (a whole one) in which the dump was
    made, taken for local time whatever the guest's clock is set to (QEMU, net/dump.c). So the fraction comes from
    `running_at`, when the guest's clock really started, and hours from the time zone go. When the dump may have been
    made in either of two seconds, that decides in which the first DHCP discover comes nearest to `configured_at`, the
    console's word that it was sent, or else the later one.
    """
    zone = round((first_discover - running_at) / QUARTER_HOUR) * QUARTER_HOUR
    seconds = range(math.floor(power_on), math.floor(running_at) + 1)
    offsets = [running_at - second - zone for second in seconds] or [running_at - math.floor(running_at) - zone]
    if configured_at is None:
        return offsets[-1]
    return min(offsets, key=lambda offset: abs(first_discover + offset - configured_at))
