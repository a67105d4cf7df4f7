"""Kea's configuration with the machines that have a session in it, and without (contract section 8). Pure functions.

A reservation in Kea has one boot file only, and it beats every class: raw firmware would be handed the script. So the
boot file comes from client classes. Kea takes the first value among the classes of a packet, in the order in which they
were assigned, and assigns in two passes: first the classes that can be told from the packet alone, then, once the
reservation is known, those that ask for KNOWN. Hence two groups of classes of ours:

* before all others, first pass: one class per machine that wants iPXE and the machine's hardware address. The base
  configuration's own class for iPXE would win otherwise.
  Kea evaluates every class for every packet: 100 sessions are not noticed, 1,000 leave some 700 exchanges/s.
* after all others, second pass: what the base configuration has not given to a machine with a reservation of ours.

The role dhcp's module kea_config reads the same marks (collections/…/kea_config.py); a unit test compares the two.
"""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from labyard.netboot.adapters.dhcp import Reservation

Json = dict[str, Any]

# Key of the user-context of everything that is ours, and the prefix of our classes' names.
MARK = "labyard-netboot"

UEFI_X64_FILE = "boot/snponly.efi"
BIOS_FILE = "boot/undionly.kpxe"
# Option 175, iPXE's encapsulated options: 176 (no-pxedhcp) = 1. As bytes it needs no definition in the configuration.
NO_PROXYDHCP = {"code": 175, "space": "dhcp4", "csv-format": False, "data": "B00101", "always-send": True}
# UEFI HTTP boot takes only offers that say so (UEFI specification, section 24.7).
HTTP_CLIENT = {"code": 60, "space": "dhcp4", "csv-format": True, "data": "HTTPClient", "always-send": True}

_MINE = f"member('KNOWN') and member('{MARK}')"
# iPXE sends its name bare; RFC 3004 wants a length before it.
_IPXE = "option[77].hex == 'iPXE' or option[77].hex == 0x0469505845"


def subnets(dhcp4: Mapping[str, Any]) -> Iterator[tuple[Json, Json]]:
    """Every subnet with the shared network it is in, or an empty one."""
    for subnet in dhcp4.get("subnet4", []):
        yield subnet, {}
    for network in dhcp4.get("shared-networks", []):
        for subnet in network.get("subnet4", []):
            yield subnet, network


def mark_of(item: Mapping[str, Any]) -> Json | None:
    """Our mark on a reservation or class; None when it is somebody else's."""
    mark = (item.get("user-context") or {}).get(MARK)
    return mark if isinstance(mark, dict) else None


def split(dhcp4: Json) -> tuple[Json, list[Reservation]]:
    """The configuration without anything of ours, what was set aside put back; and our reservations in it.

    `dhcp4` is not changed; the base shares with it what is not ours.
    """
    classes = {item["name"]: item for item in dhcp4.get("client-classes", []) if mark_of(item) is not None}
    base = _without_ours(dhcp4)
    if classes:
        base["client-classes"] = [item for item in dhcp4["client-classes"] if mark_of(item) is None]
    found = [
        _read(item, mark, classes)
        for subnet, _ in subnets(dhcp4)
        for item in subnet.get("reservations", [])
        if (mark := mark_of(item)) is not None
    ]
    return base, sorted(found, key=lambda entry: entry.machine_id)


def _without_ours(holder: Json) -> Json:
    """A configuration or shared network with its subnets' reservations that are not ours, and those set aside."""
    bare = dict(holder)
    if "subnet4" in bare:
        bare["subnet4"] = [
            subnet | {"reservations": list(_others(subnet["reservations"]))} if "reservations" in subnet else subnet
            for subnet in bare["subnet4"]
        ]
    if "shared-networks" in bare:
        bare["shared-networks"] = [_without_ours(network) for network in bare["shared-networks"]]
    return bare


def _others(reservations: Iterable[Json]) -> Iterator[Json]:
    for item in reservations:
        mark = mark_of(item)
        if mark is None:
            yield item
        elif mark.get("replaces"):
            yield mark["replaces"]


def _read(item: Json, mark: Json, classes: Mapping[str, Json]) -> Reservation:
    number = int(mark.get("machine", 0))

    def boot_file(name: str) -> str:
        return str(classes.get(name, {}).get("boot-file-name", ""))

    return Reservation(
        machine_id=number,
        label=item.get("hostname", ""),
        mac=item.get("hw-address", "").upper(),
        address=item.get("ip-address") or None,
        next_server=item.get("next-server", ""),
        ipxe_file=boot_file(f"{MARK}-{number}"),
        boot_mode=mark.get("boot_mode", ""),
        http_boot=boot_file(f"{MARK}-{number}-http"),
    )


