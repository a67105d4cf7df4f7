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
        "faas": {},
        "desktops": {},
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


FAAS = {"faas_pool": "10.0.0.10-10.0.0.254", "faas_network": "10.0.0.0/24"}
FUNCTION = {"name": "hello", "image": __file__}


def test_functions_that_are_in_order_pass(check: Any) -> None:
    other = {"faas_pool": "10.0.1.10-10.0.1.20", "faas_network": "10.0.1.0/24", "faas_functions": [FUNCTION]}
    gone = {"name": "old.one", "state": "absent"}
    first = {
        **FAAS,
        "faas_memory": "256M",
        "faas_warm": 0,
        "faas_cpu": "0.5",
        "faas_runtime": "auto",
        "faas_api_bind": ["0.0.0.0"],
        "faas_functions": [FUNCTION | {"limits": {"memory": "64 MiB", "cpu": 0.5, "timeout": 2}}, gone],
    }
    assert check(inventory(faas={"faas1": first, "faas2": other, "faas3": {}})) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"faas_pool": "10.0.0.10"}, "faas_pool of faas1: '10.0.0.10' is not FIRST-LAST"),
        ({"faas_pool": "10.0.0.20-10.0.0.10"}, "faas_pool of faas1: '10.0.0.20-10.0.0.10': the first address comes"),
        ({"faas_pool": "10.0.0.10-10.0.1.10"}, "faas_pool of faas1: 10.0.0.10-10.0.1.10 is not in faas_network 10.0."),
        ({"faas_network": "10.0.0.0"}, "faas_pool of faas1: 10.0.0.10-10.0.0.254 is not in faas_network 10.0.0.0/32"),
        ({"faas_network": "ten"}, "faas_network of faas1: 'ten' is not an IPv4 network"),
        ({"faas_network": "10.0.0.0/8"}, "faas_network of faas1: 10.0.0.0/8 overlaps the lab's 10.77.0.0/16"),
        ({"faas_memory": "much"}, "faas_memory of faas1: 'much' is not a size such as 256M"),
        ({"faas_memory": "1M"}, "faas_memory of faas1: 1M is not between"),
        ({"faas_warm": -1}, "faas_warm of faas1: -1 is not between 0 and 64"),
        ({"faas_pids": 1.5}, "faas_pids of faas1: 1.5 is not a whole number"),
        ({"faas_warm": True}, "faas_warm of faas1: True is not a number"),
        ({"faas_api_port": 80800}, "faas_api_port of faas1: 80800 is not between 1 and 65535"),
        ({"faas_drain_timeout": "long"}, "faas_drain_timeout of faas1: 'long' is not a number"),
        ({"faas_runtime": "docker"}, "faas_runtime of faas1: 'docker' is not runc, crun, auto or"),
        ({"faas_api_bind": "0.0.0.0"}, "faas_api_bind of faas1: is no list"),
        ({"faas_api_bind": ["localhost"]}, "faas_api_bind of faas1: 'localhost' is not an IPv4 address"),
        ({"faas_functions": {"a": 1}}, "faas_functions of faas1: is no list of functions"),
        ({"faas_functions": [{"image": __file__}]}, "faas_functions[0] of faas1.name: None is no name"),
        ({"faas_functions": [FUNCTION | {"name": "../up"}]}, "faas_functions[../up] of faas1.name: '../up' is no name"),
        ({"faas_functions": [FUNCTION, FUNCTION]}, "faas_functions[hello] of faas1.name: another function has this"),
        (
            {"faas_functions": [FUNCTION | {"img": 1}]},
            "faas_functions[hello] of faas1.img: no such key",
        ),
        ({"faas_functions": [{"name": "hello"}]}, "faas_functions[hello] of faas1.image: there is no file ''"),
        ({"faas_functions": [FUNCTION | {"state": "gone"}]}, "faas_functions[hello] of faas1.state: 'gone' is neither"),
        (
            {"faas_functions": [FUNCTION | {"limits": {"ram": 1}}]},
            "faas_functions[hello] of faas1.limits.ram",
        ),
        ({"faas_functions": [FUNCTION | {"limits": 1}]}, "faas_functions[hello] of faas1.limits: is no mapping"),
    ],
)
def test_wrong_values_of_functions_are_named(check: Any, values: dict[str, Any], said: str) -> None:
    (found,) = check(inventory(faas={"faas1": FAAS | values}))
    assert found.startswith(said), found


