"""Many callers, few runs: each call is answered by a run that began after it (contract sections 6 and 11.7)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from labyard.core.coalesce import Coalesced
from labyard.testing.waiting import PATIENCE, wait_until

CALLERS = 20


class Work:
    """Counts its runs and what they were given. The first lasts until `go` is set; `fails` names those that raise."""

    def __init__(self, *fails: int) -> None:
        self.runs = 0
        self.given: list[list[int]] = []
        self.fails = fails
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[int]) -> int:
        self.runs += 1
        self.given.append(sorted(items))
        if self.runs == 1:
            self.began.set()
            assert self.go.wait(PATIENCE)
        if self.runs in self.fails:
            raise RuntimeError(f"run {self.runs}")
        return self.runs


def start(work: Work) -> tuple[Coalesced[int, int], ThreadPoolExecutor, list[str]]:
    """One caller runs, all others have asked meanwhile; then the run may end. Returns what each of the others got."""
    shared = Coalesced(work)
    pool = ThreadPoolExecutor(CALLERS + 1)
    first = pool.submit(shared, 0)
    assert work.began.wait(PATIENCE)
    others = [pool.submit(shared, number) for number in range(1, CALLERS + 1)]
    wait_until(lambda: len(shared._waiting) == CALLERS, "all others have asked")
    assert not any(other.done() for other in others), "a run that began before does not count"
    work.go.set()
    outcomes = [str(each.exception(PATIENCE) or each.result()) for each in (first, *others)]
    return shared, pool, outcomes


def test_who_asks_during_a_run_shares_the_next_one() -> None:
    work = Work()
    _, pool, outcomes = start(work)
    pool.shutdown()
    assert outcomes == ["1", *["2"] * CALLERS]
    assert work.given == [[0], list(range(1, CALLERS + 1))]


def test_a_run_that_fails_fails_for_all_who_shared_it_and_for_nobody_else() -> None:
    work = Work(2)
    shared, pool, outcomes = start(work)
    pool.shutdown()
    assert outcomes == ["1", *["run 2"] * CALLERS]
    assert shared(99) == 3


def test_a_failure_does_not_block_those_who_wait() -> None:
    work = Work(1)
    shared, pool, outcomes = start(work)
    pool.shutdown()
    assert outcomes == ["run 1", *["2"] * CALLERS]
    work.fails = (3,)
    with pytest.raises(RuntimeError, match="run 3"):
        shared(99)
