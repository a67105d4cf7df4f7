#!/usr/bin/python
# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: is this inventory a lab that can be built here?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_check
short_description: Refuse a wrong inventory before anything is touched
description:
  - Checks groups, names, MAC addresses, IP addresses, iSCSI names, charger groups, functions, desktops and networks of
    a lab, and that its networks and the space it needs are free on this machine. Reports every mistake at once, each
    naming the field.
options:
  groups:
    description: Groups of the inventory that have hosts.
    type: list
    elements: str
    required: true
  known_groups:
    description: Groups that the playbooks know.
    type: list
    elements: str
    required: true
  hosts:
    description: C(lab_address) by lab host; empty where it has none.
    type: dict
    required: true
  machines:
    description: C(lab_machines).
    type: list
    elements: dict
    required: true
  disks:
    description: C(lab_disks).
    type: list
    elements: dict
    default: []
  evse_groups:
    description: C(evse_groups).
    type: list
    elements: dict
    default: []
  evse_pairs:
    description: C(evse_pairs), where the gateway of each charger pair is.
    type: dict
    default: {}
  faas:
    description: The C(faas_*) variables of each host with functions, as far as the inventory sets them.
    type: dict
    default: {}
  desktops:
    description: The C(desktops_*) variables of each host with desktops, as far as the inventory sets them.
    type: dict
    default: {}
  dhcp:
    description: C(lab_dhcp).
    type: str
    default: kea
  supernet:
    description: C(lab_supernet).
    type: str
    required: true
  networks:
    description: The networks that will be made here; none for a lab on machines of its own.
    type: list
    elements: dict
    default: []
  segment:
    description: Subnet of the segment that hosts and machines have their addresses in.
    type: str
    required: true
  free_gib:
    description: Space that must be free, in GiB; 0 when the lab is built already.
    type: int
    default: 0
  free_at:
    description: Where the space must be free.
    type: path
    default: /
attributes:
  check_mode: {support: full, description: Changes nothing in any mode.}
author: [Labyard]
"""

EXAMPLES = r"""
- name: Check the inventory
  labyard.lab.lab_check:
    groups: "{{ groups.keys() }}"
    known_groups: [controller, netboot]
    hosts: {boot1: 10.77.0.2}
    machines: "{{ lab_machines }}"
    supernet: 10.77.0.0/16
    segment: 10.77.0.0/17
"""

RETURN = r""" # """

import ipaddress
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.labyard.lab.plugins.module_utils import desktops_values, evse_groups, faas_values

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
IQN = re.compile(r"iqn\.\d{4}-\d{2}\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[a-z0-9.:-]+)?")
IFNAMSIZ = 15


def network(text: str) -> ipaddress.IPv4Network | None:
    """The IPv4 network, None when the text is none."""
    try:
        return ipaddress.IPv4Network(text)
    except ValueError:
        return None


def repeated(values: Iterable[str]) -> list[str]:
    """Values that stand there more than once."""
    return sorted(value for value, times in Counter(values).items() if times > 1 and value)


