"""Ports for programs that tests start."""

from __future__ import annotations

import os
import random
import socket

_SIZE = 3_000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
_given = random.SystemRandom().randrange(_SIZE)


def free_port() -> int:
    """One that nobody listens on, on 127.0.0.1. Below those that the kernel gives to outgoing connections, from a range
    of this worker of pytest-xdist, and not one that was given lately: nobody takes it until its program listens."""
    global _given
    while True:
        _given = (_given + 1) % _SIZE
        port = 20_000 + _worker * _SIZE + _given
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
