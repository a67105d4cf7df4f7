"""The agent itself, as a process of this machine, with a socket for a port."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from labyard.testing.vm.client import Agent
from labyard.testing.vm.image.manifest import GUEST
from labyard.testing.vm.vm import VM, Started
from labyard.testing.waiting import PATIENCE

SERVE = """
import os, sys
from guest.visitor import Visitor
port = int(sys.argv[1])
os.set_inheritable(port, False)
os.set_blocking(port, False)
Visitor(port).serve()
"""


@pytest.fixture
def agent() -> Iterator[Agent]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", SERVE, str(theirs.fileno())],
            cwd=GUEST.parent,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    connection = Agent(ours)
    try:
        connection.hello(PATIENCE)
        yield connection
    finally:
        connection.close()
        assert process.wait(PATIENCE) in (0, -9)  # as a visitor it ends with its host; some tests kill it


@pytest.fixture
def vm(agent: Agent) -> VM:
    """What a test holds, without a VM below."""
    started = Started(SimpleNamespace(agent=agent, name="agent"), {}, "none", 0.0)  # type: ignore[arg-type]
    return VM(lambda: started, lambda _: None, lambda data: str(hash(data)), "tcg")
