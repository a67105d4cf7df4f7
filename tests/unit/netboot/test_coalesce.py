"""Many callers, few runs: each call is answered by a run that began after it (contract sections 6 and 11.7)."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from labyard.netboot.service.coalesce import Coalesced

CALLERS = 20


class Work:
    """Counts its runs. The first lasts until `go` is set; `fails` names those that raise."""

    def __init__(self, *fails: int) -> None:
        self.runs = 0
        self.fails = fails
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.runs += 1
        if self.runs == 1:
            self.began.set()
            assert self.go.wait(10)
        if self.runs in self.fails:
            raise RuntimeError(f"run {self.runs}")


def start(work: Work) -> tuple[Coalesced, ThreadPoolExecutor, list[str]]:
    """One caller runs, all others have asked meanwhile; then the run may end. Returns what each of the others got."""
    shared = Coalesced(work)
    pool = ThreadPoolExecutor(CALLERS + 1)
    first = pool.submit(shared)
    assert work.began.wait(10)
    others = [pool.submit(shared) for _ in range(CALLERS)]
    deadline = time.monotonic() + 10
    while shared._asked < CALLERS + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(other.done() for other in others), "a run that began before does not count"
    work.go.set()
    outcomes = [str(each.exception(10) or "done") for each in (first, *others)]
    return shared, pool, outcomes


def test_who_asks_during_a_run_shares_the_next_one() -> None:
    work = Work()
    _, pool, outcomes = start(work)
    pool.shutdown()
    assert (work.runs, set(outcomes)) == (2, {"done"})


def test_a_run_that_fails_fails_for_all_who_shared_it_and_for_nobody_else() -> None:
    work = Work(2)
    shared, pool, outcomes = start(work)
    pool.shutdown()
    assert outcomes == ["done", *["run 2"] * CALLERS]
    shared()
    assert work.runs == 3


def test_a_failure_does_not_block_those_who_wait() -> None:
    work = Work(1)
    shared, pool, outcomes = start(work)
    pool.shutdown()
    assert outcomes == ["run 1", *["done"] * CALLERS]
    work.fails = (3,)
    with pytest.raises(RuntimeError, match="run 3"):
        shared()
