"""One answer for all who ask the same at the same time, on the event loop. For threads there is `coalesce`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """Who asks while an answer is made shares the next one: nobody gets what was read before he asked."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[T]] = {}
        self._next: dict[Hashable, asyncio.Task[T]] = {}

    async def __call__(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` answers, ours or that of another who asked with this `key`. Raises what it raised."""
        if key not in self._next:
            self._next[key] = asyncio.create_task(self._run(key, self._running.get(key), work))
        # One who goes away does not end it for the others.
        return await asyncio.shield(self._next[key])

    async def _run(self, key: Hashable, before: asyncio.Task[T] | None, work: Callable[[], Awaitable[T]]) -> T:
        if before is not None:
            await asyncio.wait([before])
        mine = self._running[key] = self._next.pop(key)
        try:
            return await work()
        finally:
            if self._running[key] is mine:
                del self._running[key]
