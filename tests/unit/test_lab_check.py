"""The inventory check: every mistake is named with its field, all at once."""

from __future__ import annotations

from typing import Any

import pytest

MACHINE = {"name": "m1", "vm_host": "vmhost1", "mac": "52:54:00:77:00:01", "address": "10.77.1.1", "firmware": "bios"}


def inventory(**changes: Any) -> dict[str, Any]:
    return {
        "groups": ["controller", "netboot"],
        "known_groups": ["controller", "netboot"],
        "hosts": {"boot1": "10.77.0.2", "vmhost1": "10.77.0.3"},
        "machines": [MACHINE],
        "disks": [{"machine": "m1", "iqn": "iqn.2025-01.lab.labyard:target-m1"}],
        "dhcp": "kea",
        "supernet": "10.77.0.0/16",
        "segment": "10.77.0.0/17",
        "networks": [
            {"name": "mgmt", "bridge": "ly-mgmt", "subnet": "10.76.0.0/24"},
            {"name": "segment", "bridge": "ly-segment", "subnet": "10.77.0.0/17"},
        ],
        "free_gib": 0,
        "free_at": "/",
    } | changes


@pytest.fixture
def check(load_module: Any) -> Any:
    return load_module("lab_check").check_inventory


def test_a_right_inventory_passes(check: Any) -> None:
    assert check(inventory()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": ["netboots"]}, "group netboots: no playbook knows it"),
        ({"hosts": {"vmhost1": "10.99.0.1"}}, "lab_address of vmhost1: 10.99.0.1 is not a host address of the segment"),
        ({"hosts": {"vmhost1": "10.77.0.300"}}, "lab_address of vmhost1: '10.77.0.300' is not an IPv4 address"),
        ({"hosts": {"vmhost1": "10.77.1.1"}}, "address 10.77.1.1 is used twice"),
        ({"dhcp": "dnsmasq"}, "lab_dhcp: 'dnsmasq' is neither kea nor isc"),
        ({"supernet": "10.77.0.0/33"}, "lab_supernet: '10.77.0.0/33' is not an IPv4 network"),
        ({"supernet": "10.80.0.0/16"}, "is not inside lab_supernet"),
        ({"disks": [{"machine": "m1", "iqn": "iqn.2025-01.lab:a_b"}]}, "lab_machines[m1].iqn: 'iqn.2025-01.lab:a_b'"),
        ({"machines": [MACHINE | {"mac": "52:54:00:77:00"}]}, "lab_machines[m1].mac: '52:54:00:77:00' is not a MAC"),
        (
            {"machines": [MACHINE | {"mac": "01:54:00:77:00:01"}]},
            "lab_machines[m1].mac: 01:54:00:77:00:01 is a multicast",
        ),
        ({"machines": [MACHINE | {"disk": "none"}]}, "lab_machines[m1].disk: 'none' is neither own nor session"),
        ({"machines": [MACHINE | {"firmware": "efi"}]}, "lab_machines[m1].firmware: 'efi' is neither bios nor uefi"),
        ({"machines": [MACHINE | {"network_boot": "tftp"}]}, "lab_machines[m1].network_boot: 'tftp' is neither"),
        ({"machines": [MACHINE | {"network_boot": "http"}]}, "lab_machines[m1].network_boot: only firmware uefi boots"),
        ({"machines": [MACHINE | {"vm_host": "nobody"}]}, "lab_machines[m1].vm_host: no lab host is named 'nobody'"),
        ({"machines": [MACHINE | {"name": "M 1"}]}, "lab_machines[M 1].name: use"),
        ({"machines": [{"name": "m1"}]}, "lab_machines[m1].mac: is missing"),
    ],
)
def test_a_mistake_is_named(check: Any, changes: dict[str, Any], said: str) -> None:
    found = check(inventory(**changes))
    assert any(said in line for line in found), found


def test_repetition_is_found_whatever_the_case(check: Any) -> None:
    twin = MACHINE | {"name": "m2", "mac": "52:54:00:77:00:01".upper(), "address": "10.77.1.2"}
    assert check(inventory(machines=[MACHINE, twin])) == [
        "MAC address 52:54:00:77:00:01 is used twice in the inventory; each needs its own"
    ]


def test_all_mistakes_come_at_once(check: Any) -> None:
    found = check(inventory(groups=["x"], machines=[MACHINE | {"mac": "no", "firmware": "no"}]))
    assert len(found) == 3


def test_networks_that_overlap_each_other(check: Any) -> None:
    nets = [
        {"name": "a", "bridge": "a", "subnet": "10.1.0.0/16"},
        {"name": "b", "bridge": "b", "subnet": "10.1.2.0/24"},
    ]
    assert check(inventory(networks=nets)) == ["network a: 10.1.0.0/16 overlaps b 10.1.2.0/24"]


@pytest.mark.parametrize(
    ("addresses", "routes"),
    [
        ([{"ifname": "eth9", "addr_info": [{"family": "inet", "local": "10.76.0.9", "prefixlen": 24}]}], []),
        ([], [{"dst": "10.76.0.128/25", "dev": "tun0"}]),
    ],
)
def test_a_network_in_use_is_refused(load_module: Any, addresses: Any, routes: Any) -> None:
    found = load_module("lab_check").check_machine_room(inventory(), addresses, routes)
    assert len(found) == 1 and "network mgmt: 10.76.0.0/24 is in use on this machine" in found[0]


def test_its_own_bridges_the_blackhole_and_wider_routes_are_not_in_the_way(load_module: Any) -> None:
    addresses = [{"ifname": "ly-mgmt", "addr_info": [{"family": "inet", "local": "10.76.0.1", "prefixlen": 24}]}]
    routes = [{"type": "blackhole", "dst": "10.77.0.0/16"}, {"dst": "default", "dev": "eth0"}]
    routes.append({"dst": "10.0.0.0/8", "dev": "tun0"})
    assert load_module("lab_check").check_machine_room(inventory(), addresses, routes) == []


def test_too_little_space_is_refused(load_module: Any) -> None:
    found = load_module("lab_check").check_machine_room(inventory(free_gib=10**6), [], [])
    assert len(found) == 1 and "1000000 are needed" in found[0]
