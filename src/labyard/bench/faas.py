"""Functions: faasd on a host of its own on this machine (network and mount namespace), with runc; no lab is needed."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from labyard.bench import faas_cold
from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.command import clean_environment, run
from labyard.testing.faas.host import Host
from labyard.testing.faas.stock import handler_archive
from labyard.testing.waiting import wait_until

SUITE = Path("tests/integration/faas")
HANDLER = SUITE / "test_handler.py"
GREETING = b"Hello from FaaS handler!"
SUITE_SECONDS = 1800
SUITE_WORKERS = 2
ROUNDS = 30  # of a request and a bare run
WARM_ROUNDS = 50
AT_ONCE = 100
IN_A_ROW = 1000
HANDLERS = 50
CLEANING = 10  # s after the last request until what is left counts as left


@contextmanager
def _host() -> Iterator[Host]:
    """A host without a daemon yet. MeasureError when this machine cannot have one."""
    if os.geteuid() != 0:
        raise MeasureError("functions are measured as root: run it with sudo")
    if missing := [name for name in ("runc", "ip", "unshare", "nsenter") if not shutil.which(name)]:
        raise MeasureError(f"not installed: {', '.join(missing)}; `make bootstrap` does it")
    with TemporaryDirectory(prefix="labyard-bench-") as folder:
        host = Host(Path(folder))
        try:
            yield host
        finally:
            host.close()


@cache
def _archive(bench: Bench) -> bytes:
    return handler_archive(bench.checkout / HANDLER)


def cold_ratio(bench: Bench) -> float:
    """Median request without parked handlers, connect to last byte, by the median of `runc run` of the same tree."""
    with _host() as host:
        host.start(warm=0)
        ip = host.function("cold", _archive(bench))
        rootfs = json.loads(host.path("/var/lib/faasd/registry.json").read_text())["cold"]["rootfs"]
        asked = {"ip": ip, "port": 80, "rootfs": rootfs, "folder": "/run/bench", "rounds": ROUNDS}
        try:
            done = host.run(sys.executable, str(faas_cold.__file__), json.dumps(asked))
        except subprocess.CalledProcessError as error:
            raise MeasureError(f"the bare runs failed: {error.stderr.strip()}") from error
        taken = {name: statistics.median(times) for name, times in json.loads(done.stdout).items()}
    bench.say(f"request {taken['requests']:.1f} ms, bare runc run {taken['bare']:.1f} ms, medians of {ROUNDS} in turns")
    return float(taken["requests"] / taken["bare"])


def warm_ms(bench: Bench) -> float:
    """Median request, in ms, each of which finds the one parked handler."""
    taken = []
    with _host() as host:
        host.start(warm=1)
        ip = host.function("warm", _archive(bench))

        def parked() -> bool:
            return bool(host.api("GET", "/api/function/warm").json["pool"].get("parked"))

        for _ in range(WARM_ROUNDS):
            wait_until(parked, "a handler is parked")
            taken.append(_asked(host, ip) * 1000)
        hits = host.api("GET", "/api/function/warm").json["stats"]["warm_hits"]
    if hits != WARM_ROUNDS:
        raise MeasureError(f"{hits} of {WARM_ROUNDS} requests found a parked handler")
    best, median, worst = min(taken), statistics.median(taken), max(taken)
    bench.say(f"parked handler: best {best:.2f} ms, median {median:.2f} ms, worst {worst:.2f} ms of {WARM_ROUNDS}")
    return statistics.median(taken)


def _asked(host: Host, ip: str) -> float:
    """Seconds of one request. MeasureError when the handler did not answer it."""
    answer = host.get(ip)
    if answer.status != 200 or not answer.body.startswith(GREETING):
        raise MeasureError(f"{ip} answered {answer.status} {answer.body[:200]!r}")
    return answer.seconds


def _answered(host: Host, ip: str, said: list[str]) -> bool:
    try:
        _asked(host, ip)
    except (MeasureError, OSError) as error:
        said.append(str(error))
        return False
    return True


@cache
def _load(bench: Bench) -> dict[str, float]:
    """All the load on one daemon, with the role's settings; then all functions are removed and what is left counted."""
    with _host() as host:
        host.start(warm=1)
        ip = host.function("load", _archive(bench))
        _asked(host, ip)
        host.api("DELETE", "/api/function/load")
        host.settle(CLEANING)
        before = {"descriptors": host.descriptors(), "threads": host.threads()}

        ip, said = host.function("load", _archive(bench)), list[str]()
        found: dict[str, float] = {
            "concurrent": _timed(bench, f"{AT_ONCE} at once", lambda: _at_once(host, ip, said)),
            "sequential": _timed(
                bench, f"{IN_A_ROW} in a row", lambda: sum(_answered(host, ip, said) for _ in range(IN_A_ROW))
            ),
            "handlers": _timed(bench, f"{HANDLERS} deployed and asked", lambda: _handlers(bench, host, said)),
        }
        if said:
            bench.say(f"{len(said)} were not answered; the first: {said[0]}")
        for name in host.api("GET", "/api/list").json:
            host.api("DELETE", f"/api/function/{name}")
        with suppress(AssertionError):
            host.settle(CLEANING)
        left = {name: len(entries) for name, entries in host.leftovers().items()}
        left |= {"addresses": _labelled(host), "descriptors": host.descriptors() - before["descriptors"]}
        left["threads"] = host.threads() - before["threads"]
        code = host.stop()
        left["addresses after the end"] = _labelled(host)
        leaks = {name: count for name, count in left.items() if count > 0}
        bench.say(f"left: {leaks or 'nothing'}; the daemon exited with {code}")
        return found | {"leaks": sum(leaks.values())}


