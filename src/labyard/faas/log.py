"""The daemon's log: standard output, one line each, flushed at once (contract 11.5)."""

from __future__ import annotations

import select
import sys
import threading

PATIENCE = 1.0  # s that a line waits for a reader who does not read
LONGEST = 4000  # bytes of a line: a pipe that takes any takes as many without waiting

_lock = threading.Lock()
_lost = 0  # lines since the reader stopped to read


def log(tag: str, text: str) -> None:
    """One line `[tag] text`. Line breaks in the text are shown as `\\n`, so that no text can forge a line."""
    global _lost
    line = f"[{tag}] {text}".replace("\r", "").replace("\n", "\\n")
    line = line.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore")
    with _lock:
        try:
            if not _is_read(0 if _lost else PATIENCE):
                _lost += 1
                return
            if _lost:
                sys.stdout.write(f"[server] {_lost} lines were lost: nobody read them\n")
                _lost = 0
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except (OSError, ValueError):
            pass  # whoever read the log is gone; that stops no function


def _is_read(seconds: float) -> bool:
    """Does the log take another line within that time? A full pipe would stop all who write to it."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return True  # it is no file
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))
