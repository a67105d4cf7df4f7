"""What tests ask gateways about their peers."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import requests

from labyard.testing.evse import Pair
from labyard.testing.evse.diagnosis import not_discovered

# What each of N gateways has to find the N-1 others, once asked: contract 6.1.
DISCOVERY_SECONDS = 3.0


def peers_of(pair: Pair) -> list[dict[str, Any]]:
    """Its list of peers, which is a bare array."""
    response = requests.get(f"{pair['native_url']}/loadsharing/peers", timeout=10)
    assert response.status_code == 200, response.text
    peers = response.json()
    assert isinstance(peers, list)
    return peers


def post_peer(pair: Pair, host: str, **more: Any) -> requests.Response:
    """Ask to add a peer."""
    return requests.post(f"{pair['native_url']}/loadsharing/peers", json={"host": host} | more, timeout=10)


def discover(pairs: list[Pair]) -> None:
    """Ask all of them to look for the others."""
    for pair in pairs:
        assert requests.post(f"{pair['native_url']}/loadsharing/discover", timeout=10).status_code == 200


def hosts_of(pairs: list[Pair]) -> dict[int, str]:
    """By port, the host that others are to list each of them as."""
    return {pair["native_port"]: f"{_config(pair)['hostname']}.local:{pair['native_port']}" for pair in pairs}


def _config(pair: Pair) -> dict[str, Any]:
    config: dict[str, Any] = requests.get(f"{pair['native_url']}/config", timeout=10).json()
    return config


def wait_until_all_found(pairs: list[Pair], seconds: float = DISCOVERY_SECONDS) -> None:
    """Until each has found as many as there are others. What exactly it lists is for the test to look at."""
    end = time.monotonic() + seconds
    hosts = hosts_of(pairs)
    for pair in pairs:
        while len(found := [peer["host"] for peer in peers_of(pair) if peer["online"]]) < len(pairs) - 1:
            if time.monotonic() > end:
                others = [host for port, host in hosts.items() if port != pair["native_port"]]
                native = bool(os.environ.get("NATIVE_BINARY_PATH"))
                pytest.fail(not_discovered(pair["native_url"], others, found, seconds, native), pytrace=False)
            time.sleep(0.02)
