"""Puts what is known of a boot in line: spans from power-on to the end, with no gap left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from labyard.waterfall.capture import Packet, clock_offset, machine_of, read_capture
from labyard.waterfall.conversations import PATIENCE, DhcpRound, dhcp_rounds, dhcp_spans, router_wait, tftp_spans
from labyard.waterfall.model import Cause, Kind, Mark, Span, TimedEvent, TimedLine, Waterfall
from labyard.waterfall.streams import SILENCE, http_spans, iscsi_spans, streams

_BANNER = "Press Ctrl-B for the iPXE command line"
_MENU = re.compile(r"nothing to boot for|did not boot")
_UPTIME = re.compile(r"LABYARD userland=up uptime=(\d+\.\d+)")
_PRINTK = re.compile(r"^\[ *(\d+\.\d+)\] ")
_USERLAND = re.compile(r"LABYARD userland=up|Run \S*/init as init process|systemd\[1\]: |^Welcome to .*(Linux|GNU)")
_DONE = re.compile(r"LABYARD done=|\blogin: ?$")
_FIRMWARE = {"SeaBIOS": "SeaBIOS", "BdsDxe": "OVMF", ">>Start PXE": "OVMF"}
_IPXE_ASKS, _UEFI_ASKS = "Configuring (", ">>Start PXE over IPv4"


@dataclass
class _Milestones:
    """Moments of the boot, by the VM host's clock; None for what could not be seen."""

    power_on: float
    running: float | None
    kernel: float | None = None
    userland: float | None = None
    done: float | None = None

    def cuts(self) -> list[float]:
        return [at for at in (self.running, self.kernel, self.userland) if at is not None]


def waterfall(
    pcap: Path | bytes,
    serial: list[TimedLine] | None = None,
    events: list[TimedEvent] | None = None,
    power_on: float | None = None,
    *,
    running_at: float | None = None,
    mac: str = "",
) -> Waterfall:
    """Where the seconds of a boot went.

    `power_on` is the moment of power-on by the VM host's clock, without which the first thing seen takes its place.
    `running_at` is when the guest's clock started (serial.Console); only with it can the packets of QEMU's filter-dump
    be set against the console, and without it their times are taken as they are. `mac` says whose packets to look at,
    by default those of the machine that asked by DHCP.

    CaptureError when the capture is none.
    """
    packets = read_capture(pcap if isinstance(pcap, bytes) else pcap.read_bytes())
    lines, mac = serial or [], (mac or machine_of(packets)).lower()
    rounds = dhcp_rounds(packets, mac)
    if power_on is None:
        seen = [packets[0].at] if packets and running_at is None else []
        power_on = running_at or min([*seen, *(line.start for line in lines[:1])], default=0.0)
    if running_at is not None and packets:
        offset = _offset(packets, rounds, lines, running_at, power_on)
        packets = [replace(packet, at=packet.at + offset) for packet in packets]
        rounds = dhcp_rounds(packets, mac)
    moments = _milestones(lines, power_on, running_at)
    claims = _claims(packets, rounds, lines, moments, mac)
    end = moments.done or max(
        [power_on, *(span.end for span in claims), *(line.end for line in lines)],
    )
    spans = _in_line(claims, moments, lines, end)
    shifted = [replace(span, start=span.start - power_on, end=span.end - power_on) for span in spans]
    marks = [Mark(moments.userland - power_on, "userland", "console")] if moments.userland else []
    marks += [Mark(event.at - power_on, event.name, event.source) for event in events or []]
    return Waterfall(
        spans=shifted,
        total=end - power_on,
        finished=moments.done is not None,
        userland=moments.userland - power_on if moments.userland else None,
        marks=sorted(marks, key=lambda mark: mark.at),
        notes=_notes(packets, lines, moments, mac),
    )


