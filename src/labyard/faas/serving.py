"""One request served by one container, and what the client sees when that fails (contract sections 8 and 9)."""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from labyard.faas.call import Call
from labyard.faas.container import Container, Place
from labyard.faas.errors import FaasError
from labyard.faas.limits import Limits
from labyard.faas.lingering import Lingering
from labyard.faas.log import log
from labyard.faas.registry import Function
from labyard.faas.stats import Record, Stats
from labyard.faas.wire import json_reply

STARTING = 20.0  # s that the runtime may take
TICK = 0.02  # s between two looks whether the handler has sent something
LEAVING = 5.0  # s that a handler has to end after it has let go of its connection
SHOWN_OUTPUT = 2000  # characters of a container's output in the log


@dataclass(frozen=True)
class Order:
    """What to run for a function: as it was registered when the request came."""

    function: Function
    limits: Limits
    rootfs: Path


@dataclass(frozen=True)
class Outcome:
    """`result` for the log and counters; a status and text when the daemon has to answer itself."""

    result: str
    status: int = 0
    detail: str = ""


class Server:
    """Serves calls. `containers` are those at work, parked ones too."""

    def __init__(self, place: Place, stats: Stats, lingering: Lingering) -> None:
        self.place = place
        self._stats = stats
        self._lingering = lingering
        self._lock = threading.Lock()
        self._containers: set[Container] = set()
        self._starting = threading.BoundedSemaphore(2 * (os.cpu_count() or 1))
        self._stop_at: float | None = None  # when those at work are killed

    @property
    def containers(self) -> list[Container]:
        with self._lock:
            return list(self._containers)

    def stop(self, at: float) -> None:
        """From now on nothing starts, and what is at work is killed at that time of the monotonic clock."""
        self._stop_at = at
        for container in self.containers:
            container.wake()

    def make(self, order: Order, parked: bool) -> Container:
        """A container that is known to be at work; `discard` ends it."""
        container = Container(self.place, order.function, order.limits, order.rootfs, parked)
        with self._lock:
            self._containers.add(container)
        return container

    def discard(self, container: Container) -> None:
        try:
            container.close()
        finally:
            with self._lock:
                self._containers.discard(container)

    def serve(self, call: Call, order: Order) -> None:
        """Serve a call with a container of its own."""
        container = None
        try:
            container = self.make(order, parked=False)
            outcome = self.await_handler(container) or self._exchange(container, call)
            self._finish(container, call, outcome, warm=False)
        except Exception as error:
            self._broken(call, error)
        finally:
            if container:
                self.discard(container)

    def serve_parked(self, container: Container, call: Call) -> bool:
        """Serve a call with a parked handler. False when it was dead at the handoff: then the call is as it was."""
        try:
            container.hand_over(call.sock)
        except OSError:
            return False
        try:
            outcome = self._outcome(container, call)
            if outcome.status and container.unread:
                return False
            self._finish(container, call, outcome, warm=True)
        except Exception as error:
            self._broken(call, error)
        return True

    def await_handler(self, container: Container) -> Outcome | None:
        """Start a container and wait until its handler connects. None when it has, else why not."""
        allowed = self.place.settings.connect_timeout
        try:
            deadline = self._start(container) + allowed
            while container.waited_for:
                left = self._left(deadline)
                if left <= 0:
                    break
                container.step(left)
        except (OSError, ValueError, FaasError) as error:
            return Outcome("start_failed", 502, f"the container could not be started: {error}")
        if container.peer is not None:
            return None
        if container.ended:
            return self._ended_without_answer(container)
        if self._stopping():
            return Outcome("stopping", 503, "the daemon is stopping")
        return Outcome("not_connected", 504, f"handler did not connect within {allowed:g} s")

    def _start(self, container: Container) -> float:
        """Start a container; when its process began to run, of the monotonic clock.

        A few at a time: of sixty that share two cores each would take as long as all of them together, and be late.
        What the runtime takes is not the handler's time. After that the place is kept for as long again, in which a
        handler connects; no longer, because one that never does must not hold up the others.
        """
        with self._starting:
            began = time.monotonic()
            if self._stop_at is not None and self._stop_at <= began:
                return -math.inf
            container.start()
            while container.starting and (left := self._left(began + STARTING)) > 0:
                container.step(left)
            running = time.monotonic()
            while container.waited_for and (left := self._left(running + running - began)) > 0:
                container.step(left)
        return running

    def _exchange(self, container: Container, call: Call) -> Outcome:
        """Hand the connection over, and wait for what becomes of it."""
        try:
            container.hand_over(call.sock)
        except OSError:
            # It let go of /control.sock. Mostly it is about to end, and then its exit code says more.
            deadline = time.monotonic() + LEAVING
            while not container.ended and (left := self._left(deadline)) > 0:
                container.step(left)
            container.kill()
            return self._ended_without_answer(container)
        return self._outcome(container, call)

    def _outcome(self, container: Container, call: Call) -> Outcome:
        """Wait for the end of the container, which has the connection. Our copy of it is used to see what was sent."""
        allowed = container.limits.timeout
        deadline = time.monotonic() + allowed
        answered = False
        while not container.ended:
            left = self._left(deadline)
            if left <= 0:
                break
            container.step(left if answered and container.let_go() else min(left, TICK))
            # Once something was sent our copy goes, so that an answer ends when the handler closes it.
            if not answered and not container.ended and call.answered():
                answered = True
                call.sock.close()
        late = not container.ended
        if late:
            container.kill()
        if answered or call.answered():
            return Outcome("cut_off" if late else "ok")
        if late and self._stopping():
            return Outcome("stopping", 503, "the daemon is stopping")
        if late:
            return Outcome("timeout", 504, f"handler exceeded {allowed:g} s")
        if container.exit_code == 0:
            return Outcome("empty")
        return self._ended_without_answer(container)

    def _ended_without_answer(self, container: Container) -> Outcome:
        if container.start_error:
            return Outcome("start_failed", 502, container.start_error)
        when = "without an answer" if container.connected else "before it connected"
        detail = f"handler exited with code {container.exit_code} {when}"
        if container.out_of_memory:
            return Outcome("out_of_memory", 502, f"{detail}: out of memory")
        return Outcome("exited", 502, detail)

    def _broken(self, call: Call, error: Exception) -> None:
        """A mistake of ours. The client still gets an answer."""
        log("request", f"{call.function} {call.id}: {type(error).__name__}: {error}")
        if call.sock.fileno() >= 0:
            self.turn_away(call, "internal_error", 500, "the daemon failed; its log says why")

    def _finish(self, container: Container, call: Call, outcome: Outcome, warm: bool) -> None:
        if outcome.status:
            self.refuse(call, outcome.status, outcome.detail)
        else:
            call.sock.close()
        code = container.exit_code
        if code is not None:
            log("request", f"Container exited with code {code}")
        output = container.output.text()
        if output.strip():
            log("request", f"Container stderr: {output.strip()[-SHOWN_OUTPUT:]}")
        self._record(call, outcome.result, outcome.status, warm, code, output)

    def turn_away(
        self, call: Call, result: str, status: int, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        """Answer a call that no container is started for."""
        self.refuse(call, status, detail, headers)
        self._record(call, result, status, False, None, "")

    def refuse(self, call: Call, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        log("request", f"{call.function} {call.id} from {call.client}: {status} {detail}")
        body = {"detail": detail, "function": call.function, "request_id": call.id}
        self._lingering.answer(call.sock, json_reply(status, body, detail, headers))

    def _record(self, call: Call, result: str, status: int, warm: bool, code: int | None, output: str) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ms = round(call.milliseconds(), 2)
        self._stats.add(call.function, Record(call.id, when, call.client, result, status, ms, warm, code, output))

    def _stopping(self) -> bool:
        return self._stop_at is not None

    def _left(self, deadline: float) -> float:
        """Seconds until the deadline, or until the daemon's drain ends."""
        return min(deadline, self._stop_at or deadline) - time.monotonic()
