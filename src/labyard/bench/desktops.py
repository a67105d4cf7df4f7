"""Remote desktops. RDP servers, and what all takes at rest, are measured on the lab; the rest with processes of this
machine (desktops_processes.py)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache

from labyard.bench import desktops_idle, desktops_processes
from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.desktops_stand import Server, Stand, each, need_clients, stand_of
from labyard.bench.figure import p95
from labyard.desktops.agent.rdp.negotiate import NegotiationError, negotiate
from labyard.desktops.recorder.errors import NoPicture

STARTS = 5
FRAMES = 3
TOGETHER = 10
ASKED = 10  # times in each turn
PATIENCE = 30  # s
POLL = 0.02  # s


@dataclass(frozen=True)
class Turns:
    """What was done with servers one after the other, and how long each took, in ms."""

    created: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)


@cache
def _turns(bench: Bench) -> Turns:
    turns = Turns()
    with stand_of(bench) as stand:
        for number in range(TOGETHER):
            with _clock(turns.created):
                server = stand.server(number)
        for _ in range(STARTS):
            with _clock(turns.ready):
                stand.start(server)
                _negotiated(stand, server)
            for _ in range(ASKED):
                with _clock(turns.asked):
                    stand.usage(server)
            with _clock(turns.stopped):
                stand.stop(server)
    bench.say(f"ready after {', '.join(f'{value:.0f}' for value in turns.ready)} ms")
    said = ((name, getattr(turns, name)) for name in ("created", "asked", "stopped"))
    bench.say("; ".join(f"{name}: {statistics.median(taken):.0f} ms, worst {max(taken):.0f}" for name, taken in said))
    return turns


@contextmanager
def _clock(taken: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    taken.append((time.perf_counter() - began) * 1000)


def rdp_create(bench: Bench) -> float:
    """The longest, in ms, of ten creations of a server."""
    return max(_turns(bench).created)


def rdp_ready(bench: Bench) -> float:
    """Median, in ms, from asking for a start until this machine has negotiated X.224 and TLS on the port."""
    return statistics.median(_turns(bench).ready)


def rdp_usage(bench: Bench) -> float:
    """95th percentile, in ms, of 50 answers to what a running server uses."""
    return p95(_turns(bench).asked)


def rdp_stop(bench: Bench) -> float:
    """The longest, in ms, of five stops of a server."""
    return max(_turns(bench).stopped)


def first_frame(bench: Bench) -> float:
    """Median, in ms, from asking for a start until a FreeRDP client of this machine shows the desktop."""
    need_clients()
    with stand_of(bench) as stand:
        (server,) = stand.servers(1)
        taken = []
        for _ in range(FRAMES):
            began = time.perf_counter()
            stand.start(server)
            with _client(stand, server):
                taken.append((time.perf_counter() - began) * 1000)
            stand.stop(server)
    bench.say(f"a client showed the desktop after {', '.join(f'{value:.0f}' for value in taken)} ms")
    return statistics.median(taken)


@cache
def _together(bench: Bench) -> tuple[float, int]:
    """Seconds until all servers that were started at once ran, and how many had a client then."""
    need_clients()
    with stand_of(bench) as stand, ExitStack() as clients:
        servers = stand.servers(TOGETHER)
        began = time.perf_counter()
        each(stand.start, servers)
        started = time.perf_counter() - began
        bench.say(f"{TOGETHER} at once: all running after {started:.1f} s")
        for server in servers:
            clients.enter_context(_client(stand, server))
        bench.say(f"all have a client that shows the desktop after {time.perf_counter() - began:.1f} s")
        return started, sum(_sees(stand, server) for server in servers)


def ten_starts(bench: Bench) -> float:
    """Seconds until ten servers that were started at once ran."""
    return _together(bench)[0]


def concurrent_rdp(bench: Bench) -> float:
    """How many servers, started at once, ran with a client connected to each."""
    return _together(bench)[1]


def _negotiated(stand: Stand, server: Server) -> None:
    try:
        negotiate(stand.address(server), server["port"], True, PATIENCE)
    except NegotiationError as error:
        raise MeasureError(f"{server['name']} was started, and from here: {error}") from error


@contextmanager
def _client(stand: Stand, server: Server) -> Iterator[None]:
    """One that shows the desktop. MeasureError."""
    from labyard.desktops.picture import (
        connected,
        is_painted,
        screen,
    )  # here: the other figures do without its libraries

    try:
        with connected(stand.access(server), server["configuration"]) as number:
            deadline = time.monotonic() + PATIENCE
            while not is_painted(screen(number)):
                if time.monotonic() > deadline:
                    raise MeasureError(f"in {PATIENCE} s a client of {server['name']} showed nothing but black")
                time.sleep(POLL)
            yield
    except NoPicture as error:
        raise MeasureError(f"{server['name']} is running, and its client: {error}") from error


def _sees(stand: Stand, server: Server) -> bool:
    """Whether the service, which looks once a second, sees a client there."""
    deadline = time.monotonic() + PATIENCE
    while not stand.clients(server):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


MEASURES: dict[str, Measure] = {
    "desktops.rdp_create_ms": rdp_create,
    "desktops.rdp_ready_ms": rdp_ready,
    "desktops.rdp_usage_ms": rdp_usage,
    "desktops.rdp_stop_ms": rdp_stop,
    "desktops.first_frame_ms": first_frame,
    "desktops.ten_starts_s": ten_starts,
    "desktops.concurrent_rdp": concurrent_rdp,
    **desktops_idle.MEASURES,
    **desktops_processes.MEASURES,
}
