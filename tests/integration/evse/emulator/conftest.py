from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ports import free_port

from integration.evse.emulator.harness import EmulatorProcess, Rapi

Start = Callable[..., EmulatorProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an emulator with these arguments and waits until it is ready."""
    with ExitStack() as running:

        def begin(*arguments: str, env: dict[str, str] | None = None) -> EmulatorProcess:
            return running.enter_context(EmulatorProcess(tmp_path, *arguments, env=env)).wait_ready()

        yield begin


@pytest.fixture
def rapi_port() -> int:
    return free_port()


@pytest.fixture
def emulator(start: Start, rapi_port: int) -> EmulatorProcess:
    """One with RAPI on the TCP port `rapi_port`."""
    return start("--serial-mode", "tcp", "--serial-tcp-port", str(rapi_port))


@pytest.fixture
def connect(rapi_port: int) -> Iterator[Callable[[], Rapi]]:
    """New clients of `emulator`, greeted."""
    with ExitStack() as clients:

        def begin() -> Rapi:
            client = Rapi.tcp(rapi_port)
            clients.callback(client.close)
            client.wait_for("$AB 00 8.2.1")
            return client

        yield begin
