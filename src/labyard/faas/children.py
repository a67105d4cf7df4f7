"""Processes that become the daemon's children without having been started by it.

The runtime's call ends when a container runs; as a subreaper the daemon then is the parent, so that it learns of the
end at once and with the exit code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36


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
    """Calls of one program that somebody waits for, and its helpers, which nobody does.

    crun leaves a process of its own behind each detached start. It is ours to wait for, and known by its name only.
    """

    def __init__(self, program: str) -> None:
        self._name = program[:15]  # as the kernel keeps it
        self._lock = threading.Lock()
        self._pids: set[int] = set()

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Popen, and not to be taken for a helper until `ended`."""
        with self._lock:
            call = subprocess.Popen(command, **options)
            self._pids.add(call.pid)
        return call

    def ended(self, call: subprocess.Popen[Any]) -> int:
        """Wait for a call, and for all helpers that have ended; the call's exit code."""
        code = call.wait()
        with self._lock:
            self._pids.discard(call.pid)
            for pid in children_of(os.getpid(), self._name) if self._name == "crun" else ():
                if pid not in self._pids:
                    # WNOHANG: the name is also that of a container's process that has not become its program yet.
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
        return code


def children_of(pid: int, name: str | None = None) -> list[int]:
    """Processes whose parent is `pid`; with a name only those that the kernel calls so."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                stat = (path / "stat").read_text()
            except OSError:
                continue
            before, _, after = stat.rpartition(")")
            if int(after.split()[1]) == pid and name in (None, before.partition("(")[2]):
                found.append(int(path.name))
    return found


def reap(pids: list[int]) -> None:
    """Kill and wait for those of the processes that are children of this one by now, and that nobody else waits for."""
    for pid in set(pids) & set(children_of(os.getpid())) if pids else ():
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue
