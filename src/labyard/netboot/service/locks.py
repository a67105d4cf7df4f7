"""One thing at a time for each machine."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class MachineLocks:
    """Work on one machine is done one thing at a time within this process; the database decides between processes."""

    def __init__(self) -> None:
        self._locks: defaultdict[int, threading.RLock] = defaultdict(threading.RLock)
        self._guard = threading.Lock()

    @contextmanager
    def __call__(self, machine_id: int) -> Iterator[None]:
        with self._guard:
            lock = self._locks[machine_id]
        with lock:
            yield
