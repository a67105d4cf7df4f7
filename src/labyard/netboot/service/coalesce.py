"""One piece of work for many callers: who asks while it runs shares the next run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Coalesced(Generic[Item]):
    """Calling it returns after a run that was given the item. A run that fails raises for all who shared it."""

    def __init__(self, work: Callable[[Sequence[Item]], object]) -> None:
        self._work = work
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._waiting: list[tuple[Item, Future[None]]] = []

    def __call__(self, item: Item) -> None:
        mine: Future[None] = Future()
        with self._guard:
            self._waiting.append((item, mine))
        with self._turn:
            if not mine.done():
                self._run()
        mine.result()

    def _run(self) -> None:
        with self._guard:
            taken, self._waiting = self._waiting, []
        try:
            self._work([item for item, _ in taken])
        except Exception as error:
            for _, future in taken:
                future.set_exception(error)
        else:
            for _, future in taken:
                future.set_result(None)
