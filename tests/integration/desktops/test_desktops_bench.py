"""How the bench measures RDP servers, with real RDP servers and clients.

That they are xrdp is the lab's matter. Here the node keeps servers in memory, and clients find FreeRDP's own server on
their ports.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from fastapi import FastAPI
from live_server import LiveServer
from ports import free_port

from labyard.bench import desktops, desktops_idle, desktops_stand
from labyard.bench.bench import Bench, MeasureError
from labyard.desktops.adapters.agent import ServerSpec, ServerStatus
from labyard.desktops.agent.rdp.negotiate import negotiate
from labyard.desktops.app import build
from labyard.desktops.cli_where import Where
from labyard.desktops.service import Desktops
from labyard.desktops.settings import Settings
from labyard.testing.waiting import wait_until

from .conftest import OPERATORS
from .display import Display
from .fake_agent import FakeAgent, FakeAgents
from .test_external import pytestmark as needs_client
from .test_external import rdp_server, screen

__all__ = ["screen"]
pytestmark = needs_client


def two_ports() -> tuple[int, int]:
    """Free ones, the second next to the first."""
    while True:
        first = free_port()
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", first + 1))
            return first, first + 1


class Agent(FakeAgent):
    """Names the certificate that is really there."""

    def server_start(self, spec: ServerSpec, request_id: str) -> ServerStatus:
        found = negotiate("127.0.0.1", spec.port, True, 10).certificate_sha256
        status = replace(super().server_start(spec, request_id), certificate_sha256=found)
        self.servers[spec.server_id] = status
        return status


@pytest.fixture
def service(settings: Settings, screen: Display, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktops]:
    agents = FakeAgents()
    agents.agent = Agent()
    ports = two_ports()
    changed = settings.model_copy(
        update={"agent_socket": tmp_path / "agent.sock", "rdp_first_port": ports[0], "rdp_last_port": ports[1]}
    )

    def make() -> FastAPI:
        return build(changed, agents)

    with ExitStack() as stack:
        for port in ports:
            (tmp_path / str(port)).mkdir()
            stack.enter_context(rdp_server(screen, tmp_path / str(port), port))
        server = LiveServer(make, free_port())
        stack.callback(server.stop)
        found: Desktops = server.app.state.desktops
        token = found.auth.issue("bench", list(OPERATORS), timedelta(hours=1))
        monkeypatch.setattr(desktops_stand, "Where", lambda *_: Where(tmp_path, server.url, token))
        yield found


def test_servers_are_measured_and_gone(service: Desktops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desktops, "STARTS", 2)
    monkeypatch.setattr(desktops, "FRAMES", 1)
    monkeypatch.setattr(desktops, "TOGETHER", 2)
    said: list[str] = []
    bench = Bench(tmp_path, tmp_path, said.append)
    for taken in (desktops.rdp_create, desktops.rdp_ready, desktops.rdp_usage, desktops.rdp_stop, desktops.ten_starts):
        assert taken(bench) > 0
    assert desktops.first_frame(bench) > 0
    assert desktops.concurrent_rdp(bench) == 2
    assert len(said) == 5
    with desktops_stand.stand_of(bench) as stand:
        assert stand.api.servers() == []


def on_the_wire() -> tuple[set[str], int]:
    """This machine's interfaces but for its loopback, and the bytes that they have received and sent so far."""
    counters = psutil.net_io_counters(pernic=True)
    del counters["lo"]
    return set(counters), sum(one.bytes_recv + one.bytes_sent for one in counters.values())


def test_rest_is_read_from_proc(service: Desktops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(_: desktops_stand.Stand, command: str) -> str:
        found = subprocess.check_output(command, shell=True, text=True).strip()
        until = time.process_time() + 0.05
        while time.process_time() < until:  # so that it takes some, and does so between two looks at it
            pass
        return found

    monkeypatch.setattr(desktops_stand.Stand, "on_host", here)
    monkeypatch.setattr(desktops_idle, "_processes", lambda _: [str(os.getpid()), str(os.getppid())])
    monkeypatch.setattr(desktops_idle, "SETTLE", 0)
    monkeypatch.setattr(desktops_idle, "WATCHED", 1)
    memory = psutil.Process().memory_info().rss + psutil.Process(os.getppid()).memory_info().rss
    bench = Bench(tmp_path, tmp_path, print)
    assert desktops_idle.idle_mib(bench) == pytest.approx(memory / 2**20, rel=0.3)
    assert desktops_idle.idle_cpu(bench) > 0
    assert desktops_idle.idle_network(bench) >= 0
    with desktops_stand.stand_of(bench) as stand:

        def read_among_the_same() -> tuple[int, int, int] | None:
            (there, before), read, (still, after) = on_the_wire(), desktops_idle.network_bytes(stand), on_the_wire()
            return (before, read, after) if there == still else None

        # A container's interface comes and goes with it, and takes what it has counted along.
        before, read, after = wait_until(read_among_the_same, "no interface comes or goes meanwhile")
        assert before <= read <= after
        stand.api.create_server(desktops_stand.SERVER | {"name": "a person's"})
        stand.start(stand.api.server("a person's"))
    with pytest.raises(MeasureError, match="in use, by a person's"):
        desktops_idle.idle_mib(Bench(tmp_path, tmp_path, print))
