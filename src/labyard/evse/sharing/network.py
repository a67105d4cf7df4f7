"""Addresses: this machine's own, and which ones the gateway may call: contract 5.5."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

# Loopback, private and link-local. Not what `is_private` of the library means: that is more, down to the networks of
# documents and class E.
_LOCAL = [
    *map(ip_network, ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")),
    *map(ip_network, ("::1/128", "fc00::/7", "fe80::/10")),
]
_NOT_IN_A_NAME = frozenset("/\\?#@[]<>%\"'`")


def own_interfaces(names: Collection[str] = ()) -> list[IPv4Interface]:
    """IPv4 addresses of this machine with their networks, loopback last. `names`: only those of these interfaces."""
    import ifaddr  # only where mDNS is in use

    found = {
        IPv4Interface(f"{ip.ip}/{ip.network_prefix}")
        for adapter in ifaddr.get_adapters()
        if not names or adapter.name in names
        for ip in adapter.ips
        if ip.is_IPv4
    }
    return sorted(found, key=lambda interface: (interface.ip.is_loopback, interface.ip))


def announced_addresses(interfaces: list[IPv4Interface]) -> list[str]:
    """What this machine tells others: its addresses on networks, loopback only if it is on none."""
    on_networks = [str(interface.ip) for interface in interfaces if not interface.ip.is_loopback]
    return on_networks or ["127.0.0.1"]


def is_local(address: Address) -> bool:
    """Loopback, private or link-local: what is certainly not out in the internet."""
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in _LOCAL)


def parse(text: str) -> Address | None:
    try:
        return ip_address(text.split("%")[0].strip("[]"))
    except ValueError:
        return None


@dataclass(frozen=True)
class HostPort:
    """A host as it is written in the API: `name[:port]`, `address[:port]`, `[v6][:port]`."""

    name: str
    port: int | None

    @property
    def text(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


def split_host(host: str) -> HostPort:
    """Lower case, without a trailing dot. ValueError: the port is no port, or the name can be none."""
    host = host.strip().lower()
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
    elif host.count(":") > 1:  # a bare IPv6 address
        name, port = host, ""
    else:
        name, _, port = host.partition(":")
    name = name.rstrip(".")
    address = parse(name)
    if address is not None and "%" not in name:
        name = str(address)  # written in one way only
    port_is_bad = port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536)
    if port_is_bad or not (name if address is not None else _may_be_name(name)):
        raise ValueError(f"{host!r} is no host name or address with a port")
    return HostPort(name, int(port) if port else None)


def _may_be_name(name: str) -> bool:
    return (
        bool(name)
        and ":" not in name
        and not any(not c.isprintable() or c.isspace() or c in _NOT_IN_A_NAME for c in name)
    )


async def resolve(name: str) -> list[Address]:
    """Through the system's resolver, which knows .local names where it has an mDNS module. Empty: unknown."""
    address = parse(name)
    if address is not None:
        return [address]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses = [parse(str(entry[4][0])) for entry in found]
    return [address for address in dict.fromkeys(addresses) if address is not None]
