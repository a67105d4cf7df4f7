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
        "evse_groups": [],
        "evse_pairs": {},
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
def check(collection: None, load_module: Any) -> Any:
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


GARAGE = {"id": "garage", "controller": "evse1/0", "members": ["evse1/1", "evse2/0"], "budget_amps": 20}
PAIRS = {"evse1/0": "10.77.0.5:8000", "evse1/1": "10.77.0.5:8001", "evse2/0": "10.77.0.6:8000"}


def test_right_charger_groups_pass(check: Any) -> None:
    groups = [GARAGE | {"members": ["evse1/1"], "priorities": {"evse1/0": 2}}, GARAGE | {"id": "yard"}]
    groups[1] |= {"controller": "evse2/0", "members": [], "budget_amps": 6}
    assert check(inventory(evse_groups=groups, evse_pairs=PAIRS)) == []
    small = GARAGE | {"budget_amps": 10, "failsafe_mode": "disable"}
    assert check(inventory(evse_groups=[small], evse_pairs=PAIRS)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"controller": "evse1/7"}, "evse_groups[garage].controller: there is no pair evse1/7; there are evse1/0, "),
        ({"members": ["evse3/0"]}, "evse_groups[garage].members: there is no pair evse3/0"),
        ({"members": "evse1/1"}, "evse_groups[garage].members: is no list"),
        ({"members": ["evse1/0"]}, "evse_groups[garage].members: evse1/0 is in evse_groups[garage] already"),
        ({"budget_amps": 17}, "evse_groups[garage].budget_amps: 17 A are too little: without their controller 3 "),
        ({"safety_factor": 0.8}, "evse_groups[garage].budget_amps: 16 A are too little"),
        ({"budget_amps": "32 A"}, "evse_groups[garage].budget_amps: '32 A' is no number"),
        ({"budget_amps": None}, "evse_groups[garage].budget_amps: is missing"),
        ({"id": ""}, "evse_groups[0].id: is missing"),
        ({"budget": 32}, "evse_groups[garage].budget: no such key; there are id, controller"),
        ({"heartbeat_timeout": 3}, "evse_groups[garage].heartbeat_timeout: 3 is no number from 5 to 600"),
        ({"failsafe_mode": "off"}, "evse_groups[garage].failsafe_mode: 'off' is neither"),
        ({"priorities": {"evse9/9": 1}}, "evse_groups[garage].priorities: evse9/9 is not in the group"),
        ({"priorities": {"evse1/0": "high"}}, "evse_groups[garage].priorities: is no mapping of pairs"),
    ],
)
def test_a_mistake_in_a_charger_group_is_named(check: Any, change: dict[str, Any], said: str) -> None:
    (found,) = check(inventory(evse_groups=[GARAGE | change], evse_pairs=PAIRS))
    assert found.startswith(said)


def test_a_pair_is_in_one_charger_group(check: Any) -> None:
    other = {"id": "garage", "controller": "evse2/0", "members": [], "budget_amps": 6}
    assert check(inventory(evse_groups=[GARAGE, other], evse_pairs=PAIRS)) == [
        "evse_groups[garage].id: another group has this id",
        "evse_groups[garage].controller: evse2/0 is in evse_groups[garage] already",
    ]


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
def test_a_network_in_use_is_refused(collection: None, load_module: Any, addresses: Any, routes: Any) -> None:
    found = load_module("lab_check").check_machine_room(inventory(), addresses, routes)
    assert len(found) == 1 and "network mgmt: 10.76.0.0/24 is in use on this machine" in found[0]


def test_its_own_bridges_the_blackhole_and_wider_routes_are_not_in_the_way(collection: None, load_module: Any) -> None:
    addresses = [{"ifname": "ly-mgmt", "addr_info": [{"family": "inet", "local": "10.76.0.1", "prefixlen": 24}]}]
    routes = [{"type": "blackhole", "dst": "10.77.0.0/16"}, {"dst": "default", "dev": "eth0"}]
    routes.append({"dst": "10.0.0.0/8", "dev": "tun0"})
    assert load_module("lab_check").check_machine_room(inventory(), addresses, routes) == []


def test_too_little_space_is_refused(collection: None, load_module: Any) -> None:
    found = load_module("lab_check").check_machine_room(inventory(free_gib=10**6), [], [])
    assert len(found) == 1 and "1000000 are needed" in found[0]
