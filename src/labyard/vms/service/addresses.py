"""Addresses of the lab network: who has which, and which is next (contract section 6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import AddressValueError, IPv4Address
from itertools import chain

from sqlalchemy import select
from sqlalchemy.orm import Session

from labyard.core.adapter import AdapterError
from labyard.vms.adapters import network
from labyard.vms.models import Lease, Vm
from labyard.vms.service.shared import Shared
from labyard.vms.settings import Settings


class Addresses:
    def __init__(self, shared: Shared) -> None:
        self._db = shared.database
        self._settings = shared.settings
        self._network = shared.network

    def acquire(self, vm_id: str) -> str | None:
        """The machine's address, with its reservation at the DHCP server; None where the network gives none.

        The caller holds the machine's lock, and releases what this began if it fails. AdapterError when the network is
        unusable or full.
        """
        if not self._settings.leased:
            return None
        self._network.ensure()
        seen = self._network.leases()
        with self._db.write() as session:
            vm = session.get_one(Vm, vm_id)
            if vm.mac is None:
                raise AdapterError(f"lease failed: VM {vm_id} has no MAC address")
            lease = session.scalar(select(Lease).where(Lease.vm_id == vm_id))
            if lease is not None and not any(usable(self._settings, ip) for ip in addresses([lease.ip])):
                session.delete(lease)  # of another subnet, before the settings changed
                session.flush()
                lease = None
            if lease is None:
                lease = Lease(ip=self._next(session, vm, seen), mac=vm.mac, vm_id=vm_id)
                session.add(lease)
            lease.mac = vm.mac
            ip, mac = lease.ip, lease.mac
        self._network.reserve(ip, mac, vm_id)
        return ip

    def give_back(self, lease: Lease) -> None:
        """Make the address free at the DHCP server. AdapterError when it could not be done."""
        if self._settings.leased:
            self._network.release(lease.ip, lease.mac)

    def _next(self, session: Session, vm: Vm, seen: Mapping[str, network.Lease]) -> str:
        """The machine's last address if it is free, else the lowest free one. One that the DHCP server still holds for
        another MAC only when there is no other."""
        taken = set(addresses(session.scalars(select(Lease.ip))))
        held = set(addresses(ip for ip, lease in seen.items() if lease.mac.lower() != (vm.mac or "").lower()))
        last = [ip for ip in addresses([vm.last_ip or ""]) if usable(self._settings, ip)]
        for avoided in (taken | held, taken):
            for ip in chain(last, self._settings.subnet.hosts()):
                if ip not in avoided and usable(self._settings, ip):
                    return str(ip)
        raise AdapterError(f"No available IPs in subnet {self._settings.subnet}")


def usable(settings: Settings, ip: IPv4Address) -> bool:
    """Whether a machine may have the address: inside the subnet and not reserved."""
    subnet = settings.subnet
    return ip in subnet and ip not in (subnet.network_address, subnet.broadcast_address, settings.gateway_ip)


def addresses(texts: Iterable[str]) -> list[IPv4Address]:
    """Those that are addresses: rows of other programs may hold anything."""
    found = []
    for text in texts:
        try:
            found.append(IPv4Address(text))
        except AddressValueError:
            continue
    return found
