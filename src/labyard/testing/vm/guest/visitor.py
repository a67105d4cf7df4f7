"""The agent as a visitor: on a machine that is not its own, for as long as its host is there."""

from __future__ import annotations

import contextlib
import os
import signal

from .agent import Agent

TYPE_CHECKING = False  # see frames
if TYPE_CHECKING:
    from .frames import Header


class Visitor(Agent):
    """Leaves the clock alone, and takes what it started with it."""

    def settime(self, key: int, header: Header, payload: bytes) -> None:
        self.send({"id": key, "end": True})

    def hung_up(self) -> None:
        for child in (*self.children.values(), *self.forgotten):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        raise SystemExit(0)


def main() -> None:
    """Serve on standard input and output."""
    os.set_blocking(0, False)
    os.set_blocking(1, False)
    Visitor(0, 1).serve()
