"""One piece of work for many callers: who asks while it runs shares the next run."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Coalesced:
    """Calling it returns after a run that began after the call. A run that fails raises for all who shared it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._asked = 0
        self._done = 0
        self._running = False
        self._failures: dict[int, Exception] = {}

    def __call__(self) -> None:
        with self._changed:
            self._asked += 1
            mine = self._asked
            while self._running and self._done < mine:
                self._changed.wait()
            if self._done >= mine:
                return self._outcome(mine)
            self._running = True
            upto = self._asked
        failure: Exception | None = None
        try:
            self._work()
        except Exception as error:
            failure = error
        with self._changed:
            if failure:
                self._failures.update(dict.fromkeys(range(self._done + 1, upto + 1), failure))
            self._done = upto
            self._running = False
            self._changed.notify_all()
            return self._outcome(mine)

    def _outcome(self, ticket: int) -> None:
        if failure := self._failures.pop(ticket, None):
            raise failure
