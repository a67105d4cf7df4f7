"""The parts of the evse modules that decide, without a gateway."""

from __future__ import annotations

from typing import Any

import pytest

ENTRY = {"id": "0035969ec134", "name": "openevse-c134", "host": "10.77.0.6:8001", "url": "http://10.77.0.6:8001"}
MEMBER = {"loadsharing_enabled": True, "loadsharing_role": "member", "loadsharing_controller_host": "A.local:8000"}


@pytest.fixture
def api(collection: None, load_module: Any) -> Any:
    return load_module("evse_api", "module_utils")


@pytest.mark.parametrize(
    ("host", "as_compared"),
    [
        (" Garage.Local. ", "garage.local"),
        ("Garage.local.:8001", "garage.local:8001"),
        ("10.77.0.6:8000", "10.77.0.6:8000"),
        ("[fd00::1]:8000", "[fd00::1]:8000"),
    ],
)
def test_hosts_are_compared_as_gateways_do(api: Any, host: str, as_compared: str) -> None:
    assert api.normal(host) == as_compared


def test_a_peer_has_many_names(api: Any) -> None:
    entry = ENTRY | {"ip": "10.77.0.6"}
    assert api.names(entry) == {"10.77.0.6:8001", "openevse-c134.local:8001", "0035969ec134"}
    unseen = {"id": "unknown", "name": "a.b", "host": "a.b", "url": "http://a.b", "ip": ""}
    assert {"a.b", "a.b.local"} < api.names(unseen) and "" not in api.names(unseen)
    assert api.unmatched(["OpenEVSE-C134.local:8001", "10.77.0.6:8002"], [entry]) == ["10.77.0.6:8002"]
    assert api.unmatched(["a.b"], []) == ["a.b"]


def test_who_obeys_whom(api: Any) -> None:
    assert api.obeys(MEMBER, "a.local:8000") and not api.obeys(MEMBER, "b.local:8000")
    assert not api.obeys(MEMBER | {"loadsharing_enabled": False}, "a.local:8000")
    assert not api.obeys(MEMBER | {"loadsharing_role": "controller"}, "a.local:8000")
    assert api.obeys(None, "a.local:8000"), "it may come back as what it was"
    assert "A.local:8000" in api.owner(MEMBER) and api.owner(None) == "is in no group"


def test_a_charger_group_of_the_inventory_says_all_that_it_is(collection: None, load_module: Any) -> None:
    pairs = {"evse1/0": "10.77.0.5:8000", "evse2/1": "10.77.0.6:8001"}
    group = {"id": "garage", "controller": "evse1/0", "members": ["evse2/1"], "budget_amps": 32}
    (planned,) = load_module("evse_groups", "module_utils").plan([group | {"priorities": {"evse2/1": 3}}], pairs)
    assert planned == {
        "controller": "evse1/0",
        "url": "http://10.77.0.5:8000",
        "group_id": "garage",
        "group_max_current": 32,
        "members": ["10.77.0.6:8001"],
        "priority": 0,
        "priorities": {"10.77.0.6:8001": 3},
        "safety_factor": 1.0,
        "heartbeat_timeout": 30,
        "failsafe_mode": "safe_current",
        "failsafe_safe_current": 6.0,
        "failsafe_peer_assumed_current": 6.0,
        "rotation_interval": 1800,
    }
