"""Whether the lab's subnets are free on this machine."""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from labyard.doctor.engine import EngineNetwork, networks
from labyard.doctor.model import Finding, Problem, Settings, Status
from labyard.doctor.work import Work, last_line

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Routes that lead nowhere use no addresses. Labyard itself lays a blackhole route over the lab's supernet.
NOWHERE = {"blackhole", "unreachable", "prohibit", "throw"}


@dataclass(frozen=True)
class Use:
    """A network in use here, and by what. `exclusive`: not even a narrower route may be taken from it."""

    network: Network
    by: str
    exclusive: bool = True


@dataclass(frozen=True)
class Conflict:
    """A lab network that overlaps something; `severe` when building the lab would break one of the two."""

    name: str
    subnet: str
    use: Use
    severe: bool


def uses_of_addresses(links: Iterable[dict[str, Any]], own: frozenset[str]) -> list[Use]:
    """Networks of the machine's own addresses, from `ip -j addr`, without the interfaces in `own`."""
    return [
        Use(
            ipaddress.ip_network(f"{item['local']}/{item['prefixlen']}", strict=False),
            f"interface {link['ifname']}",
        )
        for link in links
        if link["ifname"] not in own
        for item in link.get("addr_info", [])
        if "local" in item
    ]


def uses_of_routes(routes: Iterable[dict[str, Any]], own: frozenset[str]) -> list[Use]:
    """Networks of the routes in `ip -j route`. The default route and routes that lead nowhere use none."""
    found = []
    for route in routes:
        device = route.get("dev", "")
        if route["dst"] == "default" or route.get("type") in NOWHERE or device in own:
            continue
        by = f"a route via {device or route.get('gateway', 'several next hops')}"
        found.append(Use(ipaddress.ip_network(route["dst"], strict=False), by, exclusive=False))
    return found


def uses_of_engine(engine_networks: Iterable[EngineNetwork]) -> list[Use]:
    """Subnets of the engine's networks that are not Labyard's own."""
    return [
        Use(ipaddress.ip_network(subnet, strict=False), f"docker network {network.name}")
        for network in engine_networks
        if not network.ours
        for subnet in network.subnets
    ]


def conflicts(wanted: Sequence[tuple[str, str]], uses: Sequence[Use]) -> list[Conflict]:
    """Overlaps of the lab's networks with what is in use, and with each other; one per lab network and user.

    A route (not an address) wider than the lab's network is not severe: the lab's narrower route wins, and
    only machines behind the wider one with the very same addresses are out of reach. Raises ValueError for
    a bad subnet.
    """
    lab = [(name, ipaddress.ip_network(subnet)) for name, subnet in wanted]
    found: dict[tuple[str, str], Conflict] = {}
    for name, network in lab:
        for use in uses:
            if not network.overlaps(use.network):
                continue
            wider_route = not use.exclusive and use.network.prefixlen < network.prefixlen
            conflict = Conflict(name, str(network), use, severe=not wider_route)
            # The route an address brings along says nothing new.
            key = (name, use.by.rpartition(" ")[2])
            if key not in found or (conflict.severe and not found[key].severe):
                found[key] = conflict
    result = list(found.values())
    for (name, network), (other_name, other) in itertools.combinations(lab, 2):
        if network.overlaps(other):
            result.append(Conflict(name, str(network), Use(other, f"the lab's own {other_name}"), severe=True))
    return result


def check_subnets(work: Work, settings: Settings) -> Finding:
    """No network of the lab is in use on this machine by something else."""
    if settings.networks is None:
        why = settings.networks_problem or "the inventory could not be read"
        return Finding(why, Status.LATER, "`make lab` installs Ansible, which reads the inventory")
    try:
        engine_networks, engine_problem = networks(work, settings.label), ""
    except Problem as problem:
        engine_networks, engine_problem = [], problem.finding.found
    own = frozenset(network.bridge for network in engine_networks if network.ours)
    uses = [
        *uses_of_engine(engine_networks),
        *uses_of_addresses(_ip(work, "addr"), own),
        *uses_of_routes(_ip(work, "-4", "route"), own),
        *uses_of_routes(_ip(work, "-6", "route"), own),
    ]
    try:
        found = conflicts(settings.networks, uses)
    except ValueError as error:
        return Finding(f"the inventory names a bad subnet: {error}", Status.FAIL, "write it like 10.1.2.0/24")
    return describe(found, settings.networks, bool(engine_problem))


def describe(found: Sequence[Conflict], wanted: Sequence[tuple[str, str]], engine_is_away: bool) -> Finding:
    """The finding for a list of conflicts. Without the engine, Labyard's own cannot be told apart."""
    if not found:
        free = ", ".join(f"{name} {subnet}" for name, subnet in wanted)
        return Finding(f"free: {free}" if free else "the inventory names no network")
    text = "; ".join(f"{item.name} {item.subnet} overlaps {item.use.network} ({item.use.by})" for item in found)
    change = "give the lab other subnets in the inventory (group_vars/all), or remove what uses these"
    if engine_is_away:
        return Finding(
            f"{text}; this may be Labyard's own, the engine cannot be asked",
            Status.WARN,
            f"start the engine and run the doctor again; if it stays: {change}",
        )
    if any(item.severe for item in found):
        return Finding(text, Status.FAIL, change)
    return Finding(
        text, Status.WARN, f"machines there are out of reach while the lab stands; if you need them: {change}"
    )


def _ip(work: Work, *arguments: str) -> list[dict[str, Any]]:
    done = work.run([work.need("ip", "iproute2"), "-j", *arguments])
    if done.returncode != 0:
        raise Problem(f"ip {' '.join(arguments)}: {last_line(done.stderr)}", "run that command by hand")
    parsed: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return parsed
