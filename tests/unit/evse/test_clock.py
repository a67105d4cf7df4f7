from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from labyard.evse.clock import Clock, settle
from labyard.testing.waiting import PATIENCE


async def test_a_manual_clock_runs_each_sleeper_at_its_own_time() -> None:
    clock = Clock()
    clock.set("manual", now_s=100.0)
    seen: list[tuple[str, float]] = []

    async def tick(name: str, seconds: float) -> None:
        while True:
            await clock.sleep(seconds)
            seen.append((name, clock.now()))

    tasks = [asyncio.create_task(tick("a", 5)), asyncio.create_task(tick("b", 7))]
    await asyncio.sleep(0)
    await clock.advance(15)
    assert seen == [("a", 105), ("b", 107), ("a", 110), ("b", 114), ("a", 115)]
    assert clock.now() == 115
    for task in tasks:
        task.cancel()


async def test_every_tells_how_long_it_was() -> None:
    clock = Clock()
    clock.set("manual")
    spans: list[float] = []

    async def work(seconds: float) -> None:
        spans.append(seconds)

    start = clock.now()
    task = asyncio.create_task(clock.every(1.0, work))
    await asyncio.sleep(0)
    await clock.advance(3.5)
    assert spans == [1.0, 1.0, 1.0] and clock.now() == start + 3.5
    task.cancel()


async def test_a_scaled_clock_wakes_early_and_a_change_of_pace_counts_at_once() -> None:
    clock = Clock(scale=100.0)
    await asyncio.wait_for(clock.sleep(10), PATIENCE)
    assert clock.now() >= 10
    clock.set("real")
    sleeper = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0)
    clock.set("real", now_s=clock.now() + 4000)
    await asyncio.wait_for(sleeper, PATIENCE)


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    clock = Clock()
    clock.set("manual")
    late, early = (asyncio.create_task(clock.sleep(seconds)) for seconds in (20, 10))
    for _ in range(100):
        with suppress(TimeoutError):
            await asyncio.wait_for(clock.sleep(15), 0)
        gone = asyncio.create_task(clock.sleep(15))
        await settle()
        gone.cancel()
    await settle()
    assert len(clock._sleepers) == 2
    await clock.advance(10)
    assert early.done() and not late.done()
    await clock.advance(10)
    assert late.done()


async def test_refusals() -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="scale must be 1 to 120"):
        clock.set("scaled", 500)
    with pytest.raises(ValueError, match="backwards"):
        clock.set("manual", now_s=-1)
    with pytest.raises(ValueError, match="only a manual clock"):
        await clock.advance(1)
