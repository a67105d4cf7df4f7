"""What tests ask gateways about their peers."""

from __future__ import annotations

import os
import time
from typing import Any

import requests

from labyard.testing.evse import Pair
from labyard.testing.evse.diagnosis import not_discovered
from labyard.testing.waiting import PATIENCE, wait_until

# What each of N gateways has to find the N-1 others, once asked: contract 6.1.
DISCOVERY_SECONDS = 3.0


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


def wait_until_all_found(pairs: list[Pair], seconds: float = DISCOVERY_SECONDS) -> None:
    """Until each has found as many as there are others. What exactly it lists is for the test to look at."""
    end = time.monotonic() + seconds

    def online(pair: Pair) -> list[str]:
        return [peer["host"] for peer in peers_of(pair) if peer["online"]]

    def told(pair: Pair) -> str:
        others = [host for port, host in hosts_of(pairs).items() if port != pair["native_port"]]
        native = bool(os.environ.get("NATIVE_BINARY_PATH"))
        return not_discovered(pair["native_url"], others, online(pair), seconds, native)

    for pair in pairs:
        left = max(0.0, end - time.monotonic())
        wait_until(lambda pair=pair: len(online(pair)) >= len(pairs) - 1, lambda pair=pair: told(pair), left)
