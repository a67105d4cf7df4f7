"""One at a time for each key."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from labyard.core.errors import conflict

FOREVER = -1.0

K = TypeVar("K", bound=Hashable)


@dataclass
class _Held:
    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 0  # that hold it or wait for it


class KeyLocks(Generic[K]):
    """Locks of this process, made as they are asked for; nothing is kept of a key that nobody uses. Re-entrant.

    `what` names the kind of thing in the refusal, `patience` is how many seconds somebody waits for the one before.
    """

    def __init__(self, what: str = "This", patience: float = FOREVER) -> None:
        self._what = what
        self._patience = patience
        self._held: dict[K, _Held] = {}
        self._guard = threading.Lock()

    @contextmanager
    def hold(self, key: K, patience: float | None = None) -> Iterator[None]:
        """409 when it was not to be had in time, or within `patience` seconds where that is given."""
        with self._guard:
            held = self._held.setdefault(key, _Held())
            held.users += 1
        try:
            if not held.lock.acquire(timeout=self._patience if patience is None else patience):
                raise conflict(f"{self._what} is busy with another operation")
            try:
                yield
            finally:
                held.lock.release()
        finally:
            with self._guard:
                held.users -= 1
                if not held.users:
                    del self._held[key]

    def busy(self) -> frozenset[K]:
        """The keys that somebody holds or waits for."""
        with self._guard:
            return frozenset(self._held)
