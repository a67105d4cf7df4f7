"""What can go wrong with a VM."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence

SHOWN_LINES = 40


class VMError(RuntimeError):
    """The VM itself failed: it is gone, or does not answer."""


class VMUnavailable(VMError):
    """This machine cannot run VMs as it is; the message says what is missing. Tests are skipped for it."""


class VMStalled(VMError):
    """A processor of the VM stands still, or all of it, and with it what waits for it. Software emulation does that
    once in some hundred VMs; it says nothing about what is tested."""


class VMTimeout(TimeoutError):
    """A command in the VM took too long."""


class VMCommandError(subprocess.CalledProcessError):
    """A command in the VM ended with a code other than 0. The text shows the end of its output."""

    def __init__(self, returncode: int, command: str, stdout: str, stderr: str) -> None:
        super().__init__(returncode, command, stdout, stderr)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"command ended with {describe_code(self.returncode)}: {self.cmd}",
                *_tail("stdout", self.stdout),
                *_tail("stderr", self.stderr),
            ]
        )


def describe_code(code: int) -> str:
    """A code, and the signal's name when the command died by one."""
    try:
        return f"{code} ({signal.Signals(code - 128).name})" if code > 128 else str(code)
    except ValueError:
        return str(code)


def _tail(name: str, text: str) -> Sequence[str]:
    lines = text.splitlines()
    if not lines:
        return [f"{name}: empty"]
    left_out = len(lines) - SHOWN_LINES
    head = f"{name}:" if left_out <= 0 else f"{name}, last {SHOWN_LINES} of {len(lines)} lines:"
    return [head, *(f"  {line}" for line in lines[-SHOWN_LINES:])]
