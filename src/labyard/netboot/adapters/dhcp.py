"""What every DHCP backend takes and tells. Backends: kea.py, isc.py, fake.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Reservation:
    """One machine's entry. `address` None: from the pool. `ipxe_file` is what iPXE is told to fetch: a path below the
    TFTP root, or an http:// address. `http_boot` is the boot program's address for UEFI HTTP boot clients, or empty.
    """

    machine_id: int
    label: str
    mac: str  # upper case with colons
    address: str | None
    next_server: str
    ipxe_file: str
    boot_mode: str = "uefi"  # legacy | uefi | uefi_secure
    http_boot: str = ""


@dataclass(frozen=True)
class DhcpStatus:
    """Facts for GET /dhcp/status; None: could not be found out, and `error` says why."""

    service_running: bool | None
    config_file_exists: bool
    config_valid: bool | None
    machines_configured: int | None
    error: str | None = None


class DhcpBackend(Protocol):
    """`name` is kea, isc or fake. The whole set of reservations is always set at once."""

    name: str

    def apply(self, reservations: Sequence[Reservation]) -> None:
        """Render all, test, then swap. Idempotent: nothing is written when nothing is different. A failed test leaves
        the live configuration untouched. AdapterError."""

    def observed(self) -> Sequence[Reservation]:
        """The reservations that are ours and live now, sorted by machine id. AdapterError."""

    def status(self) -> DhcpStatus:
        """Never raises; answers within 2 s."""

    def ping(self) -> None:
        """AdapterError when the daemon does not answer or run."""
