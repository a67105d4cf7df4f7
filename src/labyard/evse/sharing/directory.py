"""The gateways that mDNS has found: contract 6.1. Pure; times are of the real clock, as the network's are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface

MAX_FOUND = 64
CACHE_SECONDS = 60.0
STANDARD_PORTS = (80, 443)


@dataclass(frozen=True)
class Found:
    """One gateway. `device_id` is lower case, "" if it does not tell."""

    instance: str
    address: str
    port: int
    device_id: str = ""
    version: str = ""
    ssl: bool = False
    addresses: tuple[str, ...] = ()  # all that it tells
    online: bool = True

    @property
    def host(self) -> str:
        return f"{self.instance}.local" + ("" if self.port in STANDARD_PORTS else f":{self.port}")

    @property
    def names(self) -> tuple[str, str]:
        """What it may be called, without its port; lower case."""
        name = self.instance.lower()
        return name, f"{name}.local"

    @property
    def url(self) -> str:
        scheme = "https" if self.ssl else "http"
        return f"{scheme}://{self.address}" + ("" if self.port in STANDARD_PORTS else f":{self.port}")


class Directory:
    """Each instance and each gateway once. `heard` and `gone` come from the network, `missed` from a sweep's end."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}
        self._heard: dict[str, float] = {}

    def __iter__(self) -> Iterator[Found]:
        return iter(sorted(self._found.values(), key=lambda found: found.host))

    def heard(self, found: Found, now: float) -> bool:
        """Whether anything is new. When 64 are known, a new one takes the place of one that is offline, or of none."""
        key = found.instance.lower()
        self._drop_former_names(found, key)
        if key not in self._found and len(self._found) >= MAX_FOUND:
            offline = [name for name, known in self._found.items() if not known.online]
            if not offline:
                return False
            self._drop(min(offline, key=lambda name: self._heard[name]))
        changed = self._found.get(key) != found
        self._found[key] = found
        self._heard[key] = now
        return changed

    def gone(self, instance: str) -> bool:
        """It said goodbye."""
        return self._drop(instance.lower())

    def missed(self, since: float) -> bool:
        """Who was not heard since then is offline."""
        changed = False
        for key, found in self._found.items():
            if found.online and self._heard[key] < since:
                self._found[key] = replace(found, online=False)
                changed = True
        return changed

    def forget(self, now: float) -> bool:
        """What was not heard for longer than the cache lasts."""
        old = [key for key, heard in self._heard.items() if now - heard > CACHE_SECONDS]
        for key in old:
            self._drop(key)
        return bool(old)

    def heard_at(self, instance: str) -> float | None:
        return self._heard.get(instance.lower())

    def all_heard_since(self, moment: float) -> bool:
        """Whether there is nobody who would have to be asked. False while nobody is known."""
        return bool(self._heard) and all(heard >= moment for heard in self._heard.values())

    def _drop_former_names(self, found: Found, key: str) -> None:
        """Who gave way to another of its name said no goodbye, since the name is in use; it is still one gateway."""
        if not found.device_id:
            return
        same = (found.device_id, found.port)
        for name, known in list(self._found.items()):
            if name != key and (known.device_id, known.port) == same:
                self._drop(name)

    def _drop(self, key: str) -> bool:
        self._heard.pop(key, None)
        return self._found.pop(key, None) is not None


def reachable_address(addresses: Sequence[str], interfaces: Iterable[IPv4Interface]) -> str:
    """Of the addresses that a gateway tells, the one to call it at from a machine with these interfaces.

    Machines may have the same address (that of a container bridge, say): one of ours is taken for the gateway's only if
    all of its addresses are ours, and then it runs here.
    """
    interfaces = list(interfaces)
    addresses = sorted(addresses, key=IPv4Address)
    ours = {str(interface.ip) for interface in interfaces}
    theirs = [address for address in addresses if address not in ours]
    if not theirs:
        return addresses[0] if addresses else ""
    near = (one for one in theirs if any(IPv4Address(one) in interface.network for interface in interfaces))
    return next(near, theirs[0])
