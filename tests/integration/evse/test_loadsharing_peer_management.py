"""Peers of load sharing, over HTTP: found by mDNS, added, removed. The tests of the requirement document.

Each test starts its own pairs of emulator and gateway, and stops them. README.md beside this file says how to run them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from integration.evse.peers import discover, hosts_of, peers_of, post_peer, wait_until_all_found
from labyard.testing.evse import Pair
from labyard.testing.waiting import PATIENCE

StartPair = Callable[..., Pair]
StartGroup = Callable[[int], list[Pair]]

pytestmark = pytest.mark.timeout(60)

# Hosts at which nobody answers (RFC 5737).
ABSENT, ALSO_ABSENT = "192.0.2.10", "192.0.2.11"


class TestPeerManagement:
    """The endpoints below /loadsharing."""

    def test_peers_endpoint_initial_state(self, instance_pair: StartPair) -> None:
        """A gateway that is alone and new knows no peers: a bare, empty list."""
        pair = instance_pair()
        response = requests.get(f"{pair['native_url']}/loadsharing/peers", timeout=PATIENCE)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("application/json")
        assert response.json() == []

    def test_discover_trigger(self, instance_pair: StartPair) -> None:
        """A discovery can be asked for, and the answer does not wait for its end."""
        pair = instance_pair()
        response = requests.post(f"{pair['native_url']}/loadsharing/discover", timeout=PATIENCE)
        assert response.status_code == 200
        assert response.json() == {"msg": "done"}
        assert peers_of(pair) == [], "there is nobody to be found"

    @pytest.mark.parametrize("num_instances", [2, 3, 4])
    def test_peer_discovery_mdns(self, multi_instance_group: StartGroup, num_instances: int) -> None:
        """Each gateway lists exactly the others as online, and as not joined."""
        pairs = multi_instance_group(num_instances)
        hosts = hosts_of(pairs)
        discover(pairs)
        for pair, peers in zip(pairs, wait_until_all_found(pairs), strict=True):
            assert len(peers) == num_instances - 1
            others = {host for port, host in hosts.items() if port != pair["native_port"]}
            assert {peer["host"] for peer in peers} == others
            assert all(peer["online"] is True for peer in peers)
            assert not any(peer["joined"] for peer in peers)

    def test_add_peer_manual(self, multi_instance_group: StartGroup) -> None:
        """A peer that is added is joined at once, found or not."""
        first, second = multi_instance_group(2)
        host = f"127.0.0.1:{second['native_port']}"
        response = post_peer(first, host)
        assert response.status_code == 200
        assert response.json() == {"msg": "done"}
        joined = [peer for peer in peers_of(first) if peer["joined"]]
        assert len(joined) == 1
        assert joined[0]["url"].endswith(f":{second['native_port']}")

    def test_add_peer_duplicate_rejection(self, instance_pair: StartPair) -> None:
        """A peer that is there already is refused, and stays there once."""
        pair = instance_pair()
        assert post_peer(pair, ABSENT).status_code == 200
        again = post_peer(pair, ABSENT)
        assert again.status_code == 400
        assert "already" in again.json()["msg"].lower()
        assert [peer["host"] for peer in peers_of(pair)] == [ABSENT]

    def test_delete_peer(self, instance_pair: StartPair) -> None:
        """A peer that is removed is gone; the other one stays."""
        pair = instance_pair()
        for host in (ABSENT, ALSO_ABSENT):
            assert post_peer(pair, host).status_code == 200
        response = requests.delete(f"{pair['native_url']}/loadsharing/peers/{ABSENT}", timeout=PATIENCE)
        assert response.status_code == 200
        assert response.json() == {"msg": "done"}
        assert [peer["host"] for peer in peers_of(pair)] == [ALSO_ABSENT]

    def test_delete_nonexistent_peer(self, instance_pair: StartPair) -> None:
        """What is not there cannot be removed: 404, with a message."""
        pair = instance_pair()
        response = requests.delete(f"{pair['native_url']}/loadsharing/peers/nobody.local", timeout=PATIENCE)
        assert response.status_code == 404
        assert "not" in response.json()["msg"].lower()

    @pytest.mark.parametrize("num_instances", [2, 3, 4])
    def test_discovered_peers_joined_status(self, multi_instance_group: StartGroup, num_instances: int) -> None:
        """Of those that were found only those that were added are joined."""
        pairs = multi_instance_group(num_instances)
        hosts = hosts_of(pairs)
        discover(pairs)
        wait_until_all_found(pairs)
        first, added = pairs[0], hosts[pairs[1]["native_port"]]
        assert {peer["joined"] for peer in peers_of(first)} == {False}
        assert post_peer(first, added).status_code == 200
        assert {peer["host"]: peer["joined"] for peer in peers_of(first)} == {
            host: host == added for port, host in hosts.items() if port != first["native_port"]
        }


class TestResponseStructure:
    """What answers look like."""

    def test_peers_response_structure(self, multi_instance_group: StartGroup) -> None:
        """Each peer has an id or a name, a host, and says whether it is joined."""
        pairs = multi_instance_group(2)
        assert post_peer(pairs[0], ABSENT).status_code == 200
        discover(pairs)
        peers = wait_until_all_found(pairs)[0]
        assert len(peers) == 2
        for peer in peers:
            assert isinstance(peer.get("id") or peer.get("name"), str)
            assert isinstance(peer["host"], str) and peer["host"]
            assert isinstance(peer["joined"], bool)
            assert isinstance(peer["online"], bool)
        assert {peer["joined"] for peer in peers} == {True, False}

    def test_error_response_structure(self, instance_pair: StartPair) -> None:
        """An error says in words what is wrong."""
        pair = instance_pair()
        response = requests.delete(f"{pair['native_url']}/loadsharing/peers/nobody.local", timeout=PATIENCE)
        assert response.status_code == 404
        body = response.json()
        assert isinstance(body, dict)
        assert any(isinstance(body.get(key), str) and body[key] for key in ("msg", "error"))