def _offset(
    packets: list[Packet], rounds: list[DhcpRound], lines: list[TimedLine], running_at: float, power_on: float
) -> float:
    """The capture's clock against the host's, by the console's word that a DHCP discover went out."""
    for prompt, wanted in ((_IPXE_ASKS, True), (_UEFI_ASKS, False)):
        said = next((line.start for line in lines if line.text.startswith(prompt)), None)
        asked = next((round.first for round in rounds if (round.client == "iPXE") == wanted), None)
        if said is not None and asked is not None:
            return clock_offset(asked, running_at, power_on, said)
    return clock_offset(rounds[0].first if rounds else packets[0].at, running_at, power_on, None)


def _milestones(lines: list[TimedLine], power_on: float, running_at: float | None) -> _Milestones:
    found = _Milestones(power_on, running_at)
    for line in lines:
        if found.kernel is None and (match := _UPTIME.search(line.text) or _PRINTK.search(line.text)):
            found.kernel = line.end - float(match[1])
        if found.userland is None and _USERLAND.search(line.text):
            found.userland = line.end
        if found.done is None and _DONE.search(line.text):
            found.done = line.end
    return found


def _claims(
    packets: list[Packet], rounds: list[DhcpRound], lines: list[TimedLine], moments: _Milestones, mac: str
) -> list[Span]:
    """What is known of, in any order; pieces may overlap."""
    connections = streams(packets, mac)
    if moments.kernel is None:
        moments.kernel = _kernel_without_console([stream.opened for stream in connections if stream.is_iscsi], packets)
    kernel = moments.kernel if moments.kernel is not None else float("inf")
    claims = tftp_spans(packets, mac)
    for stream in connections:
        who = "iPXE" if stream.opened < kernel else "operating system"
        claims += iscsi_spans(stream, who) if stream.is_iscsi else http_spans(stream)
    for round in rounds:
        claims += dhcp_spans(round)
        if round.acknowledged and round.first < kernel:
            answered = round.last
            following = [
                packet.at
                for packet in packets
                if packet.source == mac and packet.at > answered + 0.001 and _is_a_step(packet)
            ]
            until = min(following, default=max([answered, *(line.end for line in lines)]))
            if wait := router_wait(packets, mac, answered, until):
                claims.append(wait)
    for line in lines:
        if line.text.startswith(_BANNER) and line.end - line.start > SILENCE:
            claims.append(Span(line.start, line.end, Kind.WAIT, "iPXE banner (Ctrl-B)", "", Cause.BANNER))
        if match := _MENU.search(line.text):
            until = min((span.start for span in claims if span.start > line.end), default=line.end)
            name = "iPXE menu: " + match[0].removesuffix(" for")
            claims.append(Span(line.start, until, Kind.WAIT, name, "", Cause.MENU))
    return claims


def _is_a_step(packet: Packet) -> bool:
    """Whether a machine that sends this goes on: not when it speaks of IPv6, or tells its new address."""
    gratuitous = packet.protocol == "arp" and packet.ends[0][0] in (packet.ends[1][0], "0.0.0.0")
    return packet.protocol not in ("icmp6", "") and not gratuitous


def _kernel_without_console(logins: list[float], packets: list[Packet]) -> float | None:
    """With no console: the kernel starts when the firmware has read its last, before the system's own login."""
    if len(logins) < 2:
        return None
    return max((packet.at for packet in packets if packet.protocol == "tcp" and packet.at < logins[-1]), default=None)


def _in_line(claims: Iterable[Span], moments: _Milestones, lines: list[TimedLine], end: float) -> list[Span]:
    """Cut what overlaps (what began first goes first), name what is between, and join what is alike."""
    spans: list[Span] = []
    known = sorted(claims, key=lambda span: (span.start, span.end))
    context = _Context(moments, lines, known)
    cursor = moments.power_on
    for span in known:
        start, stop = max(span.start, cursor), min(span.end, end)
        if stop <= start:
            continue
        spans += context.fill(cursor, start)
        spans.append(replace(span, start=start, end=stop))
        cursor = stop
    spans += context.fill(cursor, end)
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last and (last.kind, last.name, last.cause) == (span.kind, span.name, span.cause):
            detail = last.detail or span.detail
            size = (last.size or 0) + (span.size or 0) or last.size
            joined[-1] = replace(last, end=span.end, detail=detail, size=size)
        else:
            joined.append(span)
    return joined


