"""What tests use: something that runs commands, and takes and gives files."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labyard.testing.vm.client import Agent, Call
from labyard.testing.vm.errors import VMCommandError, VMError, VMTimeout

KEPT_OUTPUT = 1 << 20  # bytes of each stream of a spawned process
RECORDED_OUTPUT = 1 << 16  # bytes of each stream of a command that the record has
LOOK_SECONDS = 5.0  # between two looks at whether the machine itself is well
KILL_SECONDS = 30.0  # for a killed command to be gone


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@dataclass(frozen=True)
class Result:
    """How a command ended. `duration` in seconds; a code over 128 is that of the signal it died by, plus 128."""

    args: str
    returncode: int
    stdout_bytes: bytes = field(repr=False)
    stderr_bytes: bytes = field(repr=False)
    duration: float

    @property
    def stdout(self) -> str:
        return text(self.stdout_bytes)

    @property
    def stderr(self) -> str:
        return text(self.stderr_bytes)


@dataclass(frozen=True)
class Record:
    """One command for those who look into a failure; `code` is None when it was killed for taking too long."""

    command: str
    code: int | None
    duration: float
    stdout: bytes
    stderr: bytes


class Process:
    """A command that runs by itself, in a session of its own."""

    def __init__(self, agent: Agent, call: Call, command: str) -> None:
        self._agent = agent
        self._call = call
        self.args = command
        self.pid = int(call.check()["pid"])

    def poll(self) -> int | None:
        """The code that it ended with; None while any process of its group runs. VMError: the VM is gone."""
        return int(self._call.check()["code"]) if self._call.ended.is_set() else None

    @property
    def running(self) -> bool:
        return self.poll() is None

    def wait(self, timeout: float = 30) -> int:
        """The code, once its whole group is gone. VMTimeout: it is not within `timeout` s; nothing is killed."""
        if not self._call.ended.wait(timeout):
            raise VMTimeout(f"still running after {timeout:g} s: {self.args}")
        return int(self._call.check()["code"])

    def kill(self, signal: int = signal.SIGTERM) -> None:
        """A signal to its whole group. Nothing happens when it has ended."""
        if not self._call.ended.is_set():
            self._agent.ask("kill", of=self._call.key, signal=int(signal))

    @property
    def stdout(self) -> str:
        """What it has written so far; the last MiB."""
        return text(self._call.output("stdout"))

    @property
    def stderr(self) -> str:
        return text(self._call.output("stderr"))

    def __repr__(self) -> str:
        return f"<Process {self.pid}: {self.args}>"


class Machine:
    """What runs an agent: a VM, or a host of the lab. Several threads may use it at once."""

    time_scale = 1.0  # how many times longer things may take here than on a real machine

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.processes: list[Process] = []
        self._lock = threading.Lock()

    @property
    def agent(self) -> Agent:
        """The connection. VMError: there is none any more."""
        raise NotImplementedError

    def run(
        self,
        command: str,
        check: bool = True,
        timeout: float = 300,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        """Run a shell command (`bash -c`) and wait for it, `timeout` s at most.

        What it leaves in the background goes on running. VMCommandError: it ended with another code than 0, and
        `check`. VMTimeout: its process group was killed. VMStalled: no processor may run it any more.
        FileNotFoundError: no such `cwd`.
        """
        agent = self.agent
        began = time.monotonic()
        call = agent.start("run", **_request(command, env, cwd), input=input is not None)
        if input is not None:
            agent.feed(call, input.encode() if isinstance(input, str) else input)
        if not self._wait(call, began + timeout):
            agent.ask("kill", of=call.key, signal=signal.SIGKILL)
            agent.wait(call, "kill", KILL_SECONDS)
            self._record(command, None, time.monotonic() - began, call)
            raise VMTimeout(f"killed after {timeout:g} s: {command}\n{_ends(call)}".rstrip())
        code = int(call.check()["code"])
        duration = time.monotonic() - began
        self._record(command, code, duration, call)
        result = Result(command, code, call.output("stdout"), call.output("stderr"), duration)
        if check and code != 0:
            raise VMCommandError(code, command, result.stdout, result.stderr)
        return result

    def spawn(self, command: str, env: Mapping[str, str] | None = None, cwd: str | None = None) -> Process:
        """Start a shell command and do not wait for it. FileNotFoundError: no such `cwd`."""
        agent = self.agent
        call = agent.start("spawn", keep=KEPT_OUTPUT, **_request(command, env, cwd))
        if not call.answered.wait(KILL_SECONDS):
            self.check_well()
            raise VMError(f"the agent in the VM did not start a command within {KILL_SECONDS:g} s: {command}")
        process = Process(agent, call, command)
        with self._lock:
            self.processes.append(process)
        return process

    def write_file(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Put a file there, in one step, with the folders that lead to it. OSError: the guest's own."""
        _absolute(path)
        data = content.encode() if isinstance(content, str) else content
        if not self._has(path, data, mode):
            with _naming(path):
                self.agent.write(path, data, mode)

    def read_file(self, path: str) -> bytes:
        """What is in a file, also one of /proc. FileNotFoundError, IsADirectoryError, other OSErrors: the guest's."""
        _absolute(path)
        agent = self.agent
        call = agent.start("read", path=path)
        with _naming(path):
            while not call.ended.wait(KILL_SECONDS):
                before = len(call.output("data"))
                if not call.ended.wait(KILL_SECONDS) and len(call.output("data")) == before:
                    self.check_well()
                    raise VMError(f"the agent in the VM sent nothing more of {path} for {KILL_SECONDS:g} s")
            call.check()
        return call.output("data")

    def check_well(self) -> None:
        """VMStalled: the machine itself has failed, as far as that can be seen from outside."""

    def _wait(self, call: Call, end: float) -> bool:
        """Whether it has ended before that time of the monotonic clock."""
        while not call.ended.wait(max(0.0, min(LOOK_SECONDS, end - time.monotonic()))):
            if time.monotonic() >= end:
                return False
            self.check_well()
        return True

    def _has(self, path: str, data: bytes, mode: int) -> bool:
        """Whether that very file is there already."""
        return False

    def _record(self, command: str, code: int | None, duration: float, call: Call) -> None:
        outputs = (call.output(name)[-RECORDED_OUTPUT:] for name in ("stdout", "stderr"))
        with self._lock:
            self.records.append(Record(command, code, duration, *outputs))


def _request(command: str, env: Mapping[str, str] | None, cwd: str | None) -> dict[str, Any]:
    return {"command": command, "env": dict(env or {}), "cwd": cwd}


def _ends(call: Call) -> str:
    outputs = ((name, text(call.output(name)).splitlines()[-10:]) for name in ("stdout", "stderr"))
    return "\n".join(
        line for name, lines in outputs if lines for line in (f"{name}:", *(f"  {line}" for line in lines))
    )


def _absolute(path: str) -> None:
    if not path.startswith("/"):
        raise ValueError(f"not an absolute path: {path!r}")


class _naming:
    """Give the guest's OSErrors the path, as the host's own have it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self.path
