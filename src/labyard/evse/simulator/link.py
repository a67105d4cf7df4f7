"""The way between controller and member: keeps the order, takes its time, and may break."""

from __future__ import annotations

from random import Random


class Link:
    """Only when things arrive; what they are is the caller's. A message of an older `epoch` is lost."""

    def __init__(self, delay: tuple[float, float], random: Random) -> None:
        self.up = False
        self.epoch = 0
        self.retries = 0
        self.partitioned_until = 0.0
        self.extra = 0.0
        self._delay = delay
        self._random = random
        self._last = [0.0, 0.0]

    def arrival(self, now: float, direction: int) -> float:
        """When a message that is sent now arrives; during a partition after its end, when all is sent again."""
        moment = max(now, self.partitioned_until) + self._random.uniform(*self._delay) + self.extra
        self._last[direction] = max(self._last[direction], moment)
        return self._last[direction]

    def retry_delay(self) -> float:
        delay = min(60.0, 2.0 ** min(self.retries, 6))
        self.retries += 1
        return delay

    def made(self) -> None:
        self.up = True
        self.epoch += 1
        self.retries = 0
        self._last = [0.0, 0.0]

    def broke(self) -> None:
        self.up = False
        self.epoch += 1
