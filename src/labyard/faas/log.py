"""The daemon's log: standard output, one line each, flushed at once (contract 11.5)."""

from __future__ import annotations

import sys
import threading

_lock = threading.Lock()


def log(tag: str, text: str) -> None:
    """One line `[tag] text`. Line breaks in the text are shown as `\\n`, so that no text can forge a line."""
    line = f"[{tag}] {text}".replace("\r", "").replace("\n", "\\n")
    with _lock:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except (OSError, ValueError):
            pass  # whoever read the log is gone; that stops no function
