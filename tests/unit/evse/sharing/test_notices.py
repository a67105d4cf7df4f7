"""Peers that are told once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labyard.evse.clock import Clock, settle
from labyard.evse.gateway.storage import Storage
from labyard.evse.sharing.calls import CallError
from labyard.evse.sharing.directory import Directory
from labyard.evse.sharing.network import split_host
from labyard.evse.sharing.notices import RESET, Notices
from labyard.evse.sharing.peers import Peer, PeerBook


class Calls:
    def __init__(self) -> None:
        self.made: list[tuple[str, Any]] = []
        self.works = False

    async def post(self, peer: str, url: str, content: Any, timeout: float) -> dict[str, Any]:
        self.made.append((url, content))
        if not self.works:
            raise CallError("no")
        return {}


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.set("manual")
    return clock


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def peer() -> Peer:
    return Peer("10.0.0.1:8001")


@pytest.fixture
def notices(tmp_path: Path, calls: Calls, clock: Clock) -> Notices:
    book = PeerBook(Storage(tmp_path), Directory, lambda: ["127.0.0.1"], lambda: None)
    return Notices(book, calls, clock)  # type: ignore[arg-type]


async def test_a_removed_peer_is_told_three_times_at_most(
    notices: Notices, calls: Calls, clock: Clock, peer: Peer
) -> None:
    notices.let_go(peer)
    await settle()
    assert calls.made == [("http://10.0.0.1:8001/config", RESET)]
    await clock.advance(60)
    assert len(calls.made) == 3
    calls.works = True
    notices.let_go(peer)
    await settle()
    assert len(calls.made) == 4


async def test_a_peer_that_is_back_is_not_let_go_any_more(
    notices: Notices, calls: Calls, clock: Clock, peer: Peer
) -> None:
    notices.let_go(peer)
    await settle()
    notices.keep(peer.host)
    await clock.advance(60)
    assert len(calls.made) == 1
    notices.keep(peer.host)


async def test_it_is_introduced_once(notices: Notices, calls: Calls, clock: Clock, peer: Peer) -> None:
    notices.introduce(peer, "me.local:8000")
    await settle()
    await clock.advance(60)
    assert calls.made == [("http://10.0.0.1:8001/loadsharing/peers", {"host": "me.local:8000", "reciprocal": False})]
    public = Peer(split_host("8.8.8.8").text)
    notices.introduce(public, "me.local:8000")
    await settle()
    assert len(calls.made) == 1, "it may not be called"
