"""Machines: contract sections 2.3 and 5.2."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import MACHINE, Client


def test_answer_has_the_contract_fields_and_canonical_values(test_machine: dict[str, Any]) -> None:
    assert test_machine["boot_mode"] == "legacy"
    assert test_machine["mac_address"] == "00:11:22:33:44:55"
    assert set(test_machine) == {
        "id", "name", "description", "mac_address", "ip_address", "hostname", "boot_mode", "secure_boot_enabled",
        "status", "is_online", "location", "room", "asset_tag", "created_at", "updated_at", "last_seen", "last_boot",
        "boot_count",
        "bmc_url", "bmc_username", "bmc_password_set", "bmc_verify_tls",
    }  # fmt: skip
    assert test_machine["created_at"].endswith("Z")


@pytest.mark.parametrize("mac", ["001122334455", "00-11-22-33-44-55", " 00:11:22:33:44:55 "])
def test_mac_is_read_in_any_usual_form(operator: Client, mac: str) -> None:
    answer = operator.post("/machines", json={"name": "pc", "mac_address": mac})
    assert answer.status_code == 201 and answer.json()["mac_address"] == "00:11:22:33:44:55"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "pc } x"), ("name", 'pc"x'), ("name", "pc\nx"), ("name", "${x}"), ("name", "-pc"), ("name", "x"),
        ("name", "x" * 101), ("name", ""), ("mac_address", "0011.2233.4455"), ("mac_address", "00:11:22:33:44"),
        ("mac_address", "00:11:22:33:44:5g"), ("mac_address", "01:00:5e:00:00:01"),
        ("mac_address", "00:00:00:00:00:00"),
        ("mac_address", "00:11-22:33:44:55"), ("ip_address", "192.168.001.5"), ("ip_address", "fd00::1"),
        ("ip_address", "192.168.1.0"), ("ip_address", "192.168.1.255"), ("ip_address", "192.168.1.10"),
        ("ip_address", "300.1.1.1"), ("hostname", "a b"), ("hostname", "-a"), ("hostname", "a" * 64),
        ("hostname", ".".join(["a" * 60] * 5)), ("description", "x" * 501), ("description", "a\0b"),
        ("location", "a\0b"), ("boot_mode", "floppy"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_field(
    operator: Client, test_machine: dict[str, Any], field: str, value: str
) -> None:
    other = {"name": "other", "mac_address": "00:11:22:33:44:66"}
    created = operator.post("/machines", json=other | {field: value})
    assert created.status_code == 422, created.text
    assert created.json()["error"] == "validation_error"
    assert created.json()["detail"][0]["loc"][-1] == field
    changed = operator.put(f"/machines/{test_machine['id']}", json={field: value})
    assert changed.status_code == 422, changed.text
    assert operator.get(f"/machines/{test_machine['id']}").json() == test_machine


@pytest.mark.parametrize(
    "same",
    [
        {"mac_address": "00:11:22:33:44:55"},
        {"name": "test-workstation"},
        {"name": "Test_Workstation"},  # another name, the same DHCP label
        {"ip_address": "192.168.1.101"},
    ],
)
def test_what_another_machine_has_is_refused(
    operator: Client, test_machine: dict[str, Any], same: dict[str, str]
) -> None:
    other = {"name": "other", "mac_address": "00:11:22:33:44:66", "ip_address": "192.168.1.102"}
    assert operator.post("/machines", json=other | same).status_code == 409
    made = operator.post("/machines", json=other).json()
    assert operator.put(f"/machines/{made['id']}", json=same).status_code == 409


def test_put_keeps_what_is_omitted_and_clears_what_is_null(operator: Client, test_machine: dict[str, Any]) -> None:
    path = f"/machines/{test_machine['id']}"
    assert operator.put(path, json={"location": "lab", "description": " "}).json()["location"] == "lab"
    answer = operator.put(path, json={"ip_address": None, "status": "MAINTENANCE"}).json()
    assert (answer["ip_address"], answer["location"], answer["status"]) == (None, "lab", "maintenance")
    assert operator.put(path, json={"name": None}).status_code == 422


def test_mac_change_is_applied_or_refused_never_ignored(operator: Client, test_session: dict[str, Any]) -> None:
    change = {"mac_address": "00:11:22:33:44:77"}
    assert operator.put("/machines/1", json=change).status_code == 409
    assert operator.put("/machines/1", json={"name": "renamed"}).status_code == 409
    assert operator.put("/machines/1", json={"location": "moved"}).status_code == 200
    operator.post(f"/api/v1/sessions/{test_session['session']['id']}/stop")
    assert operator.put("/machines/1", json=change).json()["mac_address"] == change["mac_address"]


def test_search_is_literal_and_finds_a_term_in_any_field(operator: Client, test_machine: dict[str, Any]) -> None:
    operator.put("/machines/1", json={"asset_tag": "A_100%", "hostname": "Alpha.example"})
    operator.post("/machines", json={"name": "other", "mac_address": "00:11:22:33:44:66", "asset_tag": "AX100"})
    for term, names in {
        "WORKSTATION": ["test-workstation"],
        "44:55": ["test-workstation"],
        "alpha": ["test-workstation"],
        "a_1": ["test-workstation"],
        "%": ["test-workstation"],
        "0:11:22": ["other", "test-workstation"],
        "nothing": [],
    }.items():
        answer = operator.get("/machines", params={"search": term})
        assert [row["name"] for row in answer.json()] == names, term
        assert answer.headers["X-Total-Count"] == str(len(names))


def test_deleted_machine_is_hidden_and_can_be_made_again(operator: Client, test_session: dict[str, Any]) -> None:
    assert operator.delete("/machines/1").status_code == 409
    operator.post(f"/api/v1/sessions/{test_session['session']['id']}/stop")
    assert operator.delete("/machines/1").status_code == 200
    assert operator.get("/machines/1").status_code == 404
    again = operator.post("/machines", json=MACHINE)
    assert again.status_code == 201 and again.json()["id"] != 1


def test_who_may(viewer: Client, operator: Client, test_machine: dict[str, Any], service: Any) -> None:
    assert viewer.get("/machines").status_code == 200
    refused = viewer.post("/machines", json={"name": "x1", "mac_address": "00:11:22:33:44:99"})
    assert (refused.status_code, refused.json()["detail"]) == (403, "Operator privileges required")
    assert Client(service).get("/machines").status_code == 401


@pytest.mark.parametrize("path", ["/machines/999", "/machines/0", "/machines/99999999999999"])
def test_unknown_machine_is_404(operator: Client, path: str) -> None:
    assert operator.get(path).status_code == operator.delete(path).status_code == 404


@pytest.mark.parametrize(
    "query",
    [{"limit": 0}, {"limit": 1001}, {"skip": -1}, {"status": "asleep"}, {"search": "\0"},
     {"room": "a\0"}, {"search": "x" * 60_000}],
)  # fmt: skip
def test_bad_query_is_422(operator: Client, query: dict[str, Any]) -> None:
    assert operator.get("/machines", params=query).status_code == 422
