"""Guests of all workers together stay below a share of the machine's memory; who would not fit waits."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from labyard.testing.vm.cache import locked
from labyard.testing.vm.errors import VMUnavailable
from labyard.testing.vm.folders import live
from labyard.testing.vm.qemu import rss

SHARE = 0.8
MIB = 1 << 20
WAIT_SECONDS = 600.0
STEP = 0.2
Started = TypeVar("Started")


def available() -> int:
    """Bytes that programs could get now without swapping."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return int(found.group(1)) * 1024 if found else 0


def room(memory: int) -> tuple[bool, bool]:
    """Whether a guest of so many MiB fits beside those that run, and whether it would without those of others."""
    guests = [facts for _, facts in live()]
    limit = SHARE * (available() + sum(rss(facts["pid"]) for facts in guests))
    ours = sum(facts["memory"] for facts in guests if facts.get("owner") == os.getpid())
    needed = (memory + sum(facts["memory"] for facts in guests)) * MIB
    return needed <= limit, (memory + ours) * MIB <= limit


def when_it_fits(memory: int, start: Callable[[], Started]) -> Started:
    """Start a guest of `memory` MiB once there is room. VMUnavailable: there never is, or not within WAIT_SECONDS."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        # With the lock, since two that both saw room would both start. A guest counts from its start on.
        with locked("memory"):
            fits, ever = room(memory)
            if fits:
                return start()
        if not ever or time.monotonic() > end:
            raise VMUnavailable(
                f"no memory for a VM of {memory} MiB: {available() // MIB} MiB are available, and all VMs together may "
                f"take {SHARE:.0%}"
            )
        time.sleep(STEP)
