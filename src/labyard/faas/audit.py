"""Every change, one JSON line each, in `audit.jsonl` and in the log."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from labyard.faas.log import log

MOST = 16 << 20  # bytes; then the file is kept as audit.jsonl.1 and begun anew


class Audit:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, peer: str, action: str, name: str, result: str) -> None:
        """Never raises: a change that is made is made, even on a full disk."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": when, "peer": peer, "action": action, "name": name, "result": result})
        log("api", f"audit {line}")
        try:
            with self._lock:
                if self._path.exists() and self._path.stat().st_size > MOST:
                    self._path.rename(self._path.with_name(f"{self._path.name}.1"))
                with self._path.open("a") as file:
                    file.write(line + "\n")
        except OSError as error:
            log("api", f"cannot write {self._path}: {error.strerror}")
