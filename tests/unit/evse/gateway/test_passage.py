"""Commands that pass through `/rapi`."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from evse.gateway.rig import Rig
from labyard.evse.gateway.api.rapi import Passage
from labyard.evse.gateway.rapi_client import Result


@pytest.fixture
async def passage(rig: Rig) -> Passage:
    await rig.ready()
    return made(rig)


def made(rig: Rig, *guards: Callable[[str], bool]) -> Passage:
    gateway: Any = SimpleNamespace(manager=rig.manager, rapi_guards=list(guards))
    return Passage(gateway)


async def test_the_timer_is_spoken_for(rig: Rig, passage: Passage) -> None:
    assert (await passage.send("$GD")).text == "$OK 0 0 0 0^20"
    rig.peer.answers["ST"] = "OK"
    await passage.send("$ST 22 0 6 30")
    reply = await passage.send("$GD")
    assert (reply.result, reply.words, reply.text) == (Result.OK, ("22", "0", "6", "30"), "$OK 22 0 6 30^25")
    rig.peer.answers["GD"] = "OK 1 2 3 4"
    assert (await passage.send("$GD")).words == ("1", "2", "3", "4")


async def test_flags_of_old_controllers(rig: Rig, passage: Passage) -> None:
    rig.peer.answers["SD 0"] = "OK"
    assert (await passage.send("$FF D 0")).ok
    assert rig.peer.heard == ["FF D 0", "SD 0", "GE"]


async def test_no_sequence_id_is_shown(rig: Rig, passage: Passage) -> None:
    assert rig.manager.rapi.sequenced
    assert (await passage.send("$GV")).text == "$OK 8.2.1 5.0.1^2F"


async def test_what_it_changed_is_read_again(rig: Rig, passage: Passage) -> None:
    rig.peer.answers |= {"FS": "OK", "GS": "OK FE 0 01 0000"}
    await passage.send("$FS")
    assert rig.evse.state == 254


async def test_a_guard_blocks(rig: Rig) -> None:
    await rig.ready()
    passage = made(rig, lambda command: not command.startswith("$S"))
    assert (await passage.send("$SC 16")).result is Result.BLOCKED
    assert rig.peer.heard == []
    assert (await passage.send("$GV")).ok
