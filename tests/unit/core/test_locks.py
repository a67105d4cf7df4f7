"""Locks by key."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from labyard.core.errors import ServiceError
from labyard.core.locks import FOREVER, KeyLocks


def elsewhere(locks: KeyLocks[str], key: str, patience: float | None = None) -> None:
    """Hold it for a moment, in another thread."""

    def hold() -> None:
        with locks.hold(key, patience):
            pass

    with ThreadPoolExecutor(1) as other:
        other.submit(hold).result()


def test_patience_ends() -> None:
    locks: KeyLocks[str] = KeyLocks("VM", patience=0.02)
    with locks.hold("web"):
        elsewhere(locks, "other")
        with pytest.raises(ServiceError, match="VM is busy with another operation") as refusal:
            elsewhere(locks, "web")
    assert refusal.value.status == 409
    elsewhere(locks, "web")


def test_a_call_has_a_patience_of_its_own() -> None:
    locks: KeyLocks[str] = KeyLocks()
    with locks.hold("web"), pytest.raises(ServiceError):
        elsewhere(locks, "web", patience=0.02)
    locks = KeyLocks(patience=0.0)
    with ThreadPoolExecutor(1) as other:
        entered = threading.Event()

        def wait_for_it() -> None:
            entered.set()
            with locks.hold("web", FOREVER):
                pass

        with locks.hold("web"):
            waiting = other.submit(wait_for_it)
            entered.wait(10)
        waiting.result()


def test_who_holds_it_may_take_it_again() -> None:
    locks: KeyLocks[int] = KeyLocks(patience=0.0)
    with locks.hold(1), locks.hold(1):
        pass


def test_busy_are_those_in_use_and_nothing_is_kept_of_the_past() -> None:
    locks: KeyLocks[str] = KeyLocks()
    with locks.hold("web"), locks.hold("other"), locks.hold("web"):
        assert locks.busy() == {"web", "other"}
    with pytest.raises(KeyError), locks.hold("web"):
        raise KeyError
    assert locks.busy() == frozenset()


def test_one_at_a_time() -> None:
    locks: KeyLocks[str] = KeyLocks()
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with locks.hold("web"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()
    assert (most, locks.busy()) == (1, frozenset())
