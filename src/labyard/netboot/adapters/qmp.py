"""A client of QEMU's control protocol over a unix socket (QMP, docs/interop/qmp-spec in QEMU's source)."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labyard.core.adapter import AdapterError

Command = tuple[str, Mapping[str, Any]]

RESTART_SECONDS = 3.0  # for a daemon that is not there: its unit brings it back in about one


@dataclass(frozen=True)
class Reply:
    """What a command gave: `error` is the daemon's own text, None when it worked."""

    result: Any = None
    error: str | None = None


class Talk:
    """One conversation with the daemon, which has it with nobody else meanwhile."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        # Not from 1: the reply to a client that was killed goes to the next one.
        self._number = random.randrange(1 << 30)
        self._receive()  # the greeting
        self.do("qmp_capabilities")

    def run(self, *commands: Command) -> list[Reply]:
        """Send commands at once; the daemon runs them in order, whether or not one before fails. One reply for each.

        AdapterError when the daemon goes away or the conversation's time is over.
        """
        # Compact, since the daemon reads its commands byte by byte, at 4 microseconds each.
        numbered = {self._number + i: command for i, command in enumerate(commands)}
        self._number += len(commands)
        lines = [
            json.dumps({"execute": name, "arguments": arguments, "id": number}, separators=(",", ":"))
            for number, (name, arguments) in numbered.items()
        ]
        self._in_time()
        self._connection.sendall("\n".join([*lines, ""]).encode())
        replies: list[Reply] = []
        while len(replies) < len(commands):
            message = self._receive()
            if "event" in message:
                self._events.append(message)
            elif "QMP" in message:  # a daemon that is just starting may greet twice, and then wants to begin anew
                raise ConnectionResetError("it is just starting")
            elif message.get("id") in numbered:
                error = message.get("error", {}).get("desc")
                replies.append(Reply(message.get("return"), error))
        return replies

    def do(self, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run one command that must work. AdapterError with the daemon's text when it does not."""
        reply = self.run((name, arguments or {}))[0]
        if reply.error is not None:
            raise AdapterError(f"qemu-storage-daemon refused {name}: {reply.error}")
        return reply.result

    def wait(self, event: str, **data: str) -> None:
        """Wait for an event of this conversation whose data holds `data`. AdapterError when its time is over."""
        while True:
            for seen in self._events:
                if seen["event"] == event and data.items() <= seen["data"].items():
                    self._events.remove(seen)
                    return
            self._events.append(self._receive())

    def close(self) -> None:
        self._connection.close()

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._in_time()
            part = self._connection.recv(65536)
            if not part:
                raise ConnectionResetError("it closed the connection")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _in_time(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)


class Qmp:
    """Conversations with the daemon behind `path`, from any thread. No connection is kept between them.

    The daemon talks to one client at a time. So a conversation has it alone, among the threads of this process and
    among processes, and what several commands do together needs no other lock. It also means that a daemon that was
    restarted is simply reached again.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        """`timeout`: seconds for a whole conversation, the wait until it is this thread's turn included."""
        self._path = path
        self._timeout = timeout
        self._turn = threading.Lock()

    @contextmanager
    def talk(self, patience: float | None = None) -> Iterator[Talk]:
        """`patience`: seconds to wait for a daemon that is not there, RESTART_SECONDS if not given.

        AdapterError when it is not there, goes away or is too slow, in the conversation too.
        """
        began = time.monotonic()  # counted from here, or those who wait for a turn would add up
        if not self._turn.acquire(timeout=self._timeout):
            raise AdapterError(self._too_slow())
        try:
            patient_until = began + (RESTART_SECONDS if patience is None else patience)
            with closing(self._begin(patient_until, began + self._timeout)) as talk:
                yield talk
        except TimeoutError:
            raise AdapterError(self._too_slow()) from None
        except ConnectionError as error:
            raise AdapterError(f"qemu-storage-daemon ({self._path}) went away: {error}") from error
        finally:
            self._turn.release()

    def _begin(self, patient_until: float, deadline: float) -> Talk:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection.connect(str(self._path))
                return Talk(connection, deadline)
            except BlockingIOError:  # other processes stand in line before us, and the line is full
                connection.close()
                if time.monotonic() > deadline:
                    raise TimeoutError from None
            except TimeoutError:
                connection.close()
                raise
            except OSError as error:  # absent, or there and not ready: it may even hang up before its greeting
                connection.close()
                if time.monotonic() > patient_until:
                    raise AdapterError(
                        f"qemu-storage-daemon does not answer on {self._path} ({error.strerror or error}): "
                        "start the unit that runs it"
                    ) from error
            time.sleep(0.005)

    def _too_slow(self) -> str:
        return (
            f"qemu-storage-daemon did not answer on {self._path} within {self._timeout:g} s: see its unit's journal, "
            "and whether another client holds its socket"
        )
