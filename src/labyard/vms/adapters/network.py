"""What the service asks of the lab network's DHCP (contract section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Lease:
    """An unexpired lease as the DHCP server has it."""

    ip: str
    mac: str


class LabNetwork(Protocol):
    """Every verb raises AdapterError when the network is unusable or refuses."""

    vlan_applied: bool  # guest ports really carry the tag
    ip_mac_filter: bool  # guests are held to their address

    def ensure(self) -> None:
        """Define and start the network. AdapterError when a foreign one has its name: it is never altered."""

    def reserve(self, ip: str, mac: str, name: str) -> None:
        """Only this address for this MAC. Already so is fine."""

    def release(self, ip: str, mac: str) -> None:
        """Take the reservation and the lease away, so that another MAC can have the address at once. Absent is fine."""

    def leases(self) -> Mapping[str, Lease]:
        """Unexpired leases by address."""
