"""Finds the conversations of a boot in its packets: DHCP, router solicitations and TFTP; streams.py has TCP.

Each becomes a few Spans, with the capture's absolute times; phases.py puts them in line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from labyard.waterfall.capture import Packet
from labyard.waterfall.model import Cause, Kind, Span

# A client that has its answer goes on within this many seconds, unless it waits for something else.
PATIENCE = 0.5

_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5  # RFC 2132 section 9.6
_RRQ, _DATA, _TFTP_ERROR, _OACK = 1, 3, 5, 6  # RFC 1350, RFC 2347
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134  # RFC 4861


def size_text(size: int) -> str:
    """17 B, 4.2 kB, 21.0 MB."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


# DHCP ---------------------------------------------------------------------------------------------------------------


@dataclass
class DhcpRound:
    """One transaction (RFC 2131) of the machine; times of its messages by type."""

    client: str = "operating system"
    first: float = 0.0
    last: float = 0.0
    times: dict[int, list[float]] = field(default_factory=dict)
    told_no_proxy: bool = False

    def at(self, kind: int, default: float) -> float:
        return self.times.get(kind, [default])[0]

    @property
    def acknowledged(self) -> bool:
        return _ACK in self.times


def _options(data: bytes) -> dict[int, bytes]:
    """DHCP options by code, as far as the bytes go."""
    found: dict[int, bytes] = {}
    place = 0
    while place + 1 < len(data) and data[place] != 255:
        if data[place] == 0:
            place += 1
            continue
        end = place + 2 + data[place + 1]
        found[data[place]] = data[place + 2 : end]
        place = end
    return found


def dhcp_rounds(packets: Iterable[Packet], mac: str) -> list[DhcpRound]:
    """The machine's transactions, first one first."""
    rounds: dict[bytes, DhcpRound] = {}
    raw = bytes.fromhex(mac.replace(":", ""))
    for packet in packets:
        if packet.protocol != "udp" or packet.ends[1][1] not in (67, 68) or packet.payload[28:34] != raw:
            continue
        options = _options(packet.payload[240:])
        kind = (options.get(53) or b"\0")[0]
        if packet.payload[4:8] not in rounds:
            rounds[packet.payload[4:8]] = DhcpRound(first=packet.at)
        found = rounds[packet.payload[4:8]]
        found.last = packet.at
        found.times.setdefault(kind, []).append(packet.at)
        if kind in (_DISCOVER, _REQUEST):
            if options.get(77) == b"iPXE":
                found.client = "iPXE"
            elif options.get(60, b"").startswith(b"PXEClient"):
                found.client = "PXE ROM" if options.get(93, b"\0\0") == b"\0\0" else "UEFI"
        found.told_no_proxy |= kind == _OFFER and 176 in _options(options.get(175, b""))
    return sorted(rounds.values(), key=lambda round: round.first)


def dhcp_spans(round: DhcpRound) -> list[Span]:
    """Asking, waiting for other servers' offers, and taking one."""
    name, spans = f"DHCP ({round.client})", []
    offered = round.at(_OFFER, round.at(_ACK, round.last))
    asked = len([at for at in round.times.get(_DISCOVER, []) if at <= offered])
    tries = f"asked {asked} times before an answer" if asked > 1 else ""
    if offered - round.first > PATIENCE or (asked > 1 and not round.acknowledged):
        spans.append(
            Span(round.first, offered, Kind.WAIT, f"no DHCP answer ({round.client})", tries, Cause.DHCP_SILENT)
        )
    else:
        spans.append(Span(round.first, offered, Kind.DHCP, name, tries))
    taken = round.at(_REQUEST, offered)
    if taken - offered > PATIENCE:
        if round.client == "iPXE":
            told = "although the offer says there is none" if round.told_no_proxy else ""
            spans.append(Span(offered, taken, Kind.WAIT, "ProxyDHCP wait (iPXE)", told, Cause.PROXYDHCP))
        elif round.client == "operating system":
            spans.append(Span(offered, taken, Kind.DHCP, name))
        else:
            spans.append(Span(offered, taken, Kind.WAIT, f"offer collection ({round.client})", "", Cause.OFFERS))
    else:
        spans.append(Span(offered, taken, Kind.DHCP, name))
    if round.acknowledged:
        spans.append(Span(taken, round.at(_ACK, taken), Kind.DHCP, name))
    return [span for span in spans if span.end > span.start]


