"""Time that can run faster, or stand until it is told to go on: contract 8, the virtual clock.

Everything that belongs to the charger (ticks, energy, sessions, heartbeat, rotation) waits on a Clock; sockets do not.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Literal

Mode = Literal["real", "scaled", "manual"]
MAX_SCALE = 120.0


class Clock:
    """Seconds since it was made, as they pass in the lab. For one event loop."""

    def __init__(self, scale: float = 1.0) -> None:
        self.mode: Mode = "real" if scale == 1.0 else "scaled"
        self.scale = scale
        self._base = 0.0  # what it showed when mode or scale changed last
        self._since = time.monotonic()
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._alarm: asyncio.TimerHandle | None = None

    def now(self) -> float:
        if self.mode == "manual":
            return self._base
        return self._base + (time.monotonic() - self._since) * self.scale

    def set(self, mode: Mode, scale: float = 1.0, now_s: float | None = None) -> None:
        """Change the pace from here on. ValueError: the scale is not 1 to 120, or `now_s` lies in the past."""
        if not 1.0 <= scale <= MAX_SCALE:
            raise ValueError(f"scale must be 1 to {MAX_SCALE:g}, not {scale:g}")
        if now_s is not None and now_s < self.now():
            raise ValueError(f"now_s must not lie before {self.now():.3f}: time does not run backwards")
        self._base = self.now() if now_s is None else now_s
        self._since = time.monotonic()
        self.mode, self.scale = mode, scale if mode == "scaled" else 1.0
        self._wake()

    async def advance(self, seconds: float) -> None:
        """Manual mode: go on by `seconds`, letting each sleeper run at its own time. ValueError in another mode."""
        if self.mode != "manual":
            raise ValueError(f"only a manual clock is advanced by hand; this one is {self.mode}")
        if seconds < 0:
            raise ValueError("seconds must not be negative")
        end = self._base + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._base = max(self._base, self._sleepers[0][0])
            self._wake()
            await settle()
        self._base = end

    async def sleep(self, seconds: float) -> None:
        """Wait until that many seconds have passed on this clock."""
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, moment: float) -> None:
        if moment <= self.now():
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sleeper = (moment, next(self._order), done)
        heapq.heappush(self._sleepers, sleeper)
        self._arm()
        try:
            await done
        except asyncio.CancelledError:
            if sleeper in self._sleepers:  # else it would lie here until its moment, which may never come
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)
            raise

    async def every(self, seconds: float, work: Callable[[float], Awaitable[None]]) -> None:
        """Call `work` with the seconds since its last call, each `seconds`, without drift, until cancelled. Calls that
        came too late are not made up for: the next one is told of the longer time."""
        last = self.now()
        due = last + seconds
        while True:
            await self.sleep_until(due)
            moment = self.now()
            await work(moment - last)
            last = moment
            due += seconds * max(1, -(-(moment - due) // seconds))

    def _wake(self) -> None:
        moment = self.now()
        while self._sleepers and self._sleepers[0][0] <= moment:
            done = heapq.heappop(self._sleepers)[2]
            if not done.done():  # cancelled, and not yet told
                done.set_result(None)
        self._arm()

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._sleepers and self.mode != "manual":
            wait = (self._sleepers[0][0] - self.now()) / self.scale
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, wait), self._wake)


async def settle(rounds: int = 20) -> None:
    """Let the tasks that were just woken run on to their next wait."""
    for _ in range(rounds):
        await asyncio.sleep(0)
