"""Waiting until something is so: look often, end early, and say what was seen last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Raised = type[Exception] | tuple[type[Exception], ...]

# s: a bound, not a measure. What works comes long before it, on a busy machine too.
PATIENCE = 60.0
# s, between two looks: short at first, then a tenth of the time that was waited.
SHORTEST, LONGEST = 0.02, 0.2


def wait_until(
    holds: Callable[[], T | None],
    what: str | Callable[[], str],
    seconds: float = PATIENCE,
    *,
    despite: Raised = (),
    pause: float | None = None,
) -> T:
    """What `holds` returns, as soon as that is true. It is asked once more when the time is over.

    `what` says what is waited for, or, as a function, what there was instead. Exceptions named by `despite` mean
    "not yet"; any other one ends the waiting. `pause` is the time between two looks, s, for what is there for a moment
    only. AssertionError: it was not so within `seconds`; it tells what was seen last.
    """
    wait = _Wait(holds, what, seconds, despite, pause)
    while not wait.is_over():
        time.sleep(wait.pause())
    return wait.result()


async def wait_until_async(
    holds: Callable[[], T | None],
    what: str | Callable[[], str],
    seconds: float = PATIENCE,
    *,
    despite: Raised = (),
    pause: float | None = None,
) -> T:
    """`wait_until`, while the event loop goes on."""
    wait = _Wait(holds, what, seconds, despite, pause)
    while not wait.is_over():
        await asyncio.sleep(wait.pause())
    return wait.result()


class _Wait(Generic[T]):
    def __init__(
        self,
        holds: Callable[[], T | None],
        what: str | Callable[[], str],
        seconds: float,
        despite: Raised,
        pause: float | None,
    ) -> None:
        self._holds, self._what, self._seconds, self._despite, self._pause = holds, what, seconds, despite, pause
        self._begun = time.monotonic()
        self._seen: T | None = None
        self._raised: Exception | None = None

    def is_over(self) -> bool:
        """Looks; whether it is so or this was the last look."""
        late = time.monotonic() >= self._begun + self._seconds
        try:
            self._seen, self._raised = self._holds(), None
        except self._despite as error:
            self._seen, self._raised = None, error
        return bool(self._seen) or late

    def pause(self) -> float:
        if self._pause is not None:
            return self._pause
        return min(LONGEST, max(SHORTEST, (time.monotonic() - self._begun) / 10))

    def result(self) -> T:
        if self._seen:
            return self._seen
        what = self._what if isinstance(self._what, str) else self._what()
        seen = "" if self._seen in (None, False) else f"; last seen: {self._seen!r}"
        if self._raised is not None:
            seen = f"; last raised: {self._raised!r}"
        raise AssertionError(f"not within {self._seconds:g} s: {what}{seen}") from self._raised
