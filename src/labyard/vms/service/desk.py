"""Where the hypervisor's events arrive (contract section 5.4): an operation that waits for them gets its machine's; the
rest are handled one after the other for each machine, and side by side for different ones."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog

from labyard.vms.adapters.hypervisor import DomainEvent, EventKind

log = structlog.get_logger(__name__)

WORKERS = 16
# Seconds that an operation waits for the event of what it has done already.
EVENT_TIMEOUT = 2.0


class Listening:
    """The events of one machine while an operation on it is under way."""

    def __init__(self) -> None:
        self.events: list[DomainEvent] = []
        self.began = threading.Event()
        self.over = threading.Event()

    def wait_start(self, seconds: float = EVENT_TIMEOUT) -> None:
        """Call when the domain was started. That it was is the operation's to record; what comes after is not."""
        self.began.wait(seconds)
        started = next((event for event in self.events if event.kind is EventKind.STARTED), None)
        if started is not None:
            self.events.remove(started)

    def wait_end(self, seconds: float = EVENT_TIMEOUT) -> None:
        """Call when the domain is off. What is known of it until now is the operation's to record."""
        self.over.wait(seconds)
        self.forget()

    def forget(self) -> None:
        self.events.clear()
        self.began.clear()
        self.over.clear()


class Desk:
    """`handle` is set before the first event; it runs in a worker thread, for one machine at a time."""

    handle: Callable[[DomainEvent], None]

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._listening: dict[str, Listening] = {}
        self._queues: defaultdict[str, deque[DomainEvent]] = defaultdict(deque)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="vm-events")
        self._closed = False

    def put(self, event: DomainEvent) -> None:
        """Only queues: the hypervisor calls it in its own thread."""
        with self._guard:
            listening = self._listening.get(event.vm_id)
            if listening is None:
                self._enqueue(event)
                return
            listening.events.append(event)
            (listening.began if event.kind is EventKind.STARTED else listening.over).set()

    @contextmanager
    def listen(self, vm_id: str) -> Iterator[Listening]:
        """The caller holds the machine's lock. Events that the operation did not use up are handled after it."""
        listening = Listening()
        with self._guard:
            self._listening[vm_id] = listening
        try:
            yield listening
        finally:
            with self._guard:
                del self._listening[vm_id]
                for event in listening.events:
                    self._enqueue(event)

    def close(self) -> None:
        with self._guard:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _enqueue(self, event: DomainEvent) -> None:
        if self._closed:
            return
        queue = self._queues[event.vm_id]
        queue.append(event)
        if len(queue) == 1:
            self._pool.submit(self._drain, event.vm_id)

    def _drain(self, vm_id: str) -> None:
        while True:
            with self._guard:
                event = self._queues[vm_id][0]
            try:
                self.handle(event)
            except Exception:
                log.exception("could not handle an event", vm=vm_id, event_kind=event.kind)
            with self._guard:
                queue = self._queues[vm_id]
                queue.popleft()
                if not queue:
                    del self._queues[vm_id]
                    return
