"""DHCP exchanges per second, by Kea's own load generator on the probe host, as a relay on the lab segment.

An exchange is discover, offer, request and acknowledgement. The clients are the same ones in every run (fixed
hardware addresses, at most a third of the pool), so that runs take the same leases rather than use the pool up.
Their leases stay until they expire: Kea has no command to remove them without its lease_cmds hook, which the lab
does not load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address

from labyard.bench.bench import Bench, Measure, MeasureError
from labyard.lab import LabHost

RATES = (1000, 2000, 3000, 4000, 5000, 6000, 8000)
SECONDS = 6
# Others may be using the machine; a rate is out of reach when it drops every time.
ATTEMPTS = 3
MOST_CLIENTS = 9000
FIRST_MAC = "02:77:be:00:00:00"  # locally administered, so no real card has it

_SECTION = re.compile(
    r"Statistics for: (?P<exchange>\S+)\*\*\*\s+sent packets: (?P<sent>\d+)\s+received packets: (?P<received>\d+)"
    r"\s+drops: (?P<drops>\d+)"
)


@dataclass(frozen=True)
class Load:
    """What perfdhcp counted: exchanges begun and completed, and packets lost in both halves of an exchange."""

    begun: int
    completed: int
    drops: int


def parse(output: str) -> Load:
    """Read perfdhcp's statistics. MeasureError when they are not there."""
    found = {match["exchange"]: match for match in _SECTION.finditer(output)}
    try:
        offer, ack = found["DISCOVER-OFFER"], found["REQUEST-ACK"]
    except KeyError as error:
        raise MeasureError(f"perfdhcp printed no statistics but: {output.strip()[-300:]}") from error
    return Load(int(offer["sent"]), int(ack["received"]), int(offer["drops"]) + int(ack["drops"]))


def pool_size(pools: list[str]) -> int:
    """Number of addresses in pools written as `first - last`."""
    bounds = [[IPv4Address(end.strip()) for end in pool.split("-")] for pool in pools]
    return sum(int(last) - int(first) + 1 for first, last in bounds)


def _offer(probe: LabHost, server: str, clients: int, rate: int) -> Load:
    """Offer a rate for some seconds."""
    # It waits a second (-W, in microseconds) for the last answers, which would count as lost otherwise.
    command = (
        f"timeout {SECONDS + 20} perfdhcp -4 -l {probe.value('lab_interface')} -r {rate} -R {clients}"
        f" -p {SECONDS} -W 1000000 -s 1 -b mac={FIRST_MAC} {server}"
    )
    result = probe.run(command)
    if result.rc not in (0, 3):  # 3: not all exchanges were completed
        raise MeasureError(f"perfdhcp exited with {result.rc}: {(result.stderr or result.stdout).strip()}")
    return parse(result.stdout)


def leases_per_s(bench: Bench) -> float:
    """The highest offered rate at which every exchange is completed and no packet is lost."""
    server, probe = bench.host("netboot"), bench.host("probes")
    pools = [pool for subnet in server.value("dhcp_subnets", []) for pool in subnet.get("pools", [])]
    clients = min(MOST_CLIENTS, pool_size(pools) // 3)
    if clients < 1:
        raise MeasureError("dhcp_subnets has no pool to take leases from")
    best = 0
    for rate in RATES:
        for _ in range(ATTEMPTS):
            load = _offer(probe, server.address, clients, rate)
            bench.say(f"{rate}/s offered: {load.completed / SECONDS:.0f}/s completed, {load.drops} drops")
            # A generator that cannot keep up has not offered the rate.
            if load.drops == 0 and load.completed >= 0.999 * rate * SECONDS:
                best = rate
                break
        else:
            break
    if not best:
        raise MeasureError(f"packets were dropped at {RATES[0]}/s already, {ATTEMPTS} times in a row")
    return best


MEASURES: dict[str, Measure] = {"dhcp.leases_per_s": leases_per_s}
