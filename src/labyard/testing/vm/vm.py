"""The VM of a test."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from labyard.testing.vm.client import Agent
from labyard.testing.vm.errors import VMError, VMStalled
from labyard.testing.vm.machine import Machine
from labyard.testing.vm.qemu import Qemu

# Linux, kernel/rcu/tree_stall.h. Other work on the host does not make it: each processor gets some of its time in 21 s.
STALLED = re.compile(r"rcu: .* kthread starved for \d+ jiffies!")
# s; an agent that shares the guest with any load answers in a fraction. With a kernel that stands still itself, it is
# the only sign.
SILENCE = 40.0


@dataclass(frozen=True)
class Known:
    """A file that the snapshot has: what is in it, and what it was like."""

    digest: str
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Started:
    """A guest that answers, and what its snapshot has."""

    qemu: Qemu
    known: Mapping[str, Known]
    kernel: str
    seconds: float  # from the start of QEMU until it answered


class VM(Machine):
    """A VM of one test."""

    def __init__(
        self,
        start: Callable[[], Started],
        end: Callable[[Started], None],
        digest: Callable[[bytes], str],
        accel: str,
    ) -> None:
        """Start it; `end` takes away what `start` gave."""
        super().__init__()
        self._start = start
        self._end = end
        self._digest = digest
        self.accel = accel
        self.time_scale = time_scale(accel)
        self._guest: Started | None = start()

    @property
    def guest(self) -> Started:
        """What runs at the moment. VMError: it was closed."""
        if self._guest is None:
            raise VMError("this VM was closed: its test has ended")
        return self._guest

    @property
    def agent(self) -> Agent:
        return self.guest.qemu.agent

    @property
    def kernel(self) -> str:
        """The kernel's release."""
        return self.guest.kernel

    @property
    def start_seconds(self) -> float:
        """What it took from the start of QEMU until the agent answered."""
        return self.guest.seconds

    @property
    def serial_log(self) -> str:
        """What the kernel and the guest's first program have written so far."""
        return self.guest.qemu.read_log("serial.log")

    def check_well(self) -> None:
        """VMStalled: the kernel says that a processor of its stands still, or the agent does not answer at all."""
        if stalled := STALLED.search(self.serial_log):
            raise VMStalled(f"a processor of the VM stands still, says its kernel: {stalled[0]}")
        if not self.agent.start("stat", path="/").ended.wait(SILENCE):
            raise VMStalled(f"the VM stands still: its agent has said nothing for {SILENCE:g} s")

    def restore(self) -> None:
        """Back to the fresh state. What was spawned is gone with it."""
        self.close()
        self.processes.clear()
        self._guest = self._start()

    def close(self) -> None:
        """End it. Once is enough, and more do no harm."""
        guest, self._guest = self._guest, None
        if guest:
            self._end(guest)

    def release(self) -> Started:
        """Hang up and let it run on; the caller sees to its end."""
        guest = self.guest
        self._guest = None
        guest.qemu.agent.close()
        return guest

    def _has(self, path: str, data: bytes, mode: int) -> bool:
        """Whether the snapshot brought this very file, and nobody has touched it since."""
        known = self.guest.known.get(path)
        if known is None or known.digest != self._digest(data) or known.identity["mode"] != mode:
            return False
        try:
            found = self.agent.ask("stat", path=path)
        except OSError:
            return False
        return all(found[name] == value for name, value in known.identity.items())

    def __repr__(self) -> str:
        return f"<VM {self._guest.qemu.name if self._guest else 'closed'}>"


def time_scale(accel: str) -> float:
    """How many times longer things may take than on a real machine."""
    return float(os.environ.get("LABYARD_VM_TIME_SCALE") or (3 if accel == "tcg" else 1))
