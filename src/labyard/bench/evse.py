"""Charger pairs, as processes of this machine on the ports of the port plan; no lab is needed."""

from __future__ import annotations

import json
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.command import clean_environment, run
from labyard.evse.rapi import encode
from labyard.testing import host_lock
from labyard.testing.evse import Pair, Pairs, Settings, backend_of

SUITE = "tests/integration/evse/test_loadsharing_peer_management.py"
SUITE_SECONDS = 300
SIMULATION_SECONDS = 120
STARTS = 5
FEW, FEW_TIMES = 4, 3
MANY = 20
ROUND_TRIPS = 2000
WATCHED = 10  # s
PATIENCE = 60  # s
HEARTBEAT_TIMEOUT = 5  # s, the shortest that there is
STEP = 0.02  # s between two looks


@contextmanager
def _pairs(bench: Bench, what: str) -> Iterator[Pairs]:
    """Ours, whatever the environment names, with the host's chargers to themselves."""
    settings = Settings()
    with (
        host_lock(f"bench: {what}", say=bench.say),
        TemporaryDirectory() as folder,
        Pairs(settings, backend_of(settings, Path(folder))) as pairs,
    ):
        yield pairs


# One client for all: each reads the certificates of the world when it is made, which takes longer than a call.
@cache
def _http() -> httpx.Client:
    return httpx.Client(timeout=10, limits=httpx.Limits(max_keepalive_connections=0))


def _get(url: str) -> Any:
    answer = _http().get(url)
    answer.raise_for_status()
    return answer.json()


def _post(url: str, **body: Any) -> None:
    answer = _http().post(url, json=body)
    if not answer.is_success:
        raise MeasureError(f"POST {url}: {answer.status_code} {answer.text}")


def _seconds_until(holds: Callable[[], object], what: str) -> float:
    began = time.perf_counter()
    while not holds():
        if time.perf_counter() - began > PATIENCE:
            raise MeasureError(f"in {PATIENCE} s it did not come to this: {what}")
        time.sleep(STEP)
    return time.perf_counter() - began


def suite_s(bench: Bench) -> float:
    """Seconds that the requirement's 14 tests take, pytest's own start included. MeasureError when one fails."""
    environment = {
        name: value
        for name, value in clean_environment(venv=True).items()
        if not name.startswith("LABYARD_") and name not in ("NATIVE_BINARY_PATH", "NUM_INSTANCES")
    }
    environment["LABYARD_EVSE_LOCK"] = "held"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE]
    with host_lock("bench: suite_s", say=bench.say):
        done = run(command, folder=bench.checkout, environment=environment, timeout=SUITE_SECONDS)
    said = done.output.rstrip().splitlines()[-1]
    if "14 passed" not in said or "skipped" in said:
        raise MeasureError(f"the 14 tests did not pass: {said}")
    return done.seconds


def pair_ready(bench: Bench) -> float:
    """Median, in ms, of starting one pair: until emulator, terminal and gateway are ready."""
    taken = []
    with _pairs(bench, "pair_ready_ms") as pairs:
        for _ in range(STARTS):
            began = time.perf_counter()
            pairs.start([0])
            taken.append((time.perf_counter() - began) * 1000)
            pairs.stop()
    bench.say(f"a pair was ready after {', '.join(f'{value:.0f}' for value in taken)} ms")
    return statistics.median(taken)


def _discover(group: list[Pair]) -> float:
    """Seconds from asking all to look until each lists exactly the others as online."""
    wanted = {
        pair["native_url"]: f"{_get(pair['native_url'] + '/config')['hostname']}.local:{pair['native_port']}"
        for pair in group
    }
    waiting = list(wanted)
    began = time.perf_counter()
    for url in wanted:
        _post(f"{url}/loadsharing/discover")

    def all_found() -> bool:
        while waiting:
            peers = _get(f"{waiting[0]}/loadsharing/peers")
            if {peer["host"] for peer in peers if peer["online"]} != set(wanted.values()) - {wanted[waiting[0]]}:
                return False
            waiting.pop(0)
        return True

    _seconds_until(all_found, f"each of {len(group)} gateways lists exactly the others")
    return time.perf_counter() - began


def discovery(bench: Bench) -> float:
    """Median, in ms, of the discovery of 4 gateways by each other, asked for as soon as they are ready."""
    taken = []
    with _pairs(bench, "discovery_ms") as pairs:
        for _ in range(FEW_TIMES):
            taken.append(_discover(pairs.start(range(FEW))) * 1000)
            pairs.stop()
    bench.say(f"{FEW} gateways found each other in {', '.join(f'{value:.0f}' for value in taken)} ms")
    return statistics.median(taken)


