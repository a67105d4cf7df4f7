"""What the desktops service and the agent beside it take while nobody uses them: read on the lab's host, from /proc."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.bench.desktops_stand import Stand, stand_of

UNITS = ("labyard-desktops.service", "labyard-desktop-agent.service")
SETTLE = 5  # s until what was cleared away counts as gone
WATCHED = 20  # s
KIB = 1024


@dataclass(frozen=True)
class Rest:
    """What both took together: memory in MiB, processor in percent of one core. Network: bytes a second of their host,
    to and from others, whoever it was."""

    mib: float
    cpu_pct: float
    network: float


@cache
def _rest(bench: Bench) -> Rest:
    with stand_of(bench) as stand:
        busy = [server["name"] for server in stand.api.servers(status="running")]
        busy += [session["session_id"] for session in stand.api.sessions(status="recording")]
        if busy:
            raise MeasureError(f"the lab is in use, by {', '.join(busy)}: at rest it has no such")
        processes = _processes(stand)
        time.sleep(SETTLE)
        before, sent_before, began = _cpu_ticks(stand, processes), network_bytes(stand), time.perf_counter()
        time.sleep(WATCHED)
        ticks, seconds = _cpu_ticks(stand, processes) - before, time.perf_counter() - began
        sent = network_bytes(stand) - sent_before
        a_second = int(stand.on_host("getconf CLK_TCK"))
        memory = stand.on_host(f"grep -h ^VmRSS: {_files(processes, 'status')}")
    kib = [int(line.split()[1]) for line in memory.splitlines()]
    rest = Rest(sum(kib) / KIB, 100 * ticks / a_second / seconds, sent / seconds)
    each = ", ".join(f"{unit} {size / KIB:.0f} MiB" for unit, size in zip(UNITS, kib, strict=True))
    bench.say(f"at rest: {each}; {rest.cpu_pct:.1f} % of a core, {sent} bytes over the network in {seconds:.0f} s")
    return rest


def _processes(stand: Stand) -> list[str]:
    """The numbers of the units' processes: one each."""
    found = stand.on_host(f"systemctl show --property MainPID --value {' '.join(UNITS)}").split()
    if len(found) != len(UNITS) or "0" in found:
        raise MeasureError(f"not running on the lab's host: one of {', '.join(UNITS)}")
    return found


def _files(processes: list[str], name: str) -> str:
    return " ".join(f"/proc/{process}/{name}" for process in processes)


def _cpu_ticks(stand: Stand, processes: list[str]) -> int:
    """User and system time of them, and of the commands that they ran meanwhile."""
    lines = stand.on_host(f"cat {_files(processes, 'stat')}").splitlines()
    # proc(5): utime, stime, cutime, cstime; a name in parentheses before them may hold anything.
    return sum(int(field) for line in lines for field in line.rpartition(")")[2].split()[11:15])


def network_bytes(stand: Stand) -> int:
    """Received and sent by the host so far, over all of its interfaces but the loopback."""
    total = 0
    for line in stand.on_host("cat /proc/net/dev").splitlines():
        name, colon, numbers = line.partition(":")
        if colon and name.strip() != "lo":
            fields = numbers.split()
            total += int(fields[0]) + int(fields[8])
    return total


def idle_mib(bench: Bench) -> float:
    """Resident memory of service and agent, in MiB."""
    return _rest(bench).mib


def idle_cpu(bench: Bench) -> float:
    """Processor time of both, in percent of one core."""
    return _rest(bench).cpu_pct


def idle_network(bench: Bench) -> float:
    """Bytes a second of their host: theirs are among them."""
    return _rest(bench).network


MEASURES: dict[str, Measure] = {
    "desktops.idle_mib": idle_mib,
    "desktops.idle_cpu_pct": idle_cpu,
    "desktops.idle_network": idle_network,
}
