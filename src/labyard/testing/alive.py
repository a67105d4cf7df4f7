"""Whether a process lives."""

from __future__ import annotations

import psutil


def is_alive(process: psutil.Process) -> bool:
    """False of one that has ended and that nobody has waited for: its ports and locks are free all the same."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
