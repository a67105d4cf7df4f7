"""The rows of the picture: spans of one name share one, so that twenty small steps do not hide the long one."""

from __future__ import annotations

from dataclasses import dataclass

from labyard.waterfall.conversations import size_text
from labyard.waterfall.model import Kind, Span, Waterfall

KIND_NAMES = {
    Kind.POWER: "machine start",
    Kind.FIRMWARE: "firmware",
    Kind.DHCP: "DHCP",
    Kind.TFTP: "TFTP",
    Kind.HTTP: "HTTP",
    Kind.ISCSI: "iSCSI",
    Kind.LOADER: "boot loader",
    Kind.KERNEL: "kernel",
    Kind.USERLAND: "userland",
    Kind.WAIT: "waiting",
    Kind.UNEXPLAINED: "unexplained",
}


@dataclass(frozen=True)
class Row:
    """Spans of one name, in order."""

    name: str
    kind: Kind
    spans: list[Span]
    longest_wait: bool

    @property
    def seconds(self) -> float:
        return sum(span.seconds for span in self.spans)

    @property
    def figure(self) -> str:
        """`1.28 s, 20.4 MB, 16.0 MB/s`, or `7 ms`: time, and what was transferred."""
        size = sum(span.size or 0 for span in self.spans)
        said = f"{self.seconds:.2f} s" if self.seconds >= 0.095 else f"{self.seconds * 1000:.0f} ms"
        if size:
            said += f", {size_text(size)}"
        if size > 100_000:
            said += f", {size_text(int(size / self.seconds))}/s"
        return said


def rows(waterfall: Waterfall) -> list[Row]:
    """Rows in the order of their first span."""
    grouped: dict[tuple[str, Kind], list[Span]] = {}
    for span in waterfall.spans:
        grouped.setdefault((span.name, span.kind), []).append(span)
    longest = waterfall.longest_wait
    return [Row(name, kind, spans, any(span is longest for span in spans)) for (name, kind), spans in grouped.items()]


def title(waterfall: Waterfall, machine: str) -> str:
    """One line about the whole boot."""
    if waterfall.finished:
        said = f"{machine}: {waterfall.total:.1f} s from power-on to done"
    else:
        said = f"{machine}: not done after {waterfall.total:.1f} s"
    return said + (f", in userland after {waterfall.userland:.1f} s" if waterfall.userland is not None else "")
