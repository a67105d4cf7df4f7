"""One piece of work for many callers: who asks while it runs shares the next run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalesced(Generic[Item, Result]):
    """Calling it answers what a run answered that was given the item. A run that fails raises for all who shared it.

    `gather` is called before each run, and may wait for more callers.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Result], gather: Callable[[], object] = lambda: None) -> None:
        self._work = work
        self._gather = gather
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._waiting: list[tuple[Item, Future[Result]]] = []

    def __call__(self, item: Item) -> Result:
        mine: Future[Result] = Future()
        with self._guard:
            self._waiting.append((item, mine))
        with self._turn:
            if not mine.done():
                self._gather()
                self._run()
        return mine.result()

    def _run(self) -> None:
        with self._guard:
            taken, self._waiting = self._waiting, []
        try:
            result = self._work([item for item, _ in taken])
        except Exception as error:
            for _, future in taken:
                future.set_exception(error)
        else:
            for _, future in taken:
                future.set_result(result)
