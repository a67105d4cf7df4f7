"""The peers that were joined to the group, kept in a file, and how hosts are told apart: contract 4, 5.5."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from labyard.evse.gateway.storage import Storage
from labyard.evse.sharing.calls import url_of
from labyard.evse.sharing.directory import Directory, Found
from labyard.evse.sharing.network import HostPort, parse, split_host

log = structlog.get_logger(__name__)

FILE = "loadsharing_peers.json"
MAX_PEERS = 64
STANDARD_PORT = 80


@dataclass
class Peer:
    """`host` as it was given, lower case; `device_id` "" until it is learned."""

    host: str
    device_id: str = ""
    name: str = ""
    version: str = ""
    address: str = ""


class Me:
    """Under which names this gateway is known."""

    def __init__(self, device_id: str, port: int, names: Callable[[], list[str]], addresses: Callable[[], list[str]]):
        self.device_id = device_id
        self.port = port
        self._names = names
        self._addresses = addresses

    @property
    def host(self) -> str:
        """What others call it by."""
        name = f"{self._names()[0].lower()}.local"
        return name if self.port == STANDARD_PORT else f"{name}:{self.port}"

    def is_me(self, host: HostPort) -> bool:
        if host.port not in (None, self.port):
            return False
        names = {name.lower() for name in self._names()}
        known = names | {f"{name}.local" for name in names} | {self.device_id, "localhost", *self._addresses()}
        return host.name in known or _is_loopback(host.name)


class PeerBook:
    """`on_change` is called after each change, when it is stored."""

    def __init__(
        self,
        storage: Storage,
        directory: Callable[[], Directory],
        own_addresses: Callable[[], Collection[str]],
        on_change: Callable[[], None],
        own_id: str = "",
    ) -> None:
        self._storage = storage
        self._own_id = own_id
        self._own_addresses = own_addresses
        self._directory = directory
        self._on_change = on_change
        self._peers: dict[str, Peer] = {}
        for host, device_id in _stored(storage.read(FILE)):
            if len(self._peers) < MAX_PEERS:
                self._peers.setdefault(host, Peer(host, device_id))

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def __len__(self) -> int:
        return len(self._peers)

    def find(self, host: HostPort) -> Peer | None:
        """By its host, or by another name of the same device."""
        if host.text in self._peers:
            return self._peers[host.text]
        found, place = self._found_at(host), self._place(host)
        for peer in self._peers.values():
            same_device = found is not None and self.found(peer) == found
            is_id = host.port is None and host.name == peer.device_id
            if same_device or is_id or self._place(split_host(peer.host)) == place:
                return peer
        return None

    def add(self, host: HostPort) -> Peer:
        """Not in it yet. ValueError: there are 64."""
        if len(self._peers) >= MAX_PEERS:
            raise ValueError(f"A group has at most {MAX_PEERS} peers")
        peer = self._peers[host.text] = Peer(host.text)
        found = self.found(peer)
        if found is not None:
            peer.device_id, peer.name, peer.version = found.device_id, found.instance, found.version
        self._changed()
        return peer

    def remove(self, peer: Peer) -> None:
        """Nothing happens if it is not in it any more."""
        if self._peers.get(peer.host) is peer:
            del self._peers[peer.host]
            self._changed()

    def learned(self, peer: Peer, device_id: str, name: str, version: str) -> bool:
        """What a peer says of itself. False: this entry is gone, as it is a second name of another peer, or of this
        gateway itself."""
        if self._peers.get(peer.host) is not peer:
            return False
        if device_id and device_id == self._own_id:
            log.warning("peer is this gateway itself, dropped", peer=peer.host)
            self.remove(peer)
            return False
        if (peer.device_id, peer.name, peer.version) == (device_id, name, version):
            return True
        peer.device_id, peer.name, peer.version = device_id, name, version
        for other in self._peers.values():
            if other is not peer and device_id and other.device_id == device_id:
                log.info("two names of one device", kept=other.host, dropped=peer.host)
                self.remove(peer)
                return False
        self._changed()
        return True

    def found(self, peer: Peer) -> Found | None:
        """What mDNS knows of it: by id first, then by host."""
        if peer.device_id:
            for found in self._directory():
                if found.device_id == peer.device_id:
                    return found
        return self._found_at(split_host(peer.host))

    async def where(self, peer: Peer) -> tuple[str, str]:
        """The URL to call it at, and its address. CallError: it is not known, or may not be called."""
        return await url_of(peer.host, self.found(peer), self._own_addresses())

    def _place(self, host: HostPort) -> tuple[str, int]:
        """The same for all ways to write it."""
        here = _is_loopback(host.name) or host.name in self._own_addresses()
        return "localhost" if here else host.name, host.port or STANDARD_PORT

    def _found_at(self, host: HostPort) -> Found | None:
        """By name: mDNS tells the port as well, it may be left out. By address: a machine may have many gateways."""
        address = parse(host.name)
        for found in self._directory():
            if host.name in found.names and host.port in (None, found.port):
                return found
            if address is not None and (host.port or STANDARD_PORT) == found.port:
                here = address.is_loopback and found.address in self._own_addresses()
                if here or str(address) in (found.address, *found.addresses):
                    return found
        return None

    def _changed(self) -> None:
        self._storage.write(FILE, {"peers": [{"id": peer.device_id, "host": peer.host} for peer in self]})
        self._on_change()


def _is_loopback(name: str) -> bool:
    address = parse(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def _stored(content: Any) -> Iterator[tuple[str, str]]:
    """Host and id. Hosts alone are read as well."""
    entries = content.get("peers") if isinstance(content, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        host, device_id = (entry, "") if isinstance(entry, str) else (None, "")
        if isinstance(entry, dict):
            host, device_id = entry.get("host"), str(entry.get("id") or "")
        try:
            yield split_host(str(host or "")).text, device_id.lower()
        except ValueError:
            log.warning("stored peer is no host, left out", host=host)
