"""Finds a machine's TCP connections in its packets, and in them HTTP requests and iSCSI sessions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from labyard.waterfall.capture import Packet
from labyard.waterfall.conversations import size_text
from labyard.waterfall.model import Cause, Kind, Span

# Packets of one conversation that come closer than this belong to one burst.
SILENCE = 0.25
ISCSI_PORT = 3260
_PING = 512  # a burst of less is the target asking whether the initiator is still there
_LOGIN, _LOGIN_ANSWER = 0x03, 0x23  # RFC 7143 section 11.2.1.2
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10  # RFC 9293 section 3.1


@dataclass
class Stream:
    """A TCP connection that the machine opened; payloads only, retransmissions included."""

    port: int
    opened: float
    packets: list[Packet] = field(default_factory=list)
    mac: str = ""

    def sent(self) -> list[Packet]:
        return [packet for packet in self.packets if packet.source == self.mac and packet.length]

    def received(self) -> list[Packet]:
        return [packet for packet in self.packets if packet.source != self.mac and packet.length]

    def fresh(self) -> list[Packet]:
        """Both directions, without what was sent before: a target repeats its last answer to a system that is gone."""
        found, reached = [], {True: -1, False: -1}
        first = {self.mac == packet.source: packet.sequence for packet in reversed(self.packets)}
        for packet in self.packets:
            ours = self.mac == packet.source
            end = (packet.sequence - first[ours] + packet.length) % 2**32
            if packet.length and end > reached[ours]:
                reached[ours] = end
                found.append(packet)
        return found

    @property
    def last(self) -> float:
        return self.packets[-1].at if self.packets else self.opened

    @property
    def is_iscsi(self) -> bool:
        head = next((packet.payload for packet in self.sent() if packet.payload), b"")
        return self.port == ISCSI_PORT or (len(head) >= 48 and head[0] & 0x3F == _LOGIN)


def streams(packets: Iterable[Packet], mac: str) -> list[Stream]:
    """The machine's connections, in the order in which they were opened."""
    found: dict[tuple[tuple[str, int], tuple[str, int]], Stream] = {}
    done: list[Stream] = []
    for packet in packets:
        if packet.protocol != "tcp" or mac not in (packet.source, packet.target):
            continue
        ours = packet.source == mac
        key = packet.ends if ours else (packet.ends[1], packet.ends[0])
        opens = packet.flags & (_SYN | _ACK) == _SYN
        if ours and (key not in found or (opens and found[key].received())):
            found[key] = Stream(key[1][1], packet.at, mac=mac)
            done.append(found[key])
        if key in found and (packet.length or packet.flags & (_FIN | _RST)):
            found[key].packets.append(packet)
    return done


def transferred(packets: list[Packet]) -> int:
    """Bytes of one direction, by sequence numbers, so that what was sent twice counts once."""
    if not packets:
        return 0
    first = packets[0].sequence
    ends = ((packet.sequence - first + packet.length) % 2**32 for packet in packets)
    # A packet from before the first one would count as nearly 4 GiB.
    return max((end for end in ends if end < 2**31), default=0)


def http_spans(stream: Stream) -> list[Span]:
    """One span for each request of a connection; the first one has the opening of the connection in it."""
    methods = (b"GET ", b"POST ", b"HEAD ", b"PUT ")
    requests = [packet for packet in stream.sent() if packet.payload.startswith(methods)]
    spans = []
    for number, request in enumerate(requests):
        until = requests[number + 1].at if number + 1 < len(requests) else float("inf")
        answer = [packet for packet in stream.received() if request.at <= packet.at < until]
        target = [*request.payload.split(), b"", b""][1].decode(errors="replace")
        path, _, query = target.partition("?")
        status = answer[0].payload[9:12].decode(errors="replace") if answer else "no answer"
        start = stream.opened if number == 0 else request.at
        end = answer[-1].at if answer else max(request.at, min(until, stream.last))
        detail = ", ".join(filter(None, [query[:60], f"status {status}"]))
        spans.append(Span(start, end, Kind.HTTP, f"HTTP {path}", detail, size=transferred(answer)))
    if not requests and stream.packets:
        spans.append(Span(stream.opened, stream.last, Kind.HTTP, f"TCP port {stream.port}"))
    return spans


def bursts(packets: list[Packet]) -> list[list[Packet]]:
    """Packets, cut where nothing came for a while."""
    found: list[list[Packet]] = []
    for packet in packets:
        if found and packet.at - found[-1][-1].at <= SILENCE:
            found[-1].append(packet)
        else:
            found.append([packet])
    return found


def iscsi_spans(stream: Stream, who: str) -> list[Span]:
    """Login, and after it each burst of reading and writing."""
    answers: list[Packet] = []
    through, refused = False, ""
    for packet in stream.received():
        if through or refused or len(packet.payload) < 38 or packet.payload[0] & 0x3F != _LOGIN_ANSWER:
            continue
        answers.append(packet)
        refused = packet.payload[36:38].hex() if packet.payload[36] else ""
        # The transit bit, and full feature phase as the next stage (section 11.13.3).
        through = packet.payload[1] & 0x83 == 0x83
    name = f"iSCSI login ({who})"
    if refused or not through:
        detail = f"refused with status 0x{refused} (RFC 7143 section 11.13.5)" if refused else "no answer"
        return [Span(stream.opened, stream.last, Kind.WAIT, name, detail, Cause.LOGIN)]
    end = answers[-1].at
    steps = [b.at - a.at for a, b in pairwise(answers)]
    slow = [step for step in steps if 0.035 < step < 0.06]
    detail = f"{len(answers)} answers" + (f", {len(slow)} of them 40 ms late (delayed TCP ACK)" if slow else "")
    spans = [Span(stream.opened, end, Kind.ISCSI, name, detail)]
    for burst in bursts([packet for packet in stream.fresh() if packet.at > end]):
        read = transferred([packet for packet in burst if packet.source != stream.mac])
        wrote = transferred([packet for packet in burst if packet.source == stream.mac])
        if read + wrote < _PING:
            continue
        detail = f"wrote {size_text(wrote)}" if wrote > 4000 and who != "iPXE" else ""
        start = max(end, burst[0].at)
        spans.append(Span(start, burst[-1].at, Kind.ISCSI, f"iSCSI disk ({who})", detail, size=read))
    return spans
