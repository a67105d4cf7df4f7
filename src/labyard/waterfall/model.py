"""What a waterfall is made of. All times are seconds; in a Waterfall they count from power-on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    POWER = "power"  # libvirt and QEMU start
    FIRMWARE = "firmware"  # SeaBIOS, OVMF, iPXE at work by themselves
    DHCP = "dhcp"
    TFTP = "tftp"
    HTTP = "http"
    ISCSI = "iscsi"
    LOADER = "loader"  # from the last byte the firmware read to the kernel's own clock
    KERNEL = "kernel"
    USERLAND = "userland"
    WAIT = "wait"  # somebody waits, and it is known for what
    UNEXPLAINED = "unexplained"  # nothing on the wire, nothing on the console


class Cause(StrEnum):
    """Why a machine waits. Each has its cure in advice.py."""

    ROUTER = "router"  # IPv6 router advertisement
    PROXYDHCP = "proxydhcp"
    OFFERS = "offers"  # a PXE firmware collects DHCP offers
    DHCP_SILENT = "dhcp-silent"  # no server answered, or the port was closed
    TFTP_SILENT = "tftp-silent"
    BANNER = "banner"  # iPXE's Ctrl-B prompt
    MENU = "menu"
    LOGIN = "login"  # iSCSI login refused or unanswered
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class TimedLine:
    """A line of the serial console: when its first and its last character came, by the VM host's clock."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class TimedEvent:
    """Something that another program noted, such as the netboot service's boot events (contract 2.2)."""

    at: float
    name: str
    source: str = ""


@dataclass(frozen=True)
class Span:
    """A piece of the boot. `size` is in bytes, where something was transferred; `cause` only where somebody waits."""

    start: float
    end: float
    kind: Kind
    name: str
    detail: str = ""
    cause: Cause | None = None
    size: int | None = None

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def is_wait(self) -> bool:
        return self.kind in (Kind.WAIT, Kind.UNEXPLAINED)

    @property
    def rate(self) -> float | None:
        """Bytes per second; None when nothing was transferred."""
        return self.size / self.seconds if self.size and self.seconds > 0 else None


@dataclass(frozen=True)
class Mark:
    """A moment of the boot."""

    at: float
    name: str
    source: str = ""


@dataclass(frozen=True)
class Waterfall:
    """A boot. The spans follow each other without a gap from 0 to `total`, so their seconds add up to it."""

    spans: list[Span]
    total: float
    finished: bool  # the console said that the boot was done
    userland: float | None = None
    marks: list[Mark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be seen, and why

    @property
    def waits(self) -> list[Span]:
        """Where somebody waited, longest first."""
        return sorted((span for span in self.spans if span.is_wait), key=lambda span: -span.seconds)

    @property
    def longest_wait(self) -> Span | None:
        return self.waits[0] if self.waits else None

    def to_json(self) -> str:
        """For programs; adds `seconds` and, with the advice of advice.py, what would remove each wait."""
        from labyard.waterfall.advice import advise

        data: dict[str, Any] = asdict(self)
        for entry, span in zip(data["spans"], self.spans, strict=True):
            entry["seconds"] = round(span.seconds, 6)
            entry["start"], entry["end"] = round(span.start, 6), round(span.end, 6)
        data["total"] = round(self.total, 6)
        data["advice"] = [
            {"name": advice.span.name, "seconds": round(advice.span.seconds, 6), "text": advice.text}
            for advice in advise(self)
        ]
        return json.dumps(data, indent=2)
