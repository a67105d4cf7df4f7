"""The programs one check runs, and everything it has to take down again."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from labyard.doctor.model import Problem, Status

# Where Debian keeps administrators' programs; not on every user's PATH.
ADMIN_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
UNDO_SECONDS = 10.0
FOLDER_PREFIX = "labyard-doctor-"
# Older than any doctor runs: what is still there was left by one that was killed with SIGKILL.
STALE_SECONDS = 600.0


class TimeUp(Exception):
    """The check ran out of time, or was told to stop. The text says what it was doing."""


class Work:
    """Runs programs for one check, in sessions of their own, and ends them with the check.

    A thread cannot be killed, but it always waits for one of these programs: `stop`, called from another
    thread, kills them, so the check comes back and takes down what it made.
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self._undo = contextlib.ExitStack()
        self._stopped = threading.Event()
        self.doing = "starting"

    def left(self) -> float:
        """Seconds left. Raises TimeUp when there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0 or self._stopped.is_set():
            raise TimeUp(self.doing)
        return left

    def need(self, tool: str, package: str) -> str:
        """Full path of a program. Raises Problem (`later`) when it is not installed yet."""
        path = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{ADMIN_PATH}")
        if path is None:
            raise Problem(f"{tool} is not installed yet", f"`make lab` installs {package}", Status.LATER)
        return path

    def folder(self) -> Path:
        """A new folder that goes away with the check."""
        return Path(self._undo.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX)))

    def on_end(self, undo: Callable[[], object]) -> None:
        """Calls `undo` when the check ends, however it ends; last registered, first called."""
        self._undo.callback(undo)

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: int | None = None
    ) -> subprocess.Popen[str]:
        """Starts a program that is killed when the check ends. Its output and errors come in one pipe."""
        return self._spawn(command, env=env, stdin=stdin, stderr=subprocess.STDOUT)

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end, for the time left or `timeout` seconds. Raises TimeUp after that.

        Its exit status is the caller's to look at. Raises OSError when it cannot be started.
        """
        self.doing = shlex.join(command)
        limit = self.left() if timeout is None else min(timeout, self.left())
        process = self._spawn(command, env=env, stdin=subprocess.PIPE if stdin else None, stderr=subprocess.PIPE)
        try:
            output, errors = process.communicate(stdin, timeout=limit)
        except subprocess.TimeoutExpired:
            kill(process)
            process.communicate()
            raise TimeUp(self.doing) from None
        if self._stopped.is_set():
            raise TimeUp(self.doing)
        return subprocess.CompletedProcess(list(command), process.returncode, output, errors)

    def until(self, done: Callable[[], bool], doing: str, *, timeout: float) -> bool:
        """Asks `done` every 20 ms until it says yes (True) or `timeout` seconds are over (False)."""
        self.doing = doing
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if done():
                return True
            time.sleep(min(0.02, self.left()))
        return False

    def stop_one(self, process: subprocess.Popen[str]) -> None:
        """Kills a program that was started and waits for it, so that its output can be read to the end."""
        kill(process)
        process.wait(timeout=self.left())

    def stop(self) -> None:
        """Kills this check's programs and lets it start no more. Any thread may call it."""
        self._stopped.set()
        with self._lock:
            for process in self._processes:
                kill(process)

    def close(self) -> None:
        """Ends what still runs and takes down what was made."""
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            kill(process)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired, ValueError, OSError):
                process.wait(timeout=UNDO_SECONDS)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._undo.close()

    def _spawn(
        self, command: Sequence[str], *, env: Mapping[str, str] | None, stdin: int | None, stderr: int
    ) -> subprocess.Popen[str]:
        # setpriv: the kernel ends the program when the doctor dies, even by kill -9.
        # A session of its own: Ctrl-C reaches the doctor alone, which then takes everything down in order.
        command = ["setpriv", "--pdeathsig", "KILL", *command]
        with self._lock:
            if self._stopped.is_set():
                raise TimeUp(self.doing)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                errors="replace",
                env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
                start_new_session=True,
            )
            self._processes.append(process)
            return process


def kill(process: subprocess.Popen[str]) -> None:
    """Kills a program this doctor started, with its children."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def undo(command: Sequence[str]) -> None:
    """Runs a command that takes something down. Never raises; has its own time, the check's may be over."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=UNDO_SECONDS,
            start_new_session=True,
        )


def sweep_folders() -> None:
    """Removes folders left by a doctor that was killed hard."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def last_line(*texts: str) -> str:
    """The last line with text in it, of the first text that has one."""
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return "no message"
