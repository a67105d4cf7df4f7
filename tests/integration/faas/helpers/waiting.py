"""Waiting for what takes its time: look often, end early, and say what was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for_condition(
    condition_func: Callable[[], object],
    timeout: float = 5,
    interval: float = 0.1,
    error_msg: str | Callable[[], str] = "Condition not met",
) -> None:
    """Wait until `condition_func` gives something true, and look once more when the time is over.

    Seconds. AssertionError with `error_msg`, which may be a function that says what there was instead.
    """
    deadline = time.monotonic() + timeout
    while not condition_func():
        if time.monotonic() > deadline:
            what = error_msg if isinstance(error_msg, str) else error_msg()
            raise AssertionError(f"{what} (within {timeout:g} s)")
        time.sleep(interval)
