"""The host's end of the agent's port."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from labyard.testing.vm.errors import VMError
from labyard.testing.vm.guest.frames import CHUNK, Frames, pack

if TYPE_CHECKING:
    from labyard.testing.vm.guest.frames import Header

HELLO_AGAIN = 1.0  # s; what is sent while the guest boots may get lost
CLOCK_SECONDS, CLOCK_TRIES = 0.5, 10  # by how much the guest's clock may be late, and how often that is tried
CALL_SECONDS = 60.0  # for verbs that take no time of their own


class Call:
    """One request, and what has come for it so far."""

    def __init__(self, key: int, keep: int | None) -> None:
        self.key = key
        self.streams: dict[str, bytearray] = {}
        self.reply: Header = {}
        self.failure: VMError | None = None
        self.answered = threading.Event()  # the first answer that is not output
        self.ended = threading.Event()
        self._keep = keep

    def take(self, header: Header, payload: bytes) -> None:
        """A frame for this call; from the reading thread only."""
        if stream := header.get("stream"):
            kept = self.streams.setdefault(stream, bytearray())
            kept += payload
            if self._keep is not None and len(kept) > self._keep:
                del kept[: len(kept) - self._keep]
            return
        self.reply.update(header)
        self.answered.set()
        if header.get("end"):
            self.ended.set()

    def fail(self, failure: VMError) -> None:
        self.failure = failure
        self.answered.set()
        self.ended.set()

    def output(self, stream: str) -> bytes:
        """What has come on a stream; all of it, or what is kept of it."""
        return bytes(self.streams.get(stream, b""))

    def check(self) -> Header:
        """The reply. VMError: the VM is gone. OSError: the guest's own, such as FileNotFoundError."""
        if self.failure:
            raise self.failure
        if "error" in self.reply:
            number, text = self.reply.get("errno"), self.reply["error"]
            raise OSError(number, text) if number else VMError(f"the VM's agent: {text}")
        return self.reply


class Agent:
    """Speaks with the agent. Any number of threads may use it, any number of calls may be under way."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._keys = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()  # of the calls
        self._sending = threading.Lock()
        self._gone: VMError | None = None
        self._nonce = secrets.token_hex(16)
        self._greeted = False
        threading.Thread(target=self._read, name="labyard-vm-agent", daemon=True).start()

    def hello(self, seconds: float) -> Header:
        """Wait for the agent, and set the guest's clock and random numbers. VMError: it is silent, or the VM ended."""
        end = time.monotonic() + seconds
        call = self._new(keep=None, key=0)
        while not call.ended.is_set():
            if (left := end - time.monotonic()) <= 0:
                raise VMError(f"the agent in the VM was silent for {seconds:g} s")
            self._send({"id": 0, "verb": "hello", "nonce": self._nonce})
            call.ended.wait(min(HELLO_AGAIN, left))
        reply = call.check()
        for _ in range(CLOCK_TRIES):
            began = time.monotonic()
            self.ask("settime", payload=secrets.token_bytes(64), time=time.time_ns())
            if time.monotonic() - began < CLOCK_SECONDS:
                break  # else the guest stood still on the way, and its clock is late by that
        return reply

    def start(self, verb: str, payload: bytes = b"", keep: int | None = None, **header: Any) -> Call:
        """Send a request and do not wait. `keep`: bytes of each stream to keep, its end; None: all."""
        call = self._new(keep)
        self._send({"id": call.key, "verb": verb, **header}, payload)
        return call

    def ask(self, verb: str, payload: bytes = b"", seconds: float = CALL_SECONDS, **header: Any) -> Header:
        """Send a request and wait for its end. VMError: none came in time; otherwise as Call.check."""
        return self.wait(self.start(verb, payload, **header), verb, seconds)

    def wait(self, call: Call, verb: str, seconds: float = CALL_SECONDS) -> Header:
        """The end of a call."""
        if not call.ended.wait(seconds):
            raise VMError(f"the agent in the VM did not answer {verb} within {seconds:g} s")
        return call.check()

    def feed(self, call: Call, data: bytes) -> None:
        """The input of a command, all of it."""
        for piece, more in pieces(data):
            if call.ended.is_set():
                return
            self._send({"id": call.key, "verb": "input", "more": more}, piece)

    def write(self, path: str, data: bytes, mode: int) -> Header:
        """Put a file into the guest; what it is there: inode, size, ctime, mode."""
        call = self._new(keep=None)
        first: Header = {"path": path, "mode": mode}
        for piece, more in pieces(data):
            if call.ended.is_set():
                break
            self._send({"id": call.key, "verb": "write", "more": more, **first}, piece)
            first = {}
        return self.wait(call, "write", CALL_SECONDS + len(data) / 1e6)

    def close(self) -> None:
        """Hang up. What is under way fails."""
        with contextlib.suppress(OSError):  # QEMU was first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _new(self, keep: int | None, key: int | None = None) -> Call:
        with self._lock:
            if self._gone:
                raise self._gone
            call = Call(next(self._keys) if key is None else key, keep)
            self._calls[call.key] = call
            return call

    def _send(self, header: Header, payload: bytes | memoryview = b"") -> None:
        try:
            with self._sending:
                self._connection.sendall(pack(header, payload))
        except OSError as error:
            raise self._gone or VMError(f"the VM is gone: {error}") from error

    def _read(self) -> None:
        frames = Frames()
        reason = "it has ended"
        while True:
            try:
                data = self._connection.recv(1 << 18)
            except OSError as error:
                reason = str(error)
                break
            if not data:
                break
            for header, payload in frames.feed(data):
                self._dispatch(header, payload)
        with self._lock:
            self._gone = VMError(f"the VM is gone: {reason}")
            calls = list(self._calls.values())
            self._calls.clear()
        for call in calls:
            call.fail(self._gone)

    def _dispatch(self, header: Header, payload: bytes) -> None:
        if not self._greeted:
            # Answers to an earlier host, of before the snapshot.
            if header.get("nonce") != self._nonce:
                return
            self._greeted = True
        with self._lock:
            call = self._calls.get(header.get("id", -1))
            if call and header.get("end"):
                del self._calls[call.key]
        if call:
            call.take(header, payload)


def pieces(data: bytes) -> list[tuple[memoryview, bool]]:
    """Data cut for frames, each piece with whether more follow. No data is one empty piece."""
    view = memoryview(data)
    starts = range(0, max(len(view), 1), CHUNK)
    return [(view[start : start + CHUNK], start + CHUNK < len(view)) for start in starts]
