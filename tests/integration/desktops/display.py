"""A real X server without a screen, and something to see on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

PROGRAMS = ("Xvfb", "xauth", "xsetroot", "xrandr")
missing = [name for name in PROGRAMS if not shutil.which(name)]
needs_display = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


_modes = count()


@dataclass
class Display:
    number: int
    cookie: Path
    server: subprocess.Popen[bytes]

    def paint(self, colour: str) -> None:
        """Fill the whole screen; `#rrggbb`."""
        self.run("xsetroot", "-solid", colour)

    def resize(self, width: int, height: int) -> None:
        """Not above the size that it began with."""
        name = f"{width}x{height}-{next(_modes)}"
        timing = [25, width, width + 8, width + 16, width + 32, height, height + 1, height + 4, height + 20]
        self.run("xrandr", "--newmode", name, *map(str, timing))
        self.run("xrandr", "--addmode", "screen", name)
        self.run("xrandr", "--output", "screen", "--mode", name)

    def run(self, *command: str) -> None:
        environment = {**os.environ, "DISPLAY": f":{self.number}", "XAUTHORITY": str(self.cookie)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def kill(self) -> None:
        self.server.kill()
        self.server.wait()


@contextmanager
def display(folder: Path, size: str = "640x480", number: int | None = None) -> Iterator[Display]:
    """An Xvfb that only who has the cookie may look at. It takes a free number, unless one is given."""
    cookie = folder / "cookie"
    key = os.urandom(16).hex()
    readable, writable = os.pipe()
    # The server reads the cookie for whatever number it takes.
    _add_cookie(cookie, number or 0, key)
    numbered = [f":{number}"] if number is not None else []
    server = subprocess.Popen(
        [
            *("Xvfb", *numbered, "-displayfd", str(writable), "-screen", "0", f"{size}x24"),
            *("-auth", cookie, "-nolisten", "tcp", "-noreset"),
        ],
        pass_fds=[writable],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writable)
    try:
        with os.fdopen(readable) as told:
            answer = told.readline()
        assert answer.strip(), "Xvfb did not start"
        _add_cookie(cookie, int(answer), key)
        yield Display(int(answer), cookie, server)
    finally:
        server.kill()
        server.wait()


def _add_cookie(file: Path, number: int, key: str) -> None:
    file.touch(mode=0o600)
    subprocess.run(["xauth", "-q", "-f", file, "add", f":{number}", ".", key], check=True)