def _timed(bench: Bench, what: str, count: Callable[[], int]) -> int:
    began = time.perf_counter()
    found = count()
    bench.say(f"{what}: {found} answered in {time.perf_counter() - began:.1f} s")
    return found


def _at_once(host: Host, ip: str, said: list[str]) -> int:
    ready = threading.Barrier(AT_ONCE)

    def ask(_: int) -> bool:
        ready.wait()
        return _answered(host, ip, said)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(ask, range(AT_ONCE)))


def _handlers(bench: Bench, host: Host, said: list[str]) -> int:
    """Without parked ones: they would take memory, and are not what is counted."""
    addresses = [host.function(f"one-{number}", _archive(bench), {"warm": 0}) for number in range(HANDLERS)]
    return sum(_answered(host, ip, said) for ip in set(addresses))


def _labelled(host: Host) -> int:
    return sum(label == "lo:faas" for label in host.addresses().values())


def concurrent(bench: Bench) -> float:
    """How many of the requests that came at once were answered."""
    return _load(bench)["concurrent"]


def sequential(bench: Bench) -> float:
    """How many of the requests in a row were answered."""
    return _load(bench)["sequential"]


def handlers(bench: Bench) -> float:
    """How many functions answered that were deployed beside each other."""
    return _load(bench)["handlers"]


def leaks(bench: Bench) -> float:
    """What is left of all that: processes, mounts, bundles, groups, sockets, descriptors, threads, addresses."""
    return _load(bench)["leaks"]


def vmtests_s(bench: Bench) -> float:
    """Seconds of the requirement's tests in VMs, two side by side, pytest's start included. MeasureError when one fails
    or is skipped."""
    environment = {
        name: value for name, value in clean_environment(venv=True).items() if not name.startswith("LABYARD_FAAS_")
    }
    workers = ["-n", str(SUITE_WORKERS), "--dist", "worksteal"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, "-m", "vmtest", "--vm-require"]
    done = run([*command, str(SUITE)], folder=bench.checkout, environment=environment, timeout=SUITE_SECONDS)
    said = done.output.rstrip().splitlines()[-1]
    if "skipped" in said or "passed" not in said:
        raise MeasureError(f"not all tests passed: {said}")
    bench.say(said.strip("= "))
    return done.seconds


MEASURES: dict[str, Measure] = {
    "faas.cold_ratio": cold_ratio,
    "faas.warm_ms": warm_ms,
    "faas.concurrent": concurrent,
    "faas.sequential": sequential,
    "faas.handlers": handlers,
    "faas.leaks": leaks,
    "faas.vmtests_s": vmtests_s,
}
