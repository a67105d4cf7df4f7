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

# It must not set this machine's clock, and ends with its host, which process 1 of a VM does not.
SERVE = """
import os, sys
from guest import agent
port = int(sys.argv[1])
os.set_inheritable(port, False)
os.set_blocking(port, False)
served = agent.Agent(port)
served.verbs["settime"] = lambda key, header, payload: served.send({"id": key, "end": True})
served.serve()
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
        connection.hello(10)
        yield connection
    finally:
        connection.close()
        process.kill()
        process.wait()


@pytest.fixture
def vm(agent: Agent) -> VM:
    """What a test holds, without a VM below."""
    started = Started(SimpleNamespace(agent=agent, name="agent"), {}, "none", 0.0)  # type: ignore[arg-type]
    return VM(lambda: started, lambda _: None, lambda data: str(hash(data)), "tcg")
