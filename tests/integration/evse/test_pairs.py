"""Pairs and their peers, beyond the requirement's 14 tests; with its fixtures, on either backend."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import requests

from integration.evse.peers import discover, hosts_of, peers_of, post_peer, wait_until_all_found
from labyard.testing.evse import Pair, Pairs, Settings
from labyard.testing.waiting import PATIENCE, wait_until

StartPair = Callable[..., Pair]
StartGroup = Callable[[int], list[Pair]]

pytestmark = pytest.mark.timeout(180)

ABSENT = "192.0.2.10"  # nobody answers there (RFC 5737)

only_processes = pytest.mark.skipif(
    Settings.from_environment().backend == "units", reason="more pairs than the role evse_pair has deployed here"
)


def status_of(pair: Pair) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{pair['native_url']}/status", timeout=PATIENCE).json()
    return found


def test_a_pair_says_where_it_is(instance_pair: StartPair) -> None:
    pair, settings = instance_pair(), Settings.from_environment()
    assert pair["native_url"].endswith(f":{pair['native_port']}")
    assert pair["emulator_url"].endswith(f":{pair['emulator_port']}")
    assert (pair["native_port"], pair["emulator_port"], pair["rapi_port"], pair["pty_path"]) == (
        settings.gateway_base_port,
        settings.emulator_base_port,
        settings.rapi_base_port,
        "/tmp/rapi_pty_0",
    )
    with socket.create_connection(("127.0.0.1", pair["rapi_port"]), timeout=PATIENCE) as line:
        line.settimeout(PATIENCE)
        assert line.recv(100).startswith(b"$AB 00 ")


def test_what_happens_at_the_car_is_seen_at_the_gateway(instance_pair: StartPair) -> None:
    pair = instance_pair()
    wait_until(lambda: status_of(pair)["evse_connected"] == 1, "the gateway knows its EVSE")
    for action in ("connect", "request_charge"):
        assert requests.post(f"{pair['emulator_url']}/api/ev/{action}", timeout=PATIENCE).status_code == 200
    wait_until(lambda: status_of(pair)["state"] == 3, "it charges")


def test_two_offsets_one_after_the_other(instance_pair: StartPair) -> None:
    """Each with its own ports and its own identity."""
    pairs = [instance_pair(port_offset=offset) for offset in (1, 3)]
    assert [pair["native_port"] - Settings.from_environment().gateway_base_port for pair in pairs] == [1, 3]
    ids = {requests.get(f"{pair['native_url']}/config", timeout=PATIENCE).json()["wifi_serial"] for pair in pairs}
    assert len(ids) == 2


@only_processes
@pytest.mark.parametrize("port_offset", [9, 10])
def test_far_offsets(instance_pair: StartPair, port_offset: int) -> None:
    pair = instance_pair(port_offset=port_offset)
    assert pair["pty_path"] == f"/tmp/rapi_pty_{port_offset}"
    assert peers_of(pair) == []
    wait_until(lambda: status_of(pair)["evse_connected"] == 1, "the gateway knows its EVSE")


@only_processes
def test_ten_find_each_other(multi_instance_group: StartGroup) -> None:
    pairs = multi_instance_group(10)
    hosts = hosts_of(pairs)
    discover(pairs)
    for pair, peers in zip(pairs, wait_until_all_found(pairs), strict=True):
        online = {peer["host"] for peer in peers if peer["online"]}
        assert online == {host for port, host in hosts.items() if port != pair["native_port"]}


def test_nothing_is_carried_over(evse_pairs: Pairs) -> None:
    (pair,) = evse_pairs.start([0])
    assert post_peer(pair, ABSENT).status_code == 200
    requests.post(f"{pair['native_url']}/config", json={"lang": "de"}, timeout=PATIENCE)
    evse_pairs.stop([0])
    (pair,) = evse_pairs.start([0])
    assert peers_of(pair) == []
    assert requests.get(f"{pair['native_url']}/config", timeout=PATIENCE).json()["lang"] == "en"


@pytest.mark.parametrize("how", ["method", "key"])
def test_a_restart_keeps_the_peers(instance_pair: StartPair, how: str) -> None:
    pair = instance_pair()
    assert post_peer(pair, ABSENT).status_code == 200
    began = time.monotonic()
    if how == "method":
        pair.restart_native()
    else:
        pair["restart_native"]()
    assert [(peer["host"], peer["joined"]) for peer in peers_of(pair)] == [(ABSENT, True)]
    assert status_of(pair)["uptime"] <= time.monotonic() - began + 1


def test_hosts_may_be_percent_encoded(instance_pair: StartPair) -> None:
    pair, host = instance_pair(), "openevse-abcd.local:8001"
    assert post_peer(pair, host).status_code == 200
    url = f"{pair['native_url']}/loadsharing/peers/{quote(host, safe='')}"
    assert "%3A" in url
    assert requests.delete(url, timeout=PATIENCE).json() == {"msg": "done"}
    assert peers_of(pair) == []
    assert requests.delete(url, timeout=PATIENCE).status_code == 404


def test_adding_twice_is_no_error_where_that_is_asked_for(instance_pair: StartPair) -> None:
    pair = instance_pair()
    config = f"{pair['native_url']}/config"
    assert requests.post(config, json={"loadsharing_compat": "idempotent"}, timeout=PATIENCE).json()["msg"] == "done"
    answers = [post_peer(pair, ABSENT, reciprocal=False) for _ in range(2)]
    assert [(answer.status_code, answer.json()["msg"]) for answer in answers] == [
        (200, "done"),
        (200, "already in group"),
    ]
    assert [peer["host"] for peer in peers_of(pair) if not peer["isLocal"]] == [ABSENT]


def test_who_is_removed_stays_listed_while_found(multi_instance_group: StartGroup) -> None:
    pairs = multi_instance_group(2)
    host = hosts_of(pairs)[pairs[1]["native_port"]]
    discover(pairs)
    wait_until_all_found(pairs)
    assert post_peer(pairs[0], host).status_code == 200
    assert post_peer(pairs[0], host).status_code == 400
    assert requests.delete(f"{pairs[0]['native_url']}/loadsharing/peers/{host}", timeout=PATIENCE).status_code == 200
    assert [(peer["host"], peer["joined"]) for peer in peers_of(pairs[0])] == [(host, False)]