def merge(base: Json, reservations: Sequence[Reservation], uefi_secure_file: str) -> tuple[Json, dict[int, str]]:
    """The base with these reservations and their classes, and what is wrong with those left out, by machine id.

    `base` is as `split` gives it and is not changed.
    """
    config = copy.deepcopy(base)
    served: list[Reservation] = []
    bad: dict[int, str] = {}
    homes = [(ipaddress.IPv4Network(subnet["subnet"]), subnet, network) for subnet, network in subnets(config)]
    addresses = {
        item["ip-address"]: item.get("hw-address", "another client").lower()
        for holder in [config, *(subnet for _, subnet, _ in homes)]
        for item in holder.get("reservations", [])
        if item.get("ip-address")
    }
    standing = {
        (id(subnet), item.get("hw-address", "").lower()): item
        for _, subnet, _ in homes
        for item in subnet.get("reservations", [])
    }
    for entry in sorted(reservations, key=lambda entry: entry.machine_id):
        where = ipaddress.IPv4Address(entry.address or entry.next_server)
        holding = [home for home in homes if where in home[0]]
        owner = addresses.get(entry.address or "", entry.mac.lower())
        if not holding:
            known = ", ".join(str(home[0]) for home in homes) or "none"
            bad[entry.machine_id] = (
                f"{'address' if entry.address else 'next-server'} {where} of {entry.mac} is in none of Kea's subnets "
                f"({known}); give the machine another address or add the subnet"
            )
        elif owner != entry.mac.lower():
            bad[entry.machine_id] = (
                f"address {where} is wanted for {entry.mac} but reserved for {owner.upper()} in Kea's base "
                "configuration; change one of them"
            )
        elif problem := _unusable(config, *max(holding, key=lambda home: home[0].prefixlen), entry):
            bad[entry.machine_id] = problem
        else:
            subnet = max(holding, key=lambda home: home[0].prefixlen)[1]
            _place(subnet, entry, standing.get((id(subnet), entry.mac.lower())))
            served.append(entry)
    if served:
        own = _classes(served, uefi_secure_file)
        config["client-classes"] = [*own[0], *config.get("client-classes", []), *own[1]]
    return config, bad


def _unusable(dhcp4: Json, network: ipaddress.IPv4Network, subnet: Json, shared: Json, entry: Reservation) -> str:
    """Why Kea would not honour a reservation in this subnet, or nothing."""
    if entry.address and network.prefixlen < 31:
        edges = {str(network.network_address): "network", str(network.broadcast_address): "broadcast"}
        if entry.address in edges:
            return f"address {entry.address} is the {edges[entry.address]} address of {network}; give it another"
    for holder in (subnet, shared, dhcp4):
        if "reservations-in-subnet" in holder:
            if not holder["reservations-in-subnet"]:
                return f"Kea ignores reservations in subnet {network}; set reservations-in-subnet to true there"
            break
    if "hw-address" not in dhcp4.get("host-reservation-identifiers", ["hw-address"]):
        return "Kea ignores reservations by hardware address; add hw-address to host-reservation-identifiers"
    return ""


def _place(subnet: Json, entry: Reservation, replaced: Json | None) -> None:
    """Add the reservation to its subnet; the one of the same hardware address there is set aside inside it."""
    mark: Json = {"machine": entry.machine_id, "boot_mode": entry.boot_mode}
    reservations = subnet.setdefault("reservations", [])
    if replaced:
        reservations.remove(replaced)
        mark["replaces"] = replaced
    item: Json = {
        "hw-address": entry.mac.lower(),
        "hostname": entry.label,
        "next-server": entry.next_server,
        "client-classes": [MARK],
        "user-context": {MARK: mark},
    }
    if entry.address:
        item["ip-address"] = entry.address
    reservations.append(item)


def _classes(entries: Iterable[Reservation], uefi_secure_file: str) -> tuple[list[Json], list[Json]]:
    """Our classes for the front of the list and for its end."""
    http = "substring(option[60].hex, 0, 10) == 'HTTPClient'"
    first = [
        _class("", ""),  # given by our reservations
        _class("-ipxe", _IPXE),
        _class("-uefi", f"not member('{MARK}-ipxe') and (option[93].hex == 0x0007 or option[93].hex == 0x0009)"),
        _class("-http", f"{http} and (option[93].hex == 0x000f or option[93].hex == 0x0010)"),
    ]
    for entry in entries:
        name, mac = f"-{entry.machine_id}", f"pkt4.mac == 0x{entry.mac.replace(':', '').lower()}"
        first.append(_class(name, f"member('{MARK}-ipxe') and {mac}", entry.ipxe_file))
        if entry.boot_mode == "uefi_secure":
            first.append(_class(f"{name}-secure", f"member('{MARK}-uefi') and {mac}", uefi_secure_file))
        if entry.http_boot:
            first.append(_class(f"{name}-http", f"member('{MARK}-http') and {mac}", entry.http_boot, HTTP_CLIENT))
    last = [
        _class("-skip-proxydhcp", f"{_MINE} and member('{MARK}-ipxe')", "", NO_PROXYDHCP),
        _class("-uefi-file", f"{_MINE} and member('{MARK}-uefi')", UEFI_X64_FILE),
        _class(
            "-other-file",
            f"{_MINE} and not member('{MARK}-ipxe') and not member('{MARK}-uefi') and not {http}",
            BIOS_FILE,
        ),
    ]
    return first, last


def _class(name: str, test: str, boot_file: str = "", option: Json | None = None) -> Json:
    item: Json = {"name": MARK + name, "user-context": {MARK: {}}}
    if test:
        item["test"] = test
    if boot_file:
        item["boot-file-name"] = boot_file
    if option:
        item["option-data"] = [option]
    return item


def same(one: Json, other: Json) -> bool:
    """Whether two configurations have the same things of ours. Kea fills in defaults, which do not count."""
    return _ours(one) == _ours(other)


def _ours(dhcp4: Json) -> tuple[Any, ...]:
    classes = [
        (item["name"], _bare(item) if mark_of(item) is not None else None) for item in dhcp4.get("client-classes", [])
    ]
    reservations = {
        item["hw-address"]: (subnet["subnet"], _bare(item))
        for subnet, _ in subnets(dhcp4)
        for item in subnet.get("reservations", [])
        if mark_of(item) is not None
    }
    return classes, reservations


def _bare(item: Json) -> Json:
    """Without what Kea adds: empty values, unset addresses, names of options and types of their data."""
    bare = {key: value for key, value in item.items() if value not in ("", "0.0.0.0", [], None)}
    if "option-data" in bare:
        bare["option-data"] = [(option.get("code"), option.get("data")) for option in bare["option-data"]]
    return bare