def check_address(where: str, text: str, segment: ipaddress.IPv4Network) -> list[str]:
    """Mistakes of one address on the segment."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return [f"{where}: {text!r} is not an IPv4 address"]
    if address not in segment or address in (segment.network_address, segment.broadcast_address):
        return [f"{where}: {text} is not a host address of the segment {segment}"]
    return []


def check_machine(machine: dict[str, Any], hosts: dict[str, str], segment: ipaddress.IPv4Network) -> list[str]:
    """Mistakes of one entry of lab_machines."""
    where = f"lab_machines[{machine.get('name', '?')}]"
    missing = [key for key in ("name", "vm_host", "mac", "address") if not machine.get(key)]
    if missing:
        return [f"{where}.{key}: is missing" for key in missing]
    found = check_address(f"{where}.address", str(machine["address"]), segment)
    mac = str(machine["mac"]).lower()
    if not NAME.fullmatch(str(machine["name"])):
        found.append(f"{where}.name: use 1 to 63 lower-case letters, digits and '-'")
    if not MAC.fullmatch(mac):
        found.append(
            f"{where}.mac: {machine['mac']!r} is not a MAC address such as 52:54:00:77:00:01 (quote it in YAML)"
        )
    elif int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        found.append(f"{where}.mac: {mac} is a multicast or empty address, which no network card can have")
    if machine["vm_host"] not in hosts:
        found.append(f"{where}.vm_host: no lab host is named {machine['vm_host']!r}; there are {', '.join(hosts)}")
    if machine.get("firmware", "bios") not in ("bios", "uefi"):
        found.append(f"{where}.firmware: {machine['firmware']!r} is neither bios nor uefi")
    if machine.get("network_boot", "pxe") not in ("pxe", "http"):
        found.append(f"{where}.network_boot: {machine['network_boot']!r} is neither pxe nor http")
    elif machine.get("network_boot") == "http" and machine.get("firmware", "bios") != "uefi":
        found.append(f"{where}.network_boot: only firmware uefi boots by http")
    if machine.get("disk", "own") not in ("own", "session"):
        found.append(f"{where}.disk: {machine['disk']!r} is neither own nor session")
    return found


def check_inventory(given: dict[str, Any]) -> list[str]:
    """Mistakes that can be seen in the inventory alone."""
    found = []
    for group in given["groups"]:
        if group not in given["known_groups"]:
            known = ", ".join(given["known_groups"])
            found.append(
                f"group {group}: no playbook knows it, so nothing would be set up there; known groups: {known}"
            )
    if given["dhcp"] not in ("kea", "isc"):
        found.append(f"lab_dhcp: {given['dhcp']!r} is neither kea nor isc")
    found += evse_groups.problems(given["evse_groups"], given["evse_pairs"])
    found += desktops_values.problems(given["desktops"])
    supernet, segment = network(given["supernet"]), network(given["segment"])
    if supernet is None or segment is None:
        name = "lab_supernet" if supernet is None else "lab_segment.subnet"
        return [
            *found,
            f"{name}: {given['supernet' if supernet is None else 'segment']!r} is not an IPv4 network in CIDR form",
        ]
    if not segment.subnet_of(supernet):
        found.append(f"lab_segment.subnet: {segment} is not inside lab_supernet {supernet}")
    others = [subnet for net in given["networks"] if (subnet := network(net["subnet"])) is not None]
    found += faas_values.problems(given["faas"], [supernet, *others])

    hosts, machines, disks = given["hosts"], given["machines"], given["disks"]
    for host, address in hosts.items():
        found += check_address(f"lab_address of {host}", address, segment) if address else []
    for machine in machines:
        found += check_machine(machine, hosts, segment)
    for disk in disks:
        if not IQN.fullmatch(str(disk["iqn"])) or len(disk["iqn"]) > 223:
            found.append(
                f"lab_machines[{disk['machine']}].iqn: {disk['iqn']!r} is not an iSCSI name; "
                "write iqn.YYYY-MM.reversed.domain:name in lower case, without '_'"
            )
    uniques = {
        "machine name": [str(machine.get("name", "")) for machine in machines],
        "MAC address": [str(machine.get("mac", "")).lower() for machine in machines],
        "address": [*hosts.values(), *(str(machine.get("address", "")) for machine in machines)],
        "iSCSI name": [str(disk["iqn"]) for disk in disks],
        "network name": [net["name"] for net in given["networks"]],
        "bridge name": [net["bridge"] for net in given["networks"]],
    }
    for what, values in uniques.items():
        found += [f"{what} {value} is used twice in the inventory; each needs its own" for value in repeated(values)]

    nets = [(net, network(net["subnet"])) for net in given["networks"]]
    for net, subnet in nets:
        if subnet is None:
            found.append(f"network {net['name']}: subnet {net['subnet']!r} is not an IPv4 network in CIDR form")
        if len(net["bridge"]) > IFNAMSIZ:
            found.append(f"network {net['name']}: bridge {net['bridge']!r} has more than {IFNAMSIZ} characters")
    whole = [(net, subnet) for net, subnet in nets if subnet is not None]
    for index, (net, subnet) in enumerate(whole):
        for other, second in whole[index + 1 :]:
            if subnet.overlaps(second):
                found.append(f"network {net['name']}: {subnet} overlaps {other['name']} {second}")
    return found


def check_machine_room(
    given: dict[str, Any], addresses: list[dict[str, Any]], routes: list[dict[str, Any]]
) -> list[str]:
    """Mistakes that only this machine shows: networks in use, no space. Takes what `ip -j` prints."""
    found = []
    bridges = {net["bridge"] for net in given["networks"]}
    taken = {
        (entry["ifname"], ipaddress.ip_interface(f"{info['local']}/{info['prefixlen']}").network)
        for entry in addresses
        for info in entry["addr_info"]
        if info["family"] == "inet"
    }
    routed = {
        (route["dev"], ipaddress.ip_network(route["dst"]))
        for route in routes
        if "dev" in route and route["dst"] != "default" and ":" not in route["dst"]
    }
    # A wider route, such as a VPN's 10.0.0.0/8, gives way to the lab's narrower ones; an equal one does not.
    wanted = [subnet for net in given["networks"] if (subnet := network(net["subnet"])) is not None]
    taken |= {(device, other) for device, other in routed if any(other.subnet_of(subnet) for subnet in wanted)}
    for net in given["networks"]:
        subnet = network(net["subnet"])
        for interface, other in sorted(taken, key=str):
            if subnet is not None and interface not in bridges and subnet.overlaps(other):
                found.append(
                    f"network {net['name']}: {subnet} is in use on this machine ({other} on {interface}); "
                    "choose another subnet in the inventory (group_vars/all/lab.yml)"
                )
    free = shutil.disk_usage(given["free_at"]).free // 2**30 if os.path.isdir(given["free_at"]) else given["free_gib"]
    if free < given["free_gib"]:
        found.append(
            f"space: {free} GiB are free at {given['free_at']}, {given['free_gib']} are needed; make room there"
        )
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "groups": {"type": "list", "elements": "str", "required": True},
            "known_groups": {"type": "list", "elements": "str", "required": True},
            "hosts": {"type": "dict", "required": True},
            "machines": {"type": "list", "elements": "dict", "required": True},
            "disks": {"type": "list", "elements": "dict", "default": []},
            "evse_groups": {"type": "list", "elements": "dict", "default": []},
            "evse_pairs": {"type": "dict", "default": {}},
            "faas": {"type": "dict", "default": {}},
            "desktops": {"type": "dict", "default": {}},
            "dhcp": {"type": "str", "default": "kea"},
            "supernet": {"type": "str", "required": True},
            "networks": {"type": "list", "elements": "dict", "default": []},
            "segment": {"type": "str", "required": True},
            "free_gib": {"type": "int", "default": 0},
            "free_at": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    found = check_inventory(module.params)
    if not found:
        ip = module.get_bin_path("ip", required=True)
        addresses = json.loads(module.run_command([ip, "-j", "address", "show"], check_rc=True)[1])
        routes = json.loads(module.run_command([ip, "-j", "-4", "route", "show"], check_rc=True)[1])
        found = check_machine_room(module.params, addresses, routes)
    if found:
        module.fail_json(
            msg="The lab cannot be built as the inventory has it. Nothing was touched.\n- " + "\n- ".join(found)
        )
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
