"""Ends connections of RDP clients that have lasted too long; the desktop goes on. Idle ones xrdp ends by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import psutil
import structlog

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp.connections import peers

log = structlog.get_logger(__name__)

LOOK = 10.0  # seconds


class Timeouts:
    """`running` gives (port, processes) of each server that runs; `seconds` is how long a connection may last."""

    def __init__(self, running: Callable[[], Iterable[tuple[int, list[int]]]], seconds: float) -> None:
        self._running = running
        self._seconds = seconds
        self._since: dict[tuple[int, str], float] = {}

    def start(self) -> None:
        """In the background, as long as the process lives."""
        threading.Thread(target=self._loop, name="timeouts", daemon=True).start()

    def look(self) -> None:
        """Once. A connection's time runs from when it was seen first. AdapterError."""
        moment = time.monotonic()
        seen: dict[tuple[int, str], float] = {}
        for port, pids in self._running():
            for peer in peers(port):
                seen[port, peer] = since = self._since.get((port, peer), moment)
                if moment - since >= self._seconds:
                    self._end(port, peer, pids)
        self._since = seen

    def _end(self, port: int, peer: str, pids: list[int]) -> None:
        remote = int(peer.rpartition(":")[2])
        for pid in pids:
            try:
                process = psutil.Process(pid)
                # xrdp has a process for each connection, beside the one that listens. While it waits for its client it
                # hears no SIGTERM, and it has nothing to save.
                links = process.net_connections("tcp") if process.name() == "xrdp" else []
                if any(link.laddr.port == port and link.raddr and link.raddr.port == remote for link in links):
                    log.info("a client was connected for too long", port=port, peer=peer)
                    process.kill()
            except psutil.Error:  # it went by itself
                continue

    def _loop(self) -> None:
        while True:
            time.sleep(LOOK)
            try:
                self.look()
            except (AdapterError, OSError) as error:
                log.warning("cannot look for old connections", error=str(error))
