"""Remote desktops. What needs xrdp is measured on the lab; the rest with processes of this machine, on a PostgreSQL and
a Redis of its own: tests/integration/desktops/measure_desktops.py has those."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.command import clean_environment, run
from labyard.bench.desktops_stand import Server, Stand, each, stand_of
from labyard.desktops.agent.rdp.negotiate import NegotiationError, negotiate
from labyard.desktops.recorder.errors import NoPicture

STARTS = 5
FRAMES = 3
TOGETHER = 10
PATIENCE = 30  # s
POLL = 0.02  # s
FOLDER = "tests/integration/desktops"
MEASURED = f"{FOLDER}/measure_desktops.py"
KILLED = f"{FOLDER}/test_recording_chain.py::test_everything_is_killed_in_turn"
MEASURED_SECONDS = 300


def rdp_ready(bench: Bench) -> float:
    """Median, in ms, from asking for a start until this machine has negotiated X.224 and TLS on the port."""
    with stand_of(bench) as stand:
        (server,) = stand.servers(1)
        taken = []
        for _ in range(STARTS):
            began = time.perf_counter()
            stand.start(server)
            _negotiated(stand, server)
            taken.append((time.perf_counter() - began) * 1000)
            stand.stop(server)
    bench.say(f"ready after {', '.join(f'{value:.0f}' for value in taken)} ms")
    return statistics.median(taken)


def first_frame(bench: Bench) -> float:
    """Median, in ms, from asking for a start until a FreeRDP client of this machine shows the desktop."""
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


def concurrent_rdp(bench: Bench) -> float:
    """How many servers, started at once, ran with a client connected to each."""
    with stand_of(bench) as stand, ExitStack() as clients:
        servers = stand.servers(TOGETHER)
        began = time.perf_counter()
        each(stand.start, servers)
        bench.say(f"{TOGETHER} at once: all running after {time.perf_counter() - began:.1f} s")
        for server in servers:
            clients.enter_context(_client(stand, server))
        bench.say(f"all have a client that shows the desktop after {time.perf_counter() - began:.1f} s")
        return sum(_sees(stand, server) for server in servers)


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


@cache
def _of_processes(bench: Bench, test: str) -> dict[str, float]:
    """Runs one test, which records what it measured. MeasureError when it fails or is skipped."""
    with tempfile.TemporaryDirectory(prefix="labyard-bench-") as folder:
        file = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={file}", test]
        environment = {
            name: value for name, value in clean_environment(venv=True).items() if not name.startswith("LABYARD_")
        }
        run(command, folder=bench.checkout, environment=environment, timeout=MEASURED_SECONDS)
        case = ElementTree.parse(file).find(".//testcase")
    skipped = None if case is None else case.find("skipped")
    if case is None or skipped is not None:
        raise MeasureError(f"{test} did not run: {'' if skipped is None else skipped.get('message')}")
    properties = {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}
    if said := properties.pop("say", ""):
        bench.say(said)
    return {name: float(value) for name, value in properties.items()}


def api_p95(bench: Bench) -> float:
    """95th percentile, in ms, of reads of all kinds that come 100 a second, whether or not the last was answered."""
    return _of_processes(bench, f"{MEASURED}::test_reads")["p95_ms"]


def poot_batch(bench: Bench) -> float:
    """Median, in ms, of validating 100 PoOT in one call."""
    return _of_processes(bench, f"{MEASURED}::test_poot")["batch_ms"]


def payouts_per_s(bench: Bench) -> float:
    """How many PoOT a second are paid in one batch of 1000, on a PostgreSQL that writes through to the disk."""
    return _of_processes(bench, f"{MEASURED}::test_poot")["payouts_per_s"]


def capture_drop(bench: Bench) -> float:
    """Frames that were dropped, in percent, while three displays were recorded with 5 frames a second."""
    return _of_processes(bench, f"{MEASURED}::test_recording")["drop_pct"]


def end_to_end(bench: Bench) -> float:
    """Median, in s, from a change of a recorded display until it is in a committed chunk."""
    return _of_processes(bench, f"{MEASURED}::test_recording")["end_to_end_s"]


def lost_chunks(bench: Bench) -> float:
    """Committed chunks that are missing after recorder, service, PostgreSQL and Redis were killed in turn."""
    return _of_processes(bench, KILLED)["lost_chunks"]


MEASURES: dict[str, Measure] = {
    "desktops.rdp_ready_ms": rdp_ready,
    "desktops.first_frame_ms": first_frame,
    "desktops.concurrent_rdp": concurrent_rdp,
    "desktops.api_p95_ms": api_p95,
    "desktops.poot_batch_ms": poot_batch,
    "desktops.payouts_per_s": payouts_per_s,
    "desktops.capture_drop_pct": capture_drop,
    "desktops.end_to_end_s": end_to_end,
    "desktops.lost_chunks": lost_chunks,
}
