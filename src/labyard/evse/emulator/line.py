"""The serial line: whoever is at its other end (TCP clients, the PTY), and the faults between. Contract 2.5."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from labyard.evse.emulator.command_table import MAX_LINE
from labyard.evse.emulator.link_faults import Direction, FaultLog, FaultPlan
from labyard.evse.rapi import END, LineReader

_MOST_HELD = 1000  # frames that wait in one pipe; more are lost


class Pipe:
    """One direction of one end. Frames that are held back hold those after them: a line keeps the order."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self._deliver = deliver
        self._held: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, frame: bytes, wait: float = 0.0) -> None:
        now = asyncio.get_running_loop().time()
        if not wait and not self._held and self._free_at <= now:
            self._deliver(frame)
        elif len(self._held) < _MOST_HELD:
            self._free_at = max(self._free_at, now + wait)
            self._held.append((self._free_at, frame))
            if self._timer is None:
                self._arm()

    def stall(self, seconds: float) -> None:
        """Nothing comes out for so long. What already waits for its time is not held longer."""
        self._free_at = max(self._free_at, asyncio.get_running_loop().time() + seconds)

    def clear(self) -> None:
        self._held.clear()
        self._free_at = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(self._held[0][0], self._release)

    def _release(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._held and self._held[0][0] <= now:
            self._deliver(self._held.popleft()[1])
        if self._held and self._timer is None:
            self._arm()


class Wire(Protocol):
    """What an end is made of."""

    def write(self, data: bytes) -> None: ...

    def hang_up(self) -> None:
        """Break the connection, as a pulled plug does."""


class End:
    """The other end of the line: one client. Each has its own stream of bytes and its own delays."""

    def __init__(self, line: Line, name: str, wire: Wire) -> None:
        self.name = name
        self.wire = wire
        self._line = line
        self._reader = LineReader(MAX_LINE)
        self.inward = Pipe(lambda frame: line.take(self, frame))
        self.outward = Pipe(wire.write)

    def received(self, data: bytes) -> None:
        for text in self._reader.feed(data):
            self._line.carry(self, "rx", text + END)

    def send(self, frame: bytes) -> None:
        """A frame with its CR, to this end only."""
        self._line.observe(frame)
        self._line.carry(self, "tx", frame)

    def hang_up(self) -> None:
        """Nothing goes through any more, in either direction; not even what came together with the last frame."""
        self._line.detach(self)
        self.wire.hang_up()

    def clear(self) -> None:
        self._reader.clear()
        self.inward.clear()
        self.outward.clear()


class Line:
    """All ends. `take_frame` gets each command, `reboot` is called by the fault of that name, `now` dates the log."""

    def __init__(
        self, take_frame: Callable[[End, bytes], None], reboot: Callable[[], None], now: Callable[[], float]
    ) -> None:
        self._take_frame = take_frame
        self._reboot = reboot
        self._now = now
        self.ends: dict[End, None] = {}  # in the order in which they came
        self.attached = 0  # so often has one come
        self.observers: set[Wire] = set()
        self.faults = FaultPlan()
        self.log = FaultLog()
        self._silent = False

    def attach(self, end: End) -> None:
        self.ends[end] = None
        self.attached += 1

    def detach(self, end: End) -> None:
        self.ends.pop(end, None)
        end.clear()

    def broadcast(self, frame: bytes) -> None:
        self.observe(frame)
        for end in list(self.ends):
            self.carry(end, "tx", frame)

    def hang_up(self) -> None:
        """On all of them."""
        for end in list(self.ends):
            end.hang_up()
        for observer in list(self.observers):
            observer.hang_up()

    def observe(self, frame: bytes) -> None:
        for observer in list(self.observers):
            observer.write(frame)

    def silence(self, silent: bool) -> None:
        """While the controller reboots nothing is read or sent, and what was under way is lost."""
        self._silent = silent
        for end in self.ends:
            end.clear()

    def set_faults(self, plan: FaultPlan) -> None:
        """With a log of its own."""
        self.faults = plan
        self.log.restart()

    def take(self, end: End, frame: bytes) -> None:
        """What came out of a pipe: one command, or two of a duplicate."""
        for text in frame.split(END)[:-1]:
            self.observe(text + END)
            self._take_frame(end, text)

    def carry(self, end: End, direction: Direction, frame: bytes) -> None:
        """Through the faults and into the pipe."""
        if self._silent or end not in self.ends:
            return
        pipe = end.inward if direction == "rx" else end.outward
        wait = 0.0
        if self.faults.rules:
            for rule, fault in self.faults.faults(direction, frame):
                self.log.add(self._now(), end.name, direction, rule, frame, fault)
                frame = fault.frame
                if fault.kind == "delay":
                    wait += fault.delay
                elif fault.kind == "stall":
                    for one in self.ends:
                        one.inward.stall(fault.delay)
                        one.outward.stall(fault.delay)
                elif fault.kind == "disconnect":
                    end.hang_up()
                elif fault.kind == "reboot":
                    self._reboot()
        if frame:
            pipe.put(frame, wait)
