from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.evse.sharing.alone import own_network
from integration.evse.sharing.pairs import Gateway, Pair

Pairs = Callable[..., list[Pair]]
Gateways = Callable[..., list[Gateway]]


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
def pairs(tmp_path: Path, network: None) -> Iterator[Pairs]:
    """pairs(3): so many, ready."""
    made: list[Pair] = []

    def make(count: int, **env: str) -> list[Pair]:
        new = [Pair(tmp_path / f"pair{len(made) + number}", **env) for number in range(count)]
        made.extend(new)
        for pair in new:
            pair.ready()
        return new

    yield make
    for pair in made:
        pair.close()


@pytest.fixture
def gateways(tmp_path: Path, network: None) -> Iterator[Gateways]:
    """gateways(4): so many, without an EVSE, ready."""
    made: list[Gateway] = []

    def make(count: int, **env: str) -> list[Gateway]:
        new = [Gateway(tmp_path / f"gateway{len(made) + number}", **env) for number in range(count)]
        made.extend(new)
        for gateway in new:
            gateway.ready()
        return new

    yield make
    for gateway in made:
        gateway.stop(signal.SIGKILL)