def router_wait(packets: list[Packet], mac: str, since: float, until: float) -> Span | None:
    """Between a DHCP answer and the machine's next step: is it a router that it waits for?

    iPXE configures IPv6 beside IPv4 and goes on when both are through; it gives up on the router after about 13 s.
    """
    asked = [
        packet.at
        for packet in packets
        if packet.source == mac and packet.protocol == "icmp6" and packet.ends[1][1] == ROUTER_SOLICITATION
    ]
    told = [
        packet.at
        for packet in packets
        if packet.source != mac and packet.protocol == "icmp6" and packet.ends[1][1] == ROUTER_ADVERTISEMENT
    ]
    before = [at for at in asked if at < until and at > since - PATIENCE]
    if not before or until - since < PATIENCE:
        return None
    answer = min((at for at in told if at >= before[0]), default=until)
    end = until if answer >= until else max(answer, since)
    if end - since < PATIENCE:
        return None
    detail = f"{len(before)} solicitations, " + ("no answer" if answer >= until else "answered late")
    return Span(since, end, Kind.WAIT, "router advertisement wait", detail, Cause.ROUTER)


# TFTP ---------------------------------------------------------------------------------------------------------------


def tftp_spans(packets: Iterable[Packet], mac: str) -> list[Span]:
    """One span for each file, bytes included; questions for the size alone are joined with what follows."""
    transfers: list[_Transfer] = []
    open_ports: dict[int, _Transfer] = {}
    for packet in packets:
        if packet.protocol != "udp" or mac not in (packet.source, packet.target) or len(packet.payload) < 4:
            continue
        opcode = int.from_bytes(packet.payload[:2])
        ours = packet.ends[0 if packet.source == mac else 1][1]
        if packet.source == mac and packet.ends[1][1] == 69 and opcode == _RRQ:
            file = packet.payload[2:].split(b"\0")[0].decode(errors="replace")
            known = open_ports.get(ours)
            if known and known.file == file and not known.answered:
                known.tries += 1
            elif transfers and transfers[-1].file == file and transfers[-1].failed:
                transfers[-1].failed = False
                open_ports[ours] = transfers[-1]
            else:
                open_ports[ours] = _Transfer(file, packet.at)
                transfers.append(open_ports[ours])
            open_ports[ours].last = packet.at
        elif ours in open_ports and opcode <= _OACK:
            open_ports[ours].take(packet, opcode, from_server=packet.target == mac)
    return [span for transfer in transfers for span in transfer.spans()]


@dataclass
class _Transfer:
    file: str
    first: float
    last: float = 0.0
    answered: float | None = None
    tries: int = 1
    blocks: dict[int, int] = field(default_factory=dict)
    wrapped: int = 0
    failed: bool = False

    def take(self, packet: Packet, opcode: int, from_server: bool) -> None:
        self.last = packet.at
        self.failed = opcode == _TFTP_ERROR
        if from_server:
            self.answered = self.answered or packet.at
            if opcode == _DATA:
                block = int.from_bytes(packet.payload[2:4])
                # Block numbers are 16 bits wide and begin anew in large files.
                if block == 0 and len(self.blocks) > self.wrapped * 65536 + 60000:
                    self.wrapped += 1
                self.blocks[self.wrapped * 65536 + block] = packet.length - 4

    def spans(self) -> list[Span]:
        name, size = f"TFTP {self.file}", sum(self.blocks.values())
        if self.answered is None:
            detail = f"asked {self.tries} times, no answer"
            return [Span(self.first, self.last, Kind.WAIT, name, detail, Cause.TFTP_SILENT)]
        spans = []
        start = self.first
        if self.answered - self.first > PATIENCE:
            detail = f"asked {self.tries} times before an answer"
            spans.append(Span(start, self.answered, Kind.WAIT, f"{name}: no answer", detail, Cause.TFTP_SILENT))
            start = self.answered
        detail = "refused" if self.failed and not size else ""
        return [*spans, Span(start, self.last, Kind.TFTP, name, detail, size=size)]
