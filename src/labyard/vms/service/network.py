"""The lab network as it is now (contract section 6.2)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from labyard.core.adapter import AdapterError
from labyard.core.database import Database
from labyard.vms.adapters import network
from labyard.vms.models import Lease
from labyard.vms.service.addresses import addresses, usable
from labyard.vms.service.shared import Shared


@dataclass(frozen=True)
class NetworkConfig:
    allocated: list[str]
    available: int


class Network:
    def __init__(self, shared: Shared) -> None:
        self._db: Database = shared.database
        self._shared = shared

    def ensure(self) -> None:
        """Make the network, where it is ours. AdapterError when it is unusable: starts of machines fail then."""
        if self._shared.settings.leased:
            self._shared.network.ensure()

    def config(self) -> NetworkConfig | None:
        """None where the network is not ours."""
        settings = self._shared.settings
        if not settings.leased:
            return None
        with self._db.read() as session:
            texts = list(session.scalars(select(Lease.ip)))
        allocated = sorted(set(addresses(texts)))
        hosts = settings.subnet.num_addresses - 3  # network, broadcast, gateway
        return NetworkConfig([str(ip) for ip in allocated], hosts - sum(usable(settings, ip) for ip in allocated))

    def leases(self) -> list[tuple[Lease, bool | None]]:
        """All allocations, each with whether the DHCP server has given it out; None when it does not answer."""
        with self._db.read() as session:
            rows = list(session.scalars(select(Lease)))
        rows.sort(key=lambda lease: (addresses([lease.ip]), lease.ip))
        try:
            seen = self._shared.network.leases() if self._shared.settings.leased else {}
        except AdapterError:
            return [(lease, None) for lease in rows]
        return [(lease, _is_seen(lease, seen.get(lease.ip))) for lease in rows]


def _is_seen(lease: Lease, found: network.Lease | None) -> bool:
    return found is not None and found.mac.lower() == lease.mac.lower()