def test_hosts_do_not_share_addresses_of_functions(check: Any) -> None:
    (found,) = check(inventory(faas={"faas1": FAAS, "faas2": FAAS}))
    assert found.startswith("faas_pool of faas2: 10.0.0.10-10.0.0.254 overlaps that of faas1")


def test_desktops_that_are_in_order_pass(check: Any) -> None:
    values = {
        "desktops_environment": "test",
        "desktops_http_host": "127.0.0.1",
        "desktops_rate_login": "20",
        "desktops_session_auto_cpu": 0.5,
        "desktops_session_storage_reserve": 0,
        "desktops_rdp_first_port": 40000,
        "desktops_rdp_last_port": 40009,
        "desktops_poot_base_rate": 0.046875,
        "desktops_tls_certificate": "/etc/ssl/desk.pem",
        "desktops_tls_key": "/etc/ssl/desk.key",
    }
    assert check(inventory(desktops={"desk1": values, "desk2": {}})) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"desktops_environment": "Test"}, "desktops_environment of desk1: 'Test' is no name"),
        ({"desktops_http_host": "0.0.0.0"}, "desktops_http_host of desk1: '0.0.0.0' is no loopback address"),
        ({"desktops_http_host": "localhost"}, "desktops_http_host of desk1: 'localhost' is no loopback address"),
        ({"desktops_tls_port": 84430}, "desktops_tls_port of desk1: 84430 is not between 1 and 65535"),
        ({"desktops_tls_key": "/etc/key"}, "desktops_tls_certificate of desk1: goes together with desktops_tls_key"),
        ({"desktops_rate_poot": 0}, "desktops_rate_poot of desk1: 0 is below 1"),
        ({"desktops_rate_admin": "many"}, "desktops_rate_admin of desk1: 'many' is not a number"),
        ({"desktops_rate_create": True}, "desktops_rate_create of desk1: True is not a number"),
        ({"desktops_refresh_families": 1.5}, "desktops_refresh_families of desk1: 1.5 is not a whole number"),
        ({"desktops_max_node_memory": 5}, "desktops_max_node_memory of desk1: 5 is below 1073741824"),
        ({"desktops_session_auto_cpu": 9}, "desktops_session_auto_cpu of desk1: 9 is not between 0.1 and 8"),
        ({"desktops_session_slice": "nan"}, "desktops_session_slice of desk1: 'nan' is not a number"),
        ({"desktops_session_provisioning": "own"}, "desktops_session_provisioning of desk1: 'own' is none of attach,"),
        ({"desktops_rdp_last_port": 33000}, "desktops_rdp_last_port of desk1: 33000 is below desktops_rdp_first_port"),
        ({"desktops_rdp_grace": 0}, "desktops_rdp_grace of desk1: 0 is not above 0"),
        (
            {"desktops_poot_base_rate": 20000},
            "desktops_poot_base_rate of desk1: 20000 is not above 0 and at most 10000",
        ),
        ({"desktops_poot_base_rate": 0.01}, "desktops_poot_base_rate of desk1: 0.01 is not a multiple of 0.015625"),
        ({"desktops_cors_origins": "https://*"}, "desktops_cors_origins of desk1: name the origins one by one"),
        ({"desktops_log_level": "loud"}, "desktops_log_level of desk1: 'loud' is none of debug,"),
    ],
)
def test_wrong_values_of_desktops_are_named(check: Any, values: dict[str, Any], said: str) -> None:
    (found,) = check(inventory(desktops={"desk1": values}))
    assert found.startswith(said), found
