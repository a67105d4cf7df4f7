"""Which pairs the commands are about: the inventory's, unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from labyard.client.http import ClientError
from labyard.client.where import address, hosts_with
from labyard.evse.pairs import Credentials, Pair, Ports, pairs_of
from labyard.lab import LabHost

ROLE = "evse_pair"
INSTEAD = "or name pairs without an inventory: --pairs N for those of this machine, or --gateway URL --emulator URL"


@dataclass
class Where:
    """`count` pairs of this machine, or the pairs whose URLs were given, or (both empty) those of the inventory. `user`
    is NAME:PASSWORD for the gateways, empty for that of the inventory."""

    inventory: Path
    count: int = 0
    gateways: Sequence[str] = ()
    emulators: Sequence[str] = ()
    user: str = field(default="", repr=False)

    @cached_property
    def pairs(self) -> list[Pair]:
        """At least one. ClientError when what was given does not fit, or the inventory has none."""
        if self.gateways or self.emulators:
            found = self._given()
        elif self.count:
            found = pairs_of("localhost", "127.0.0.1", self.count, Ports())
        else:
            found = self._of_inventory()
        if self.user:
            name, colon, password = self.user.partition(":")
            if not colon:
                raise ClientError("--user must be NAME:PASSWORD")
            return [replace(pair, credentials=(name, password)) for pair in found]
        return found

    def pair(self, name: str) -> Pair:
        """ClientError when there is none of that name, or its host does not answer."""
        found = next((pair for pair in self.pairs if pair.name == name), None)
        if found is None:
            raise ClientError(f"unknown pair {name!r}; there are: {', '.join(pair.name for pair in self.pairs)}")
        if found.trouble:
            raise ClientError(f"{found.name}: {found.trouble}")
        return found

    def _given(self) -> list[Pair]:
        if len(self.gateways) != len(self.emulators):
            counts = f"{len(self.gateways)} and {len(self.emulators)}"
            raise ClientError(f"--gateway and --emulator must come as often as each other, not {counts} times")
        gateways, emulators = ([url.rstrip("/") for url in urls] for urls in (self.gateways, self.emulators))
        return [
            Pair(f"{urlsplit(gateway).hostname}/{number}", gateway, emulator)
            for number, (gateway, emulator) in enumerate(zip(gateways, emulators, strict=True))
        ]

    def _of_inventory(self) -> list[Pair]:
        try:
            hosts = hosts_with(self.inventory, ROLE)
        except ClientError as error:
            raise ClientError(f"{error}; {INSTEAD}") from error
        with ThreadPoolExecutor(len(hosts)) as pool:
            found = [pair for pairs in pool.map(_pairs_of, hosts) for pair in pairs]
        if not found:
            raise ClientError(f"evse_pair_count is 0 on every host of {self.inventory}; {INSTEAD}")
        return found


def _pairs_of(host: LabHost) -> list[Pair]:
    """Those of a lab host. When it does not answer they say so."""
    trouble = ""
    try:
        where = address(host)
    except ClientError as error:
        where, trouble = host.name, str(error)
    ports = Ports(*(int(_number(host, f"{part}_base_port")) for part in ("gateway", "emulator", "rapi")))
    found = pairs_of(host.name, where, int(_number(host, "count")), ports, _credentials(host))
    return [replace(pair, time_scale=_number(host, "time_scale"), trouble=trouble) for pair in found]


def _number(host: LabHost, name: str) -> float:
    """A variable of the role. ClientError when it is none."""
    value = host.value(f"{ROLE}_{name}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ClientError(f"{host.name}: {ROLE}_{name} must be a number, not {value!r}") from None


def _credentials(host: LabHost) -> Credentials | None:
    """What the gateways' configuration asks for, if it asks for anything."""
    config = host.value(f"{ROLE}_config", {})
    if not config.get("www_password"):
        return None
    return str(config.get("www_username", "openevseadmin")), str(config["www_password"])
