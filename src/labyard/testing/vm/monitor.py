"""QEMU's monitor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qemu.qmp import QMPClient, QMPError

from labyard.testing.vm.errors import VMError

SECONDS = 120.0


def monitor(path: Path, *lines: str) -> str:
    """What QEMU says to lines of its monitor, up to the first that it has something to say to; nothing, when all is
    well. VMError: it does not answer."""
    # In a thread, since a test's own event loop may be running in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, _monitor(path, lines)).result()


async def _monitor(path: Path, lines: Sequence[str]) -> str:
    client = QMPClient("labyard")
    try:
        await asyncio.wait_for(client.connect(str(path)), SECONDS)
        for line in lines:
            command = client.execute("human-monitor-command", {"command-line": line})
            if said := str(await asyncio.wait_for(command, SECONDS)).strip():
                return said
        return ""
    except (QMPError, TimeoutError) as error:
        raise VMError(f"QEMU's monitor: {error!r}") from error
    finally:
        with contextlib.suppress(QMPError):
            await client.disconnect()
