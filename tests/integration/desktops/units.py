"""What systemd is to recorders on a node: runs them, and starts them again when they die."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labyard.desktops.adapters.agent import AgentRefused
from labyard.testing.waiting import PATIENCE

from .display import Display

AGAIN = 0.3  # seconds, as RestartSec
# The recorder, patient with an RDP server and its client: on a busy machine they take longer than on a node.
PATIENT = f"""
from labyard.desktops.recorder import external
from labyard.desktops.recorder.__main__ import run

external.ANSWER = external.PICTURE = {PATIENCE}
run()
"""
RECORDER = (sys.executable, "-c", PATIENT)


class ProcessUnits:
    """`runtime` is what /run is, until `close`. Its name is short: a socket's path has 107 characters, and folders of
    pytest's workers are long."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.runtime = Path(tempfile.mkdtemp(prefix="ly-run-"))
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str, folder: Path) -> None:
        with self._lock:
            self._wanted.add(name)
            self._run(name, folder)
        self._threads[name] = threading.Thread(target=self._watch, args=(name, folder), daemon=True)
        self._threads[name].start()

    def stop(self, name: str) -> None:
        with self._lock:
            self._wanted.discard(name)
            process = self.processes.get(name)
        if process:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if thread := self._threads.pop(name, None):
            thread.join()

    def is_active(self, name: str) -> bool:
        with self._lock:
            return name in self._wanted

    def kill(self, name: str) -> None:
        """As a crash: with SIGKILL, and it is started again."""
        self.processes[name].send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Again is fine."""
        for name in list(self.processes):
            self.stop(name)
        shutil.rmtree(self.runtime, ignore_errors=True)

    def _run(self, name: str, folder: Path) -> None:
        with self._log.open("a") as log:
            self.processes[name] = subprocess.Popen(
                [*RECORDER, str(folder)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _watch(self, name: str, folder: Path) -> None:
        while True:
            status = self.processes[name].wait()
            with self._lock:
                if status == 0:
                    self._wanted.discard(name)
                if name not in self._wanted:
                    return
            threading.Event().wait(AGAIN)
            with self._lock:
                if name not in self._wanted:
                    return
                self._run(name, folder)


class KnownDisplays:
    """Displays by the id of the server that they belong to."""

    def __init__(self, **displays: Display) -> None:
        self.displays = displays

    def open(self, session_id: str, target: Mapping[str, Any]) -> tuple[int, Path | None]:
        found = self.displays.get(target.get("server_id", ""))
        if found is None:
            raise AgentRefused(f"no display of {target.get('server_id')}", "SES_NO_RDP_TARGET")
        return found.number, found.cookie

    def close(self, session_id: str) -> None:
        """They are not the recorder's to end."""
