"""A service over real HTTP, in a thread of the test: for its clients, commands and modules."""

from __future__ import annotations

import threading
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from labyard.testing.waiting import PATIENCE, wait_until


class LiveServer:
    """The app on a port of its own. `stop` and `start` again: the service restarts."""

    def __init__(self, build: Callable[[], FastAPI], port: int) -> None:
        self._build = build
        self._port = port
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        self.app = self._build()
        config = uvicorn.Config(self.app, "127.0.0.1", self._port, log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(self._is_up, "the service is up")

    def _is_up(self) -> bool:
        assert self._thread.is_alive(), "the service has ended"
        return self._server.started

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
