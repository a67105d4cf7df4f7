"""The connection to libvirt: one event loop for the process, and a connection that comes back after it was lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from labyard.core.adapter import AdapterError

KEEPALIVE_SECONDS = 5
KEEPALIVE_COUNT = 3  # missed answers before the connection counts as lost
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 20.0  # what QEMU answers at once takes seconds on a busy host

# Held for calls that take long. While libvirt is busy with five calls of a client (max_client_requests) it has the rest
# wait: nobody who only asks is to wait until ten machines have stopped.
SLOW = threading.BoundedSemaphore(3)

Event = tuple[int, Callable[..., None], object]  # libvirt's number of it, who is told, and what is handed over

_log = logging.getLogger(__name__)
_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


@contextmanager
def asked(call: str) -> Iterator[None]:
    """Turn libvirt's error in the block into an AdapterError `<call> failed: <reason>`."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise AdapterError(f"{call} failed: {error}") from error


def asked_monitor(
    call: str, ask: Callable[[], object], undo: Callable[[], object] = lambda: None, seconds: float | None = None
) -> None:
    """`asked`, for a call that waits for QEMU to answer: libvirt would wait for a frozen one without end.

    AdapterError after `seconds`, or ANSWER_SECONDS. The call cannot be taken back; when QEMU does it later after all,
    `undo` follows.
    """
    seconds = ANSWER_SECONDS if seconds is None else seconds
    answer: Future[None] = Future()

    def run() -> None:
        try:
            ask()
        except Exception as error:
            with suppress(InvalidStateError):
                answer.set_exception(error)
            return
        try:
            answer.set_result(None)
        except InvalidStateError:  # nobody waits any more
            with suppress(libvirt.libvirtError):
                undo()

    threading.Thread(target=run, name=call, daemon=True).start()
    with asked(call):
        try:
            answer.result(seconds)
        except TimeoutError:
            # Not when the answer came just now.
            if answer.cancel():
                raise AdapterError(f"{call} failed: QEMU did not answer within {seconds:g} s") from None
            answer.result()


def _run_loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            _log.exception("libvirt's event loop stumbled")


def _ensure_loop() -> None:
    """Run libvirt's event loop. It belongs to the process, for good, and must be there before a connection."""
    global _loop
    with _loop_lock:
        if _loop is None:
            # Errors reach us as exceptions; by default libvirt prints them on stderr as well.
            libvirt.registerErrorHandler(lambda _context, _error: None, None)
            libvirt.virEventRegisterDefaultImpl()
            _loop = threading.Thread(target=_run_loop, name="libvirt-events", daemon=True)
            _loop.start()


class LibvirtConnection:
    """Shared by the adapters of one libvirt. What `on_connect` and `on_event` were given holds for every connection."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._on_connect: list[Callable[[libvirt.virConnect], None]] = []
        self._events: list[Event] = []
        self._registered: list[int] = []
        self._current: libvirt.virConnect | None = None
        self._lost = threading.Event()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    def on_connect(self, prepare: Callable[[libvirt.virConnect], None]) -> None:
        """Have `prepare` called with every connection made from now on, before it is used."""
        self._on_connect.append(prepare)

    def on_event(self, event: int, tell: Callable[..., None], opaque: Any = None) -> None:
        """Have `tell` called for this event (VIR_DOMAIN_EVENT_ID_…) of every domain."""
        self._events.append((event, tell, opaque))

    def open(self, on_reconnect: Callable[[], None]) -> None:
        """Connect. `on_reconnect` is called, in a thread of ours, each time a lost connection is there again: events
        were missed meanwhile. AdapterError when libvirt is not there now."""
        _ensure_loop()
        self._lost.clear()
        self._closing.clear()
        self._connect()
        self._keeper = threading.Thread(target=self._keep, args=(on_reconnect,), name="libvirt-keeper", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """Let go of the connection; fine when there is none."""
        self._closing.set()
        self._lost.set()
        if self._keeper:
            self._keeper.join()
            self._keeper = None
        self._drop()

    def get(self) -> libvirt.virConnect:
        """The connection. AdapterError while there is none."""
        connection = self._current
        if connection is None or self._lost.is_set():
            raise AdapterError(f"virConnectOpen failed: no connection to {self.uri}")
        return connection

    def _connect(self) -> None:
        with asked("virConnectOpen"):
            connection = libvirt.open(self.uri)
        try:
            with asked("virConnectSetKeepAlive"):
                connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
                connection.registerCloseCallback(self._closed, None)
            with asked("virConnectDomainEventRegisterAny"):
                for event, tell, opaque in self._events:
                    self._registered.append(connection.domainEventRegisterAny(None, event, tell, opaque))
            for prepare in self._on_connect:
                prepare(connection)
        except BaseException:
            self._let_go(connection)
            raise
        self._current = connection

    def _drop(self) -> None:
        connection, self._current = self._current, None
        if connection is not None:
            self._let_go(connection)

    def _let_go(self, connection: libvirt.virConnect) -> None:
        """Close it. What is registered with it would keep it open."""
        registered, self._registered = self._registered, []
        for callback in registered:
            with suppress(libvirt.libvirtError):  # it may be dead already
                connection.domainEventDeregisterAny(callback)
        for let_go in (connection.unregisterCloseCallback, connection.close):
            with suppress(libvirt.libvirtError):
                let_go()

    def _closed(self, connection: libvirt.virConnect, reason: int, _opaque: object) -> None:
        self._lost.set()

    def _keep(self, on_reconnect: Callable[[], None]) -> None:
        while True:
            self._lost.wait()
            if self._closing.is_set():
                return
            _log.warning("lost the connection to libvirt at %s", self.uri)
            self._drop()
            self._lost.clear()
            while self._current is None:
                try:
                    self._connect()
                except AdapterError:
                    if self._closing.wait(RETRY_SECONDS):
                        return
            _log.warning("connected to libvirt at %s again", self.uri)
            on_reconnect()
