"""Pass after pass: for the monitor itself, and for `labyard evse watch` and `record`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

from labyard.evse.monitor.sample import Reader
from labyard.evse.monitor.watch import Line, Watch, look


async def watch_group(
    watch: Watch,
    reader: Reader,
    take: Callable[[Line], None],
    *,
    follow_budget: bool,
    interval: float,
    duration: float | None,
) -> bool:
    """`take` gets the line of each pass, each `interval` seconds, for `duration` seconds (None: without end) or until
    SIGINT or SIGTERM. `follow_budget`: the controller's counts. Whether anything ever answered."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    begun = due = time.monotonic()
    answered = False
    try:
        while duration is None or time.monotonic() - begun < duration:
            line = await look(watch, reader, follow_budget, begun)
            answered = answered or any(line["chargers"].values())
            take(line)
            due = max(due + interval, time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), due - time.monotonic())
            if stop.is_set():
                break
    finally:
        await reader.close()
    return answered
