"""Which pairs the commands are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from labyard.client.http import ClientError
from labyard.evse.cli_where import Where

INVENTORY = """
all:
  children:
    evse_hosts:
      vars:
        lab_roles: [evse_pair]
        evse_pair_time_scale: 10
      hosts:
        evse1:
          ansible_host: 192.0.2.1
          evse_pair_count: 2
        evse2:
          ansible_host: 192.0.2.2
          evse_pair_count: 1
          evse_pair_gateway_base_port: 9000
          evse_pair_config: {www_password: secret}
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    file = tmp_path / "hosts.yml"
    file.write_text(INVENTORY)
    return file


def test_those_of_the_inventory(inventory: Path) -> None:
    first, second, third = Where(inventory).pairs
    assert (first.name, second.name, third.name) == ("evse1/0", "evse1/1", "evse2/0")
    assert (second.gateway, second.emulator, second.rapi_port) == (
        "http://192.0.2.1:8001",
        "http://192.0.2.1:8081",
        8024,
    )
    assert third.gateway == "http://192.0.2.2:9000" and third.emulator == "http://192.0.2.2:8080"
    assert first.credentials is None and third.credentials == ("openevseadmin", "secret")
    assert "secret" not in repr(third)
    assert first.time_scale == 10
    assert Where(inventory).pair("evse2/0") == third


def test_a_host_that_cannot_be_reached_keeps_its_pairs(inventory: Path) -> None:
    gone = "ansible_connection: community.docker.docker\n          ansible_host: labyard-test-nobody"
    inventory.write_text(INVENTORY.replace("ansible_host: 192.0.2.2", gone))
    where = Where(inventory)
    assert [pair.name for pair in where.pairs] == ["evse1/0", "evse1/1", "evse2/0"]
    assert where.pairs[2].trouble == "lab host evse2 does not answer; build the lab with: make lab"
    with pytest.raises(ClientError, match="evse2/0: lab host evse2 does not answer"):
        where.pair("evse2/0")


def test_without_an_inventory() -> None:
    assert [pair.name for pair in Where(Path("/nowhere"), count=2).pairs] == ["localhost/0", "localhost/1"]
    given = Where(Path("/nowhere"), 0, ["http://a:1/", "http://b:2"], ["http://a:3", "http://b:4"], "me:pass:word")
    assert [pair.name for pair in given.pairs] == ["a/0", "b/1"]
    assert [pair.gateway for pair in given.pairs] == ["http://a:1", "http://b:2"]
    assert given.pairs[0].credentials == ("me", "pass:word")
    assert "word" not in repr(given)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (Where(Path("/nowhere")), "there is no inventory at /nowhere.*--pairs N"),
        (Where(Path("/nowhere"), 0, ["http://a"], []), "--gateway and --emulator"),
        (Where(Path("/nowhere"), 1, user="me"), "--user must be NAME:PASSWORD"),
    ],
)
def test_what_does_not_fit_is_said(where: Where, text: str) -> None:
    with pytest.raises(ClientError, match=text):
        _ = where.pairs


def test_a_variable_that_is_no_number_is_named(inventory: Path) -> None:
    inventory.write_text(INVENTORY.replace("9000", "nine"))
    with pytest.raises(ClientError, match="evse2: evse_pair_gateway_base_port must be a number, not 'nine'"):
        _ = Where(inventory).pairs


def test_an_inventory_without_pairs_says_so(inventory: Path) -> None:
    inventory.write_text(INVENTORY.replace("[evse_pair]", "[mdns]"))
    with pytest.raises(ClientError, match="evse_pair among its lab_roles; or name pairs"):
        _ = Where(inventory).pairs
    inventory.write_text(INVENTORY.replace("count: 2", "count: 0").replace("count: 1", "count: 0"))
    with pytest.raises(ClientError, match="evse_pair_count is 0"):
        _ = Where(inventory).pairs
