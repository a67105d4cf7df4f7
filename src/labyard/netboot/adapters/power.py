"""What a machine's BMC is asked for: to switch the machine off, or to boot it from the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from labyard.core.adapter import AdapterError


class Untouched(AdapterError):
    """It failed before anything was sent that changes the machine."""


@dataclass(frozen=True)
class Bmc:
    """Where a machine's BMC is, and who may use it. `url`: its Redfish service, or the machine's system there."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    verify_tls: bool = True


class PowerBackend(Protocol):
    """Both are done when they return, may be repeated, and raise AdapterError within `power_timeout_seconds`."""

    def cycle(self, bmc: Bmc) -> None:
        """Switch the machine off if it is on, and on again, so that it boots from the network."""

    def off(self, bmc: Bmc) -> None:
        """Switch the machine off at once. One that is off is left alone."""
