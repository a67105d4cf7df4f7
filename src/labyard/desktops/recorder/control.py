"""The recorder's socket: one JSON object a line each way. {"verb": status | pause | resume | stop} -> its state."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labyard.desktops.recorder.program import Program

VERBS = ("status", "pause", "resume", "stop")
MAX_LINE = 1024 * 1024


class Control(socketserver.ThreadingUnixStreamServer):
    """Serves from a thread of its own, for as long as it is entered."""

    daemon_threads = True

    def __init__(self, path: Path, program: Program) -> None:
        path.unlink(missing_ok=True)  # of one that was killed
        super().__init__(str(path), _Handler)
        path.chmod(0o600)
        self.program = program
        threading.Thread(target=self.serve_forever, name="control", daemon=True).start()


class _Handler(socketserver.StreamRequestHandler):
    server: Control

    def handle(self) -> None:
        try:
            verb = json.loads(self.rfile.readline(MAX_LINE))["verb"]
            calls: dict[str, Callable[[], object]] = {
                "status": lambda: None,
                "pause": self.server.program.pause,
                "resume": self.server.program.resume,
                "stop": self.server.program.stop,
            }
            calls[verb]()
        except (ValueError, KeyError, TypeError):
            self.wfile.write(b'{"error": "no verb of mine"}\n')
            return
        self.wfile.write(json.dumps(asdict(self.server.program.status())).encode() + b"\n")


def ask(path: Path, verb: str, timeout: float) -> dict[str, Any]:
    """The recorder's state after the verb. OSError when nobody listens; ValueError for an answer that is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(json.dumps({"verb": verb}).encode() + b"\n")
        with connection.makefile("rb") as answers:
            line = answers.readline(MAX_LINE)
    if not line:
        raise ConnectionResetError("the recorder ended before it answered")
    answer: dict[str, Any] = json.loads(line)
    return answer
