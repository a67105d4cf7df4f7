"""One operation at a time on one machine, and on one disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from labyard.core.errors import conflict

PATIENCE = 60.0  # seconds that an operation waits for the one before it
FOREVER = -1.0


class KeyLocks:
    """`what` names the kind of thing in the refusal. Not re-entrant."""

    def __init__(self, what: str, patience: float = PATIENCE) -> None:
        self._what = what
        self._patience = patience
        # A lock lives as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    @contextmanager
    def __call__(self, key: str, patience: float | None = None) -> Iterator[None]:
        """409 when the lock was not to be had in time, or within `patience` seconds where that is given."""
        with self._guard:
            lock = self._locks.setdefault(key, _Lock())
        if not lock.mutex.acquire(timeout=self._patience if patience is None else patience):
            raise conflict(f"{self._what} is busy with another operation")
        try:
            yield
        finally:
            lock.mutex.release()

    def busy(self) -> frozenset[str]:
        """The keys with an operation in flight."""
        with self._guard:
            return frozenset(key for key, lock in self._locks.items() if lock.mutex.locked())


class _Lock:
    def __init__(self) -> None:
        self.mutex = threading.Lock()