class _Context:
    """Names the time between two conversations."""

    def __init__(self, moments: _Milestones, lines: list[TimedLine], known: list[Span]) -> None:
        self._moments, self._lines = moments, lines
        self._first = min((span.start for span in known if span.cause is not Cause.BANNER), default=float("inf"))
        kernel = moments.kernel or float("inf")
        reads = [span.end for span in known if span.kind is Kind.ISCSI and span.start < kernel]
        self._last_read = max((min(at, kernel) for at in reads), default=None)
        named = (name for start, name in _FIRMWARE.items() for line in lines if line.text.startswith(start))
        self._firmware = next((f"firmware ({name})" for name in named), "firmware")
        self._ipxe = next((line.start for line in lines if line.text.startswith("iPXE initialising")), 0.0)

    def fill(self, start: float, end: float) -> list[Span]:
        """Spans from start to end, cut where the boot entered another stage."""
        if end <= start:
            return []
        cuts = [start, *sorted(at for at in self._moments.cuts() if start < at < end), end]
        return [span for a, b in pairwise(cuts) for span in self._stage(a, b)]

    def _stage(self, start: float, end: float) -> list[Span]:
        moments = self._moments
        if moments.running is not None and end <= moments.running:
            return [Span(start, end, Kind.POWER, "machine start", "libvirt and QEMU")]
        if moments.userland is not None and start >= moments.userland:
            return [Span(start, end, Kind.USERLAND, "userland", self._next_line(end))]
        if moments.kernel is not None and start >= moments.kernel:
            # Without a console nobody saw where the kernel ends.
            name = "kernel" if moments.userland is not None else "kernel and userland"
            return [Span(start, end, Kind.KERNEL, name)]
        if end <= self._first:
            return [Span(start, end, Kind.FIRMWARE, self._firmware)]
        if self._last_read is not None and start >= self._last_read and moments.kernel is not None:
            return [Span(start, end, Kind.LOADER, "kernel unpacks", "after the last byte that the firmware read")]
        return self._silence(start, end)

    def _silence(self, start: float, end: float) -> list[Span]:
        """Before the kernel, no packet: the console may have moved. Where it did not either, nobody knows."""
        kind, name = Kind.FIRMWARE, "iPXE" if start >= self._ipxe else self._firmware
        if any(line.end <= end and line.text.startswith("Booting from SAN") for line in self._lines):
            kind, name = Kind.LOADER, "boot loader"
        said = sorted({at for line in self._lines for at in (line.start, line.end) if start < at < end})
        spans = []
        for a, b in pairwise([start, *said, end]):
            if b - a < PATIENCE:
                spans.append(Span(a, b, kind, name))
            else:
                before = [line.text for line in self._lines if line.start <= a + 0.001]
                detail = f"the console's last line: {before[-1][:80]}" if before else ""
                spans.append(Span(a, b, Kind.UNEXPLAINED, "waiting (unexplained)", detail, Cause.UNKNOWN))
        return spans

    def _next_line(self, end: float) -> str:
        line = next((line.text for line in self._lines if line.end >= end - 0.02), "")
        return f"until {line[:60]}" if line else ""


def _notes(packets: list[Packet], lines: list[TimedLine], moments: _Milestones, mac: str) -> list[str]:
    notes = []
    if not any(packet.source == mac for packet in packets):
        notes.append("The capture has no packet of this machine: it never came to its network boot.")
    if not lines:
        notes.append("There are no times of the console: firmware, kernel and userland are told apart by packets only.")
    elif moments.done is None:
        notes.append(f"The boot did not come to its end; the console's last line: {lines[-1].text[:100]}")
    return notes
