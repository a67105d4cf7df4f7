"""Processes that become the daemon's children without having been started by it.

The runtime's call ends when a container runs; as a subreaper the daemon then is the parent, so that it learns of the
end at once and with the exit code.
"""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
LATE = 30.0  # s that helpers of a killed call are looked for


def become_subreaper() -> None:
    """Adopt orphaned descendants. OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def exit_code_of(pidfd: int) -> int | None:
    """The exit code of a child that has ended, 128+N for signal N. None when it is not ours to wait for."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        return None
    assert result is not None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


class Calls:
    """Calls of the runtime that somebody waits for, and its helpers, which nobody does: they are the daemon's to reap.

    crun leaves one behind each detached start, runc what it had forked when it was killed. They are known by name only,
    and a container's process that has not become its program yet has that name, too: those are told by `adopt`.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._ours: set[int] = set()
        self._strays: set[int] = set()
        self._reap_until = math.inf if program == "crun" else 0.0

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Popen; `ended` is to be called for it."""
        with self._lock:
            call = subprocess.Popen(command, **options)
            self._ours.add(call.pid)
        return call

    def ended(self, call: subprocess.Popen[Any]) -> int:
        """Wait for a call; its exit code."""
        code = call.wait()
        self.let_go(call.pid)
        if time.monotonic() < self._reap_until:
            self.reap()
        return code

    def kill(self, call: subprocess.Popen[Any]) -> None:
        """Kill and wait for a call. What it had forked ends a little later."""
        self._reap_until = max(self._reap_until, time.monotonic() + LATE)
        call.kill()
        self.ended(call)

    def adopt(self, pid: int) -> None:
        """A container's process: somebody waits for it until `let_go`."""
        with self._lock:
            self._ours.add(pid)

    def let_go(self, pid: int) -> None:
        with self._lock:
            self._ours.discard(pid)

    def reap(self) -> None:
        """Wait for all helpers that have ended."""
        with self._lock:
            for pid, name, _ in _children():
                helper = name == self._program or name.startswith(f"{self._program}:[")
                if helper and pid not in self._ours:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def reap_strays(self) -> None:
        """Wait for children that were dead at the last call already, and still nobody has.

        Those are processes of containers that could not be watched, as where descriptors are short.
        """
        with self._lock:
            dead = {pid for pid, _, state in _children() if state == "Z" and pid not in self._ours}
            for pid in dead & self._strays:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            self._strays = dead


def _children() -> Iterator[tuple[int, str, str]]:
    """This process's children, with the names and the states that the kernel has for them."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                stat = (path / "stat").read_text()
            except OSError:
                continue
            before, _, after = stat.rpartition(")")
            state, parent = after.split()[:2]
            if int(parent) == os.getpid():
                yield int(path.name), before.partition("(")[2], state
