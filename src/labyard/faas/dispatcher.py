"""Functions' listeners, and who may be served now: slots of the function and of all, first come first served.

One thread accepts and decides; nothing in it waits for anybody. Contract sections 7 and 8.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress

from labyard.faas.call import Call
from labyard.faas.log import log

BACKLOG = 1024
MOST_WAITING = 1024
RETRY = 10.0  # s until a listener is tried again that could not be opened
PAUSE = 0.1  # s without accepting when the daemon is out of descriptors


class Dispatcher:
    """`launch` takes a call that has a slot and must not block; `done` gives the slot back. `limit` is a function's."""

    def __init__(
        self,
        port: int,
        total: int,
        queue_timeout: float,
        launch: Callable[[Call], None],
        turn_away: Callable[[Call, str, int, str], None],
        limit: Callable[[str], int],
    ) -> None:
        self._port, self._total, self._queue_timeout = port, total, queue_timeout
        self._launch, self._turn_away, self._limit = launch, turn_away, limit
        self._lock = threading.RLock()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._listeners: dict[str, socket.socket] = {}
        self._names: dict[int, str] = {}
        self._closed: dict[str, tuple[str, float, str]] = {}  # name: address, when to try again, why it failed
        self._waiting: deque[Call] = deque()
        self._at_work: Counter[str] = Counter()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Accept no more; what waits is turned away."""
        with self._lock:
            self._stopped = True
            for name in list(self._listeners):
                self.unlisten(name)
            self._closed.clear()
            while self._waiting:
                self._turn_away(self._waiting.popleft(), "stopping", 503, "the daemon is stopping")
        self._poke()
        self._thread.join()

    def listen(self, name: str, ip: str) -> str:
        """Listen for a function. Empty text, or why it cannot be; then it is tried again every ten seconds."""
        with self._lock:
            if self._stopped:
                return "the daemon is stopping"
            if name in self._listeners:
                return ""
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Inherited by the connections: a handler's two small writes must not wait for each other.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                listener.bind((ip, self._port))
                listener.listen(BACKLOG)
            except OSError as error:
                listener.close()
                reason = f"cannot listen on {ip}:{self._port}: {error.strerror}"
                if self._closed.get(name, ("", 0, ""))[2] != reason:
                    log("listener", f"{name}: {reason}")
                self._closed[name] = (ip, time.monotonic() + RETRY, reason)
                self._poke()
                return reason
            self._closed.pop(name, None)
            self._listeners[name] = listener
            self._names[listener.fileno()] = name
            self._epoll.register(listener.fileno(), select.EPOLLIN)
        log("listener", f"Listening on {ip}:{self._port} for {name}")
        return ""

    def unlisten(self, name: str) -> None:
        """Listen no more; absent is fine. Calls that wait are served still."""
        with self._lock:
            self._closed.pop(name, None)
            listener = self._listeners.pop(name, None)
            if listener:
                del self._names[listener.fileno()]
                self._epoll.unregister(listener.fileno())
                listener.close()

    def listening(self) -> dict[str, str]:
        """Functions that are listened for, and where."""
        with self._lock:
            return {name: listener.getsockname()[0] for name, listener in self._listeners.items()}

    def not_listening(self) -> dict[str, str]:
        """Functions that are not, and why."""
        with self._lock:
            return {name: reason for name, (_, _, reason) in self._closed.items()}

    def state(self) -> dict[str, int]:
        with self._lock:
            return {"at_work": self._at_work.total(), "waiting": len(self._waiting)}

    def busy(self) -> bool:
        return bool(self._waiting)

    def has_requests(self, name: str) -> bool:
        """Is a call of this function at work, or waiting?"""
        with self._lock:
            return bool(self._at_work[name]) or any(call.function == name for call in self._waiting)

    def at_work(self, name: str) -> int:
        with self._lock:
            return self._at_work[name]

    def done(self, call: Call) -> None:
        """A call has been served: its slot is free."""
        with self._lock:
            self._at_work[call.function] -= 1
            if not self._at_work[call.function]:
                del self._at_work[call.function]
            if self._waiting:
                self._poke()

    def _poke(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        while not self._stopped:
            events = self._epoll.poll(self._pause())
            try:
                with self._lock:
                    self._handle([descriptor for descriptor, _ in events])
            except Exception as error:  # one request's trouble must not end this thread, which is every function's
                log("listener", f"{type(error).__name__}: {error}")
        self._epoll.close()
        os.close(self._wake)

    def _handle(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            elif descriptor in self._names:
                self._accept(self._names[descriptor], self._listeners[self._names[descriptor]])
            else:
                self._gone(descriptor)
        self._expire()
        self._serve_waiting()
        self._retry()

    def _pause(self) -> float | None:
        """Seconds until something is due; None for nothing."""
        with self._lock:
            due = [when for _, when, _ in self._closed.values()]
            if self._waiting:
                due.append(self._waiting[0].accepted + self._queue_timeout)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _accept(self, name: str, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                connection, (client, _) = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log("listener", f"{name}: cannot accept: {error.strerror}")
                time.sleep(PAUSE)
                return
            call = Call(connection, name, client)
            if len(self._waiting) >= MOST_WAITING:
                self._turn_away(call, "no_slot", 503, "too many requests wait")
            elif not self._has_slot(name) or any(other.function == name for other in self._waiting):
                self._waiting.append(call)
                self._epoll.register(connection.fileno(), select.EPOLLRDHUP | select.EPOLLHUP)
            else:
                self._go(call)

    def _has_slot(self, name: str) -> bool:
        return self._at_work.total() < self._total and self._at_work[name] < self._limit(name)

    def _go(self, call: Call) -> None:
        self._at_work[call.function] += 1
        self._launch(call)

    def _serve_waiting(self) -> None:
        """In order; a function that has no slot holds up only its own."""
        full: set[str] = set()
        for call in list(self._waiting):
            if self._at_work.total() >= self._total:
                return
            if call.function in full:
                continue
            if self._has_slot(call.function):
                self._leave(call)
                self._go(call)
            else:
                full.add(call.function)

    def _expire(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0].accepted + self._queue_timeout <= now:
            call = self._waiting[0]
            self._leave(call)
            self._turn_away(call, "no_slot", 503, f"no free slot within {self._queue_timeout:g} s")

    def _gone(self, descriptor: int) -> None:
        """A client that waits has closed, or its side of it: no container is started for it."""
        for call in self._waiting:
            if call.sock.fileno() == descriptor:
                self._leave(call)
                self._turn_away(call, "client_gone", 503, "the client closed its side while it waited for a slot")
                return
        with suppress(OSError):
            self._epoll.unregister(descriptor)

    def _leave(self, call: Call) -> None:
        self._waiting.remove(call)
        self._epoll.unregister(call.sock.fileno())

    def _retry(self) -> None:
        now = time.monotonic()
        for name, (ip, when, _) in list(self._closed.items()):
            if when <= now:
                self.listen(name, ip)
