"""Many who ask the same at the same time: each is answered by a run that began after he asked."""

from __future__ import annotations

import asyncio

import pytest

from labyard.core.together import Together

CALLERS = 20


class Work:
    """Counts its runs. Each lasts until `go` is set; `fails` names those that raise."""

    def __init__(self, *fails: int) -> None:
        self.runs = 0
        self.fails = fails
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.runs += 1
        mine = self.runs
        await self.go.wait()
        if mine in self.fails:
            raise RuntimeError(f"run {mine}")
        return mine


async def asked(together: Together[int], work: Work, key: str, count: int) -> list[asyncio.Task[int]]:
    """Callers who have asked, and wait."""
    callers = [asyncio.create_task(together(key, work)) for _ in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    return callers


async def test_who_asks_during_a_run_shares_the_next_one() -> None:
    together, work = Together[int](), Work()
    first = await asked(together, work, "a", 2)
    others = await asked(together, work, "a", CALLERS)
    assert work.runs == 1
    work.go.set()
    assert await asyncio.gather(*first, *others) == [1, 1, *[2] * CALLERS]
    assert not together._running and not together._next


async def test_other_questions_have_runs_of_their_own() -> None:
    together, work = Together[int](), Work()
    callers = [*await asked(together, work, "a", 2), *await asked(together, work, "b", 2)]
    work.go.set()
    assert await asyncio.gather(*callers) == [1, 1, 2, 2]


async def test_a_failure_is_theirs_who_shared_it_and_nobody_elses() -> None:
    together, work = Together[int](), Work(1)
    first = await asked(together, work, "a", 2)
    others = await asked(together, work, "a", 2)
    work.go.set()
    outcomes = await asyncio.gather(*first, *others, return_exceptions=True)
    assert [str(each) for each in outcomes] == ["run 1", "run 1", "2", "2"]


async def test_one_who_goes_away_takes_nothing_from_the_others() -> None:
    together, work = Together[int](), Work()
    leaver, stayer = await asked(together, work, "a", 2)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    work.go.set()
    assert await stayer == 1
