"""The VM manager on its VM host's libvirt."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.boot import MARK
from labyard.bench.command import clean_environment, run
from labyard.bench.vms_stand import each, stand_of

STARTS = 7
STOPS = 3
PLUGS = 10
MANY_VMS = 50
MANY_DISKS = 200
CHECKS = 10
TOGETHER = 10
TOGETHER_SECONDS = 180
SUITE = "playbooks/vms_integration.yml"
SUITE_RESULT = "build/vms-integration.json"
SUITE_SECONDS = 900


def timed(call: Callable[..., object], *given: Any) -> float:
    """How long a call takes, in ms."""
    began = time.perf_counter()
    call(*given)
    return (time.perf_counter() - began) * 1000


def _median(bench: Bench, what: str, taken: list[float]) -> float:
    median = statistics.median(taken)
    bench.say(f"{what}: median {median:.0f} ms, worst {max(taken):.0f} ms of {len(taken)}")
    return median


def start_to_running(bench: Bench) -> float:
    """Median, in ms, of a start with nothing else going on: asked for, answered, and the record says running."""
    with stand_of(bench) as stand:
        (name,) = stand.machines(1)

        def start() -> None:
            stand.api.start(name)
            if (state := stand.api.vm(name)["state"]) != "running":
                raise MeasureError(f"{name} was started, and its record says {state}")

        taken = []
        for _ in range(STARTS):
            taken.append(timed(start))
            stand.api.stop(name, force=True)
        return _median(bench, "start", taken)


def stop_graceful(bench: Bench) -> float:
    """Median, in ms, of a stop that the guest carries out itself. MeasureError when it had to be switched off."""
    with stand_of(bench) as stand:
        patience = float(stand.service.value("stop_timeout"))
        taken = []
        for _ in range(STOPS):
            name = stand.booted()
            taken.append(timed(stand.api.stop, name))
            if taken[-1] >= patience * 1000:
                raise MeasureError(f"the guest did not power off within {patience:g} s of being asked")
            stand.api.delete_vm(name)
        return _median(bench, "stop by the guest", taken)


@cache
def _plugs(bench: Bench) -> tuple[float, float]:
    with stand_of(bench) as stand:
        disks = stand.disks(PLUGS)
        name = stand.booted()
        attached, detached = [], []
        for disk in disks:
            attached.append(timed(stand.api.attach, disk, name))
            detached.append(timed(stand.api.detach, disk))
        return _median(bench, "plug in", attached), _median(bench, "unplug", detached)


def hotplug(bench: Bench) -> float:
    """Median, in ms, of plugging a disk into a machine that is up."""
    return _plugs(bench)[0]


def unplug(bench: Bench) -> float:
    """Median, in ms, of taking it out: answered when it is gone."""
    return _plugs(bench)[1]


def observer_check(bench: Bench) -> float:
    """Median, in ms, of a check of 50 machines and 200 disks, all with real definitions and files."""
    with stand_of(bench) as stand:
        making = timed(stand.machines, MANY_VMS) / 1000
        filling = timed(stand.disks, MANY_DISKS) / 1000
        bench.say(f"{MANY_VMS} machines made in {making:.1f} s, {MANY_DISKS} disks in {filling:.1f} s")

        def check() -> None:
            found = stand.api.check()
            if found["error"]:
                raise MeasureError(f"the observer could not look: {found['error']}")

        return _median(bench, "check", [timed(check) for _ in range(CHECKS)])


@cache
def _together(bench: Bench) -> float:
    """Seconds from starting machines at once until the last is in userland. MeasureError when one does not get there,
    or something of them is left."""
    with stand_of(bench) as stand:
        names = stand.machines(TOGETHER)
        began = time.perf_counter()
        each(stand.api.start, names, at_once=TOGETHER)
        running = time.perf_counter() - began
        stand.wait_for(names, MARK, TOGETHER_SECONDS)
        taken = time.perf_counter() - began
        bench.say(f"{TOGETHER} at once: all running after {running:.1f} s, all in userland after {taken:.1f} s")
        stand.clear()
        if left := stand.left():
            raise MeasureError("left after all were deleted: " + ", ".join(left))
        return taken


def concurrent(bench: Bench) -> float:
    """How many machines were started at once, reached userland and left nothing behind: all of them, or no figure."""
    _together(bench)
    return TOGETHER


def concurrent_s(bench: Bench) -> float:
    """Seconds until the last of them was in userland."""
    return _together(bench)


@cache
def _suite(bench: Bench) -> dict[str, float]:
    """Run the tests on the VM host and read what they left. MeasureError when one failed, or none passed.

    They are always run: the result of an earlier run is no measurement.
    """
    result = bench.checkout / SUITE_RESULT
    result.unlink(missing_ok=True)
    command = ["scripts/with-mitogen", "1", "ansible-playbook", "-i", str(bench.lab.inventory.path), SUITE]
    environment = clean_environment(venv=True) | {"ANSIBLE_CONFIG": str(bench.checkout / "ansible.cfg")}
    run(command, folder=bench.checkout, environment=environment, timeout=SUITE_SECONDS)
    if not result.exists():
        raise MeasureError(f"{SUITE} left no result in {SUITE_RESULT}")
    found: dict[str, float] = json.loads(result.read_text())
    said = ", ".join(f"{found[what]:g} {what}" for what in ("passed", "skipped", "failed", "leaks"))
    bench.say(f"integration tests: {said}, in {found['suite_s']:.0f} s")
    if found["failed"] or not found["passed"]:
        raise MeasureError(f"the integration tests did not pass: {said}")
    return found


def suite_s(bench: Bench) -> float:
    """Seconds that the integration tests with real machines take."""
    return _suite(bench)["suite_s"]


def leaks(bench: Bench) -> float:
    """QEMU processes, taps, leases and files that they left on the VM host."""
    return _suite(bench)["leaks"]


MEASURES: dict[str, Measure] = {
    "vms.start_to_running_ms": start_to_running,
    "vms.stop_graceful_ms": stop_graceful,
    "vms.hotplug_ms": hotplug,
    "vms.unplug_ms": unplug,
    "vms.observer_check_ms": observer_check,
    "vms.concurrent": concurrent,
    "vms.concurrent_s": concurrent_s,
    "vms.suite_s": suite_s,
    "vms.leaks": leaks,
}