@cache
def _many(bench: Bench) -> dict[str, float]:
    """20 pairs: they find each other, and then all charge in one group whose budget gives each 10 A."""
    with _pairs(bench, "pairs_per_host") as pairs:
        began = time.perf_counter()
        group = pairs.start(range(MANY))
        bench.say(f"{MANY} pairs were ready after {time.perf_counter() - began:.1f} s")
        found = _discover(group) * 1000
        _share(group, group_max_current=10 * MANY)
        for pair in group:
            _charge(pair)

        def amps() -> list[float]:
            return [_get(f"{pair['emulator_url']}/api/evse/status")["actual_current"] for pair in group]

        settled = _seconds_until(lambda: amps() == [10.0] * MANY, f"{MANY} cars draw 10 A each")
        processes = psutil.Process().children(recursive=True)
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        time.sleep(WATCHED)
        used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
        memory = sum(process.memory_full_info().pss for process in processes) / 1e6
        if (drawn := amps()) != [10.0] * MANY:
            raise MeasureError(f"after {WATCHED} s in one group the cars draw {drawn} A, not 10 A each")
        bench.say(
            f"all {MANY} drew 10 A after {settled:.1f} s; then the {len(processes)} processes used "
            f"{used / WATCHED * 100:.0f} % of a processor and {memory:.0f} MB"
        )
        return {"discovery": found, "pairs": len(drawn)}


def discovery_20(bench: Bench) -> float:
    """The same with 20 gateways, in ms."""
    return _many(bench)["discovery"]


def pairs_per_host(bench: Bench) -> float:
    """How many pairs charged on this machine in one group, each with its share."""
    return _many(bench)["pairs"]


def _share(group: list[Pair], **options: Any) -> None:
    """Make the first one the controller of the others."""
    controller, members = group[0], group[1:]
    options |= {"enabled": True, "role": "controller", "heartbeat_timeout": HEARTBEAT_TIMEOUT}
    _post(f"{controller['native_url']}/config", **{f"loadsharing_{name}": value for name, value in options.items()})
    for member in members:
        _post(f"{controller['native_url']}/loadsharing/peers", host=f"127.0.0.1:{member['native_port']}")
    status = f"{controller['native_url']}/loadsharing/status"
    _seconds_until(lambda: _get(status)["online_count"] == len(group), "all members are online")


def _charge(pair: Pair) -> None:
    for action in ("connect", "request_charge"):
        _post(f"{pair['emulator_url']}/api/ev/{action}")


def rapi_rtt(bench: Bench) -> float:
    """Median, in µs, of a `$GS` and its reply over TCP."""
    question, taken = encode("GS"), []
    with _pairs(bench, "rapi_rtt_us") as pairs:
        (pair,) = pairs.start([0])
        with socket.create_connection(("127.0.0.1", pair["rapi_port"]), timeout=10) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.recv(1000)  # its greeting
            for _ in range(ROUND_TRIPS):
                began = time.perf_counter()
                line.sendall(question)
                if not line.recv(1000).startswith(b"$OK"):
                    raise MeasureError("the emulator did not answer $GS with $OK")
                taken.append((time.perf_counter() - began) * 1e6)
    bench.say(f"round trip: median {statistics.median(taken):.0f} µs, worst {max(taken):.0f} µs of {ROUND_TRIPS}")
    return statistics.median(taken)


def budget_violations(bench: Bench) -> float:
    """Moments above the budget in the simulated day of four chargers, with its faults."""
    # Exits with 1 when there is one; the figure is to be told all the same.
    words = "import sys; from labyard.evse.simulator.__main__ import main; main([]); sys.exit(0)"
    done = run(
        [sys.executable, "-c", words],
        folder=bench.checkout,
        environment=clean_environment(venv=True),
        timeout=SIMULATION_SECONDS,
    )
    result = json.loads(done.output)
    bench.say(f"{result['duration_s'] / 3600:.0f} h in {done.seconds:.1f} s")
    return float(result["violations"])


def failsafe_s(bench: Bench) -> float:
    """Seconds from killing a controller's gateway until its member's EVSE offers no more than the safe current."""
    with _pairs(bench, "failsafe_s") as pairs:
        group = pairs.start(range(2))
        _share(group, group_max_current=32, failsafe_safe_current=6)
        member = group[1]
        status = f"{member['emulator_url']}/api/evse/status"
        for pair in group:
            _charge(pair)
        _seconds_until(lambda: _get(status)["current_capacity"] == 16, "the member has its share")
        _kill_listener(group[0]["native_port"])
        return _seconds_until(lambda: _get(status)["current_capacity"] <= 6, "the member falls back")


def _kill_listener(port: int) -> None:
    for found in psutil.net_connections("tcp"):
        if found.pid and found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port:
            psutil.Process(found.pid).kill()
            return
    raise MeasureError(f"nothing listens on port {port}")


MEASURES: dict[str, Measure] = {
    "evse.suite_s": suite_s,
    "evse.pair_ready_ms": pair_ready,
    "evse.discovery_ms": discovery,
    "evse.discovery_20_ms": discovery_20,
    "evse.pairs_per_host": pairs_per_host,
    "evse.rapi_rtt_us": rapi_rtt,
    "evse.budget_violations": budget_violations,
    "evse.failsafe_s": failsafe_s,
}
