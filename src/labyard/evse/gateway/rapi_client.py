"""RAPI commands and their replies, one at a time: contract 2.1. No I/O: the link gives it bytes and takes its lines.

The controller's 20 ms between two bytes are not looked after: a bridge delivers in lumps, and a line that is cut ends
with the next `$`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from labyard.evse.rapi import SPACE, Checksum, LineReader, decode, encode

MAX_COMMAND = 79  # characters, `$` included
MAX_REPLY = 100  # bytes, `$` included
MAX_TOKENS = 10
QUEUE = 10
TIMEOUT = 0.5  # seconds
SLOW = {"$FK": 35.0}
LOST_AFTER = 3  # timeouts in a row


class Result(IntEnum):
    QUEUE_FULL = -3
    BUFFER_OVERFLOW = -2
    TIMEOUT = -1
    OK = 0
    NK = 1
    INVALID_RESPONSE = 2
    CMD_TOO_LONG = 3
    BAD_CHECKSUM = 4
    BAD_SEQUENCE_ID = 5
    ASYNC_EVENT = 6
    FEATURE_NOT_SUPPORTED = 7
    BLOCKED = -300


@dataclass(frozen=True)
class Reply:
    """`words` come after OK or NK; `text` is the line as it came."""

    result: Result
    words: Sequence[str] = ()
    text: str = ""

    @property
    def ok(self) -> bool:
        return self.result is Result.OK


class RapiClient:
    """`connected` is whether the other end answers: any line sets it, three timeouts in a row or a closed link clear
    it. `results` counts commands by their result."""

    def __init__(self, on_event: Callable[[Sequence[str]], None], on_connected: Callable[[bool], None]) -> None:
        """`on_event` gets the words of an asynchronous line, its name first."""
        self.connected = False
        self.results: Counter[Result] = Counter()
        # Whether commands carry a sequence id, so that a late reply is not taken for that of the next command.
        self.sequenced = False
        self._on_event = on_event
        self._on_connected = on_connected
        self._write: Callable[[bytes], None] | None = None
        self._reader = LineReader(MAX_REPLY)
        # The other end sends checksums: a line without one is a line that has lost it.
        self._checks = False
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._timeouts = 0
        self._sequence = 0x20
        self._expected: str | None = None
        self._pending: asyncio.Future[Reply] | None = None

    @property
    def sent(self) -> int:
        return sum(self.results.values())

    @property
    def succeeded(self) -> int:
        return self.results[Result.OK] + self.results[Result.NK]

    @property
    def doubtful(self) -> bool:
        """The last command got no answer."""
        return self._timeouts > 0

    def attach(self, write: Callable[[bytes], None]) -> None:
        """The link is open."""
        self._reader.clear()
        self._checks = False
        self._write = write

    def detach(self) -> None:
        """The link is closed."""
        self._write = None
        self._complete(Reply(Result.TIMEOUT))
        self._set_connected(False)

    async def send(self, command: str, sequenced: bool = True) -> Reply:
        """Send "$GS", "$SC 16 V", … and wait for the reply, behind at most ten others. It never raises."""
        reply = await self._send(command, sequenced and self.sequenced)
        self.results[reply.result] += 1
        return reply

    async def _send(self, command: str, sequenced: bool) -> Reply:
        if len(command) > MAX_COMMAND:
            return Reply(Result.CMD_TOO_LONG)
        if self._waiting >= QUEUE:
            return Reply(Result.QUEUE_FULL)
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._exchange(command, sequenced)
        finally:
            self._lock.release()

    async def _exchange(self, command: str, sequenced: bool) -> Reply:
        if self._write is None:
            return Reply(Result.TIMEOUT)
        self._expected = self._next_sequence() if sequenced else None
        loop = asyncio.get_running_loop()
        self._pending = loop.create_future()
        alarm = loop.call_later(SLOW.get(command[:3].upper(), TIMEOUT), self._time_out)
        try:
            self._write(encode(*_tokens(command), sequence=self._expected))
            return await self._pending
        finally:
            alarm.cancel()
            self._pending = None

    def received(self, data: bytes) -> None:
        overlong = self._reader.overlong
        for line in self._reader.feed(data):
            self._take(line)
        if self._reader.overlong > overlong:
            self._complete(Reply(Result.BUFFER_OVERFLOW))

    def _take(self, line: bytes) -> None:
        frame = decode(line)
        name = frame.tokens[0] if frame.tokens else ""
        event = name.startswith("A") or name in ("WF", "ST")
        if frame.checksum is Checksum.GOOD:
            self._checks = True
        elif frame.checksum is Checksum.WRONG or self._checks:
            if not event:
                self._complete(Reply(Result.BAD_CHECKSUM))
            return
        self._timeouts = 0
        self._set_connected(True)
        if event:
            self._on_event(frame.tokens[:MAX_TOKENS])
            return
        if name not in ("OK", "NK"):
            self._complete(Reply(Result.INVALID_RESPONSE))
        elif frame.sequence == self._expected:
            result = Result.OK if name == "OK" else Result.NK
            self._complete(Reply(result, frame.tokens[1:MAX_TOKENS], line.decode("latin-1")))
        elif frame.sequence is None:
            self._complete(Reply(Result.BAD_SEQUENCE_ID))
        # else it is late: the reply to a command that was given up

    def _time_out(self) -> None:
        if self._pending is None or self._pending.done():
            return  # the reply came in the same turn of the event loop
        self._complete(Reply(Result.TIMEOUT))
        self._timeouts += 1
        if self._timeouts >= LOST_AFTER:
            self._set_connected(False)

    def _complete(self, reply: Reply) -> None:
        if self._pending is not None and not self._pending.done():
            self._pending.set_result(reply)

    def _set_connected(self, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            self._on_connected(connected)

    def _next_sequence(self) -> str:
        self._sequence = self._sequence % 0xFF + 1  # never 00
        return f"{self._sequence:02X}"


def _tokens(command: str) -> list[str]:
    """Words of a command, without `$`; the text of `$FP x y text` is one word, its spaces kept."""
    command = command.removeprefix("$")
    if command[:3].upper() == "FP ":
        name, *words = command.split(" ", 3)
        return [name, *words[:2], *(word.replace(" ", SPACE) for word in words[2:])]
    return command.split()
