"""What tests ask gateways about their peers."""

from __future__ import annotations

import os
import time
from typing import Any

import requests

from labyard.testing.evse import Pair
from labyard.testing.evse.diagnosis import not_discovered
from labyard.testing.waiting import PATIENCE, wait_until

# What each of N gateways gets to find the N-1 others, once asked. Contract 6.1 has 3 s, which is for a machine that
# does nothing else.
DISCOVERY_SECONDS = 45.0


def peers_of(pair: Pair) -> list[dict[str, Any]]:
    """Its list of peers, which is a bare array."""
    response = requests.get(f"{pair['native_url']}/loadsharing/peers", timeout=PATIENCE)
    assert response.status_code == 200, response.text
    peers = response.json()
    assert isinstance(peers, list)
    return peers


def post_peer(pair: Pair, host: str, **more: Any) -> requests.Response:
    """Ask to add a peer."""
    return requests.post(f"{pair['native_url']}/loadsharing/peers", json={"host": host} | more, timeout=PATIENCE)


def discover(pairs: list[Pair]) -> None:
    """Ask all of them to look for the others."""
    for pair in pairs:
        assert requests.post(f"{pair['native_url']}/loadsharing/discover", timeout=PATIENCE).status_code == 200


def hosts_of(pairs: list[Pair]) -> dict[int, str]:
    """By port, the host that others are to list each of them as."""
    return {pair["native_port"]: f"{_config(pair)['hostname']}.local:{pair['native_port']}" for pair in pairs}


def _config(pair: Pair) -> dict[str, Any]:
    config: dict[str, Any] = requests.get(f"{pair['native_url']}/config", timeout=PATIENCE).json()
    return config


def wait_until_all_found(pairs: list[Pair], seconds: float = DISCOVERY_SECONDS) -> list[list[dict[str, Any]]]:
    """Until each has found exactly the others. What each listed then: a gateway that stands still may be offline for
    the others at the next look."""
    end = time.monotonic() + seconds
    hosts = hosts_of(pairs)

    def others(pair: Pair) -> list[str]:
        return sorted(host for port, host in hosts.items() if port != pair["native_port"])

    def online(peers: list[dict[str, Any]]) -> list[str]:
        return sorted(peer["host"] for peer in peers if peer["online"])

    def found(pair: Pair) -> list[dict[str, Any]] | None:
        peers = peers_of(pair)
        return peers if online(peers) == others(pair) else None

    def told(pair: Pair) -> str:
        native = bool(os.environ.get("NATIVE_BINARY_PATH"))
        return not_discovered(pair["native_url"], others(pair), online(peers_of(pair)), seconds, native)

    return [
        wait_until(lambda pair=pair: found(pair), lambda pair=pair: told(pair), max(0.0, end - time.monotonic()))
        for pair in pairs
    ]
