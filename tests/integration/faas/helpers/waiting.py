"""Waiting until a condition is met, by the name that the document of functions gives it."""

from __future__ import annotations

from collections.abc import Callable

from labyard.testing.waiting import wait_until


def wait_for_condition(
    condition_func: Callable[[], object],
    timeout: float = 5,
    interval: float = 0.1,
    error_msg: str | Callable[[], str] = "Condition not met",
) -> None:
    """Wait until `condition_func` gives something true, and look once more when the time is over.

    Seconds. AssertionError with `error_msg`, which may be a function that says what there was instead.
    """
    wait_until(condition_func, error_msg, timeout, pause=interval)
