"""One container of a function: its bundle, its socket, its output, its end (contract section 8).

Whoever makes one drives it with `step` and ends it with `close`. All waiting is one poll: the container's output, its
socket, the runtime's call, the process itself, and `wake`.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labyard.faas.adapters.bundle import make_config
from labyard.faas.adapters.cgroups import Cgroups
from labyard.faas.adapters.runtime import Runtime, last_line
from labyard.faas.children import exit_code_of
from labyard.faas.errors import RuntimeFailure
from labyard.faas.limits import Limits
from labyard.faas.log import log
from labyard.faas.names import new_container_id
from labyard.faas.registry import Function
from labyard.faas.ring import Ring
from labyard.faas.settings import Settings

HANDOFF = b"SOCKET"
FINISHING = 1.0  # s that the runtime's call has to end after the process that it started has connected
REMOVING = 10.0  # s that its removal is tried
AGAIN = 0.2
REQUEST_SOCKETS = Path("/tmp")


@dataclass(frozen=True)
class Place:
    """What containers are made with."""

    settings: Settings
    runtime: Runtime
    cgroups: Cgroups


class Container:
    """`peer` is the handler's connection while it has one; `ended` and `exit_code` tell of its process."""

    def __init__(self, place: Place, function: Function, limits: Limits, rootfs: Path, parked: bool) -> None:
        self.id = new_container_id()
        self.function = function
        self.limits = limits
        self.output = Ring()
        self.peer: socket.socket | None = None
        self.connected = False
        self.unread = False
        self.frozen = False
        self.ended = False
        self.exit_code: int | None = None
        self.start_error = ""
        self.out_of_memory = False
        self.pid = 0
        self._place = place
        self._rootfs = rootfs
        settings = place.settings
        self.bundle = (settings.warm if parked else settings.bundles) / self.id
        self.socket_path = self.bundle / "sock" if parked else REQUEST_SOCKETS / f"{new_container_id()}.sock"
        self._listener: socket.socket | None = None
        self._call: subprocess.Popen[bytes] | None = None
        self._callfd = self._pidfd = self._reading = -1
        self._poll = select.poll()
        self._on: dict[int, Callable[[], object]] = {}
        self._waking = threading.Lock()  # its number must not be another file's when somebody writes to it
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watch(self._wake, self._woken)

    def wake(self) -> None:
        """Let `step` return, in whichever thread it waits. Too late is fine."""
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def start(self) -> None:
        """Begin; what becomes of it is seen by `step`. OSError, RuntimeFailure when it cannot even begin."""
        self.bundle.mkdir()
        config = make_config(
            self.id, self.function, self.limits, str(self._rootfs), str(self.socket_path), self._place.cgroups
        )
        (self.bundle / "config.json").write_text(json.dumps(config))
        self._listener = self._listen()
        self._watch(self._listener.fileno(), self._accept)
        self._reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._watch(self._reading, self._read)
        # O_NONBLOCK is the reader's business only: a program's output must not fail because it is fast.
        os.set_blocking(writing, True)
        try:
            self._call = self._place.runtime.start(self.id, self.bundle, writing)
        except OSError as error:
            raise RuntimeFailure(f"{self._place.runtime.program}: {error.strerror}") from None
        finally:
            os.close(writing)
        self._callfd = os.pidfd_open(self._call.pid)
        self._watch(self._callfd, self._called)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(str(self.socket_path))
            os.chown(self.socket_path, *self.function.user)
            self.socket_path.chmod(0o600)
            listener.listen(1)
        except OSError:
            listener.close()
            raise
        return listener

    def step(self, seconds: float | None) -> None:
        """Wait until something happens, `seconds` at most, and take note of it."""
        for descriptor, _ in self._poll.poll(None if seconds is None else max(0, seconds * 1000)):
            if then := self._on.get(descriptor):
                then()

    @property
    def waited_for(self) -> bool:
        """No handler has connected, and one still may."""
        return self.peer is None and not self.ended

    @property
    def starting(self) -> bool:
        """The runtime is at it still, and no handler has connected."""
        return self._callfd in self._on and self.waited_for

    def hand_over(self, connection: socket.socket) -> None:
        """Give the client's connection to the handler. OSError when it is not there any more.

        `peer` stays until the handler has read the message, so that `unread` is known of one that died before.
        """
        if self.peer is None:
            raise BrokenPipeError("the handler is gone")
        # O_NONBLOCK travels with the descriptor, and handlers expect a blocking one.
        connection.setblocking(True)
        descriptors = array.array("i", [connection.fileno()])
        self.peer.sendmsg([HANDOFF], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        self.let_go()

    def let_go(self) -> bool:
        """Close the handler's connection once it has read what was sent on it. Is it closed?"""
        if self.peer:
            size = array.array("i", [0])
            fcntl.ioctl(self.peer, termios.TIOCOUTQ, size)
            if size[0] == 0:
                self._peer_closed()  # nothing is unread because it has been read, or because the reader is dead
                self._close_peer()
        return self.peer is None

    def freeze(self, frozen: bool) -> None:
        """Stop or resume its processes. That a host cannot is logged, and harms nothing."""
        try:
            self._place.cgroups.freeze(self.id, frozen)
            self.frozen = frozen
        except OSError as error:
            log("request", f"cannot {'freeze' if frozen else 'thaw'} {self.id}: {error.strerror}")

    def kill(self) -> None:
        """Kill every process of it. What is left of it is removed by `close`."""
        if self.frozen:
            self.freeze(False)
        if self._pidfd >= 0 and not self.ended:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + 5
            while not self.ended and time.monotonic() < deadline:
                self.step(0.1)

    def close(self) -> None:
        """Kill and remove all of it. Never raises.

        What cannot be removed, as where descriptors or processes are short, is tried again for a while; then it is
        logged, and the observer finds it.
        """
        calls = self._place.runtime.calls
        deadline = time.monotonic() + FINISHING
        while self.connected and self._callfd in self._on and time.monotonic() < deadline:
            self.step(FINISHING)
        if self._call and self._call.returncode is None:
            calls.kill(self._call)
        self.kill()
        self._close_peer()
        self._close_listener()
        with self._waking:
            self._wake = -1
            for descriptor in list(self._on):
                self._forget(descriptor)
        deadline = time.monotonic() + REMOVING
        while (failure := self._remove()) and time.monotonic() < deadline:
            time.sleep(AGAIN)
        if failure:
            log("request", f"{self.id} cannot be removed: {failure}")
        calls.let_go(self.pid)

    def _remove(self) -> str:
        """Remove the container and its bundle. Empty text, or why it cannot be done."""
        try:
            self._place.runtime.delete(self.id)
            if self.bundle.exists():
                shutil.rmtree(self.bundle)
        except (RuntimeFailure, OSError) as error:
            return str(error)
        return ""

    def _watch(self, descriptor: int, then: Callable[[], object]) -> None:
        self._on[descriptor] = then
        self._poll.register(descriptor, select.POLLIN)

    def _forget(self, descriptor: int, close: bool = True) -> None:
        if self._on.pop(descriptor, None):
            self._poll.unregister(descriptor)
            if close:
                os.close(descriptor)

    def _woken(self) -> None:
        os.eventfd_read(self._wake)

    def _read(self) -> bool:
        """Take what is in the pipe; was there anything?"""
        try:
            data = os.read(self._reading, 65536)
        except BlockingIOError:
            return False
        if data:
            self.output.add(data)
        else:
            self._forget(self._reading)
            self._reading = -1
        return bool(data)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        if not self._is_of_this_container(peer):
            peer.close()
            return
        # One connection, and no more: the handler has what it needs to get its request.
        self._close_listener()
        peer.setblocking(True)
        self.peer = peer
        self.connected = True
        self._watch(peer.fileno(), self._peer_closed)

    def _peer_closed(self) -> None:
        """The handler has nothing to say on its connection: it has closed it, or has ended."""
        if self.peer:
            try:
                self.peer.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                self.unread = True  # what the kernel says of one that closed with a message unread
            self._close_peer()

    def _close_peer(self) -> None:
        if self.peer:
            self._forget(self.peer.fileno(), close=False)
            self.peer.close()
            self.peer = None

    def _close_listener(self) -> None:
        if self._listener:
            self._forget(self._listener.fileno(), close=False)
            self._listener.close()
            self._listener = None
            self.socket_path.unlink(missing_ok=True)

    def _is_of_this_container(self, peer: socket.socket) -> bool:
        """Is our socket mounted where the peer lives? The kernel says who it is, and its mounts say where."""
        credentials = array.array("i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            mounts = Path(f"/proc/{credentials[0]}/mountinfo").read_text()
        except OSError:
            return False
        rows = (line.split() for line in mounts.splitlines())
        return any(row[4] == "/control.sock" and row[3].endswith(self._mounted_name) for row in rows)

    @property
    def _mounted_name(self) -> str:
        """The end of the socket's path, which no other socket has."""
        path = self.socket_path
        return f"/{path.name}" if path.parent == REQUEST_SOCKETS else f"/{path.parent.name}/{path.name}"

    def _called(self) -> None:
        """The runtime's call has ended: the process runs, or it never will."""
        assert self._call is not None
        self._forget(self._callfd)
        self._callfd = -1  # the number is free, and may be that of the next descriptor
        if self._place.runtime.calls.ended(self._call) != 0:
            self._drain()
            self.start_error = last_line(self.output.text())
            self.ended = True
            return
        self.pid = int((self.bundle / "pid").read_text())
        # The daemon is a subreaper: the process is its child from now on, and keeps its number until it is waited for.
        self._place.runtime.calls.adopt(self.pid)
        self._pidfd = os.pidfd_open(self.pid)
        self._watch(self._pidfd, self._process_ended)

    def _process_ended(self) -> None:
        self._peer_closed()
        self.exit_code = exit_code_of(self._pidfd)
        self._forget(self._pidfd)
        self.out_of_memory = self._place.cgroups.oom_kills(self.id) > 0
        self._drain()
        self.ended = True

    def _drain(self) -> None:
        """Take the rest of the output. All its writers are gone or are about to be, so that this ends."""
        while self._reading >= 0 and self._read():
            pass
