"""The module kea_config, and that it and the netboot service mean the same things by the same marks."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from labyard.netboot.adapters import kea_merge
from labyard.netboot.adapters.dhcp import Reservation

FOREIGN = {"hw-address": "52:54:00:00:00:50", "ip-address": "192.168.1.50", "hostname": "reserved"}
BASE: dict[str, Any] = {
    "Dhcp4": {
        "client-classes": [{"name": "ipxe", "test": "option[77].hex == 'iPXE'", "boot-file-name": "boot.ipxe"}],
        "subnet4": [{"id": 1, "subnet": "192.168.1.0/24", "reservations": [FOREIGN]}],
    }
}
ENTRIES = [
    Reservation(
        1, "ws-1", "00:11:22:33:44:01", "192.168.1.101", "192.168.1.10", "machines/a.ipxe", "uefi_secure", "http://x/y"
    ),
    Reservation(2, "ws-2", "52:54:00:00:00:50", None, "192.168.1.10", "machines/b.ipxe"),
]


def live_of(base: dict[str, Any]) -> dict[str, Any]:
    """The file of a Kea in which the service has set its reservations on this base."""
    return {"Dhcp4": kea_merge.merge(base["Dhcp4"], ENTRIES, "boot/shim.efi")[0]}


@pytest.fixture
def module(load_module: Any) -> Any:
    return load_module("kea_config")


def test_both_have_the_same_mark(module: Any) -> None:
    assert module.MARK == kea_merge.MARK


def test_the_service_finds_its_own_again_on_a_new_base(module: Any) -> None:
    new = copy.deepcopy(BASE)
    new["Dhcp4"]["valid-lifetime"] = 4321
    new["Dhcp4"]["subnet4"][0]["reservations"] = [
        FOREIGN | {"ip-address": "192.168.1.77"},
        {"hw-address": "00:11:22:33:44:01", "ip-address": "192.168.1.102"},
    ]
    config, carried = module.rebuild(new, live_of(BASE))
    assert carried == ["00:11:22:33:44:01", "52:54:00:00:00:50"]
    base, seen = kea_merge.split(config["Dhcp4"])
    assert seen == ENTRIES
    assert base.pop("user-context") == {module.DIGEST: module.digest(new)}
    found = base["subnet4"][0]["reservations"]
    assert sorted(item["hw-address"] for item in found) == ["00:11:22:33:44:01", "52:54:00:00:00:50"]
    assert {item["ip-address"] for item in found} == {"192.168.1.77", "192.168.1.102"}, (
        "what was set aside is the new one"
    )
    assert kea_merge.same(config["Dhcp4"], kea_merge.merge(base, ENTRIES, "boot/shim.efi")[0]), "nothing to set anew"


def test_without_sessions_it_is_the_base_and_its_digest(module: Any) -> None:
    config, carried = module.rebuild(BASE, {})
    assert carried == []
    assert module.recorded(config) == module.digest(BASE)
    assert config["Dhcp4"].pop("user-context")
    assert config == BASE


def test_the_digest_is_of_the_meaning_not_of_the_spelling(module: Any) -> None:
    turned = {"Dhcp4": dict(reversed(BASE["Dhcp4"].items()))}
    assert module.digest(turned) == module.digest(BASE)
    assert module.recorded({}) == "" and module.recorded({"Dhcp4": {}}) == ""


@pytest.mark.parametrize(
    ("subnet", "said"),
    [
        (
            {
                "subnet": "192.168.1.0/24",
                "reservations": [FOREIGN | {"hw-address": "02:00:00:00:00:01", "ip-address": "192.168.1.101"}],
            },
            "02:00:00:00:00:01",
        ),
        ({"subnet": "192.168.2.0/24"}, "192.168.1.101"),
    ],
)
def test_a_base_that_leaves_a_session_no_place_is_refused(module: Any, subnet: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        module.rebuild({"Dhcp4": {"subnet4": [subnet]}}, live_of(BASE))


def test_the_package_s_own_file_with_comments_has_nothing_of_ours(module: Any) -> None:
    assert module.parse('// a comment\n{"Dhcp4": {}}') == {}
    assert module.parse("") == {}
    assert module.parse(json.dumps(BASE)) == BASE
    with pytest.raises(ValueError, match="not JSON"):
        module.parse("// edited\n" + json.dumps(live_of(BASE)))
