"""Each function's requests, kept across restarts: JSON lines in `requests/<function>/` below the daemon's root.

A request only leaves its record; a thread writes it. A daemon that is killed loses none that were written, and what a
crash cut off is one line, which is skipped when it is read.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labyard.faas.log import log

FILE = "requests.jsonl"
OLDER = "requests.jsonl.1"
MOST = 1 << 20  # bytes; then the file takes the older one's place and is begun anew
PENDING = 100  # records of a function that are kept while they cannot be written
RETRY = 5.0  # s until writing is tried again


class History:
    """Records are objects that JSON can hold; what is in them is their maker's business."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._pending: dict[str, deque[dict[str, Any]]] = {}
        self._writing = threading.RLock()  # a record is pending or in a file for whoever holds it, never neither
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and end."""
        self._stopped.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()
        self._write()

    def add(self, function: str, record: dict[str, Any]) -> None:
        """Keep a record. Does not wait for the disk."""
        with self._changed:
            self._pending.setdefault(function, deque(maxlen=PENDING)).append(record)
            self._changed.notify()

    def last(self, function: str, limit: int) -> list[dict[str, Any]]:
        """The last records, newest first. OSError when a file cannot be read.

        What was told is not lost when the daemon is killed: it is written first, where it can be.
        """
        found: list[dict[str, Any]] = []
        with self._writing:
            if self._write():
                with self._changed:
                    found = [*reversed(self._pending.get(function, ()))][:limit]
            for name in (FILE, OLDER):
                if len(found) < limit:
                    found += self._read(self._folder / function / name, limit - len(found))
        return found

    def forget(self, function: str) -> None:
        """Remove a function's records."""
        with self._writing:
            with self._changed:
                self._pending.pop(function, None)
            shutil.rmtree(self._folder / function, ignore_errors=True)

    @staticmethod
    def _read(path: Path, limit: int) -> list[dict[str, Any]]:
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found: list[dict[str, Any]] = []
        for line in reversed(lines):
            if len(found) >= limit:
                break
            try:
                record = json.loads(line)
            except ValueError:
                continue  # a crash cut it off
            if isinstance(record, dict):
                found.append(record)
        return found

    def _run(self) -> None:
        failing = False
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._stopped.is_set())
            failed = self._write()
            if failed and not failing:
                log("server", f"Requests cannot be kept: {failed}")
            failing = bool(failed)
            if failing:
                self._stopped.wait(RETRY)

    def _write(self) -> str:
        """Write what is pending. Empty text, or why some of it could not be, which stays pending."""
        failed = ""
        with self._writing:
            with self._changed:
                taken, self._pending = self._pending, {}
            for function, records in taken.items():
                try:
                    for line in self._lines(records):
                        self._append(self._folder / function, line)
                except OSError as error:
                    failed = f"{error.filename or self._folder}: {error.strerror}"
                    with self._changed:
                        records.extend(self._pending.get(function, ()))
                        self._pending[function] = records
        return failed

    @staticmethod
    def _lines(records: deque[dict[str, Any]]) -> Iterator[bytes]:
        """Takes records away as their lines are written."""
        while records:
            yield json.dumps(records[0]).encode() + b"\n"
            records.popleft()

    @staticmethod
    def _append(folder: Path, line: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")  # after what a crash or a full disk cut off
            file.write(line)
            size = file.tell()
        if size > MOST:
            path.rename(folder / OLDER)
