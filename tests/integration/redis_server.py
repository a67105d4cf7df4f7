"""A Redis server of the tests' own: a process, a folder in /tmp, a socket in it, no TCP. Keeps nothing.

Tests use its index 1.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from labyard.testing.waiting import wait_until


class Server:
    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis.sock"
        self._folder = folder
        self.url = f"unix://{self._socket}?db=1"
        self.start()

    def start(self) -> None:
        # redis-tools has the server under this name, and unlike redis-server starts no service when installed.
        program = shutil.which("redis-check-rdb")
        assert program, "apt-get install redis-tools"
        command = ["redis-server", "--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, executable=program, stdout=subprocess.DEVNULL)
        wait_until(self._answers, "Redis answers", despite=redis.ConnectionError)

    def _answers(self) -> bool:
        assert self.process.poll() is None, "Redis has ended"
        return bool(redis.Redis.from_url(self.url).ping())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.unlink(missing_ok=True)


@contextmanager
def server() -> Iterator[Server]:
    # Not pytest's folder: its name may be too long for a socket's.
    with tempfile.TemporaryDirectory(prefix="labyard-redis-") as folder:
        running = Server(Path(folder))
        try:
            yield running
        finally:
            running.kill()
