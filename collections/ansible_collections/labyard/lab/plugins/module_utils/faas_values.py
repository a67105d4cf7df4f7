# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""`faas_*` values of an inventory: what is wrong with them. And limits, as the daemon reads them."""

from __future__ import annotations

import ipaddress
import os
import re
from itertools import combinations
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
DOTTED_QUAD = re.compile(r"\d+\.\d+\.\d+\.\d+")
SIZE = re.compile(r"(\d+)\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
SIZES = ("memory", "tmp")
# Least and most, as labyard.faas.limits has them.
LIMITS: dict[str, tuple[float, float]] = {
    "memory": (6 * 1024**2, 1024**4),
    "cpu": (0.01, 1024),
    "pids": (1, 32768),
    "tmp": (4096, 1024**4),
    "timeout": (0.1, 3600),
    "concurrency": (1, 1024),
    "warm": (0, 64),
}
# Variables of the role that are a limit's default, and other numbers with their ranges.
DEFAULTS = {
    "faas_memory": "memory",
    "faas_cpu": "cpu",
    "faas_pids": "pids",
    "faas_tmp_size": "tmp",
    "faas_exec_timeout": "timeout",
    "faas_concurrency": "concurrency",
    "faas_warm": "warm",
}
NUMBERS: dict[str, tuple[float, float]] = {
    "faas_api_port": (1, 65535),
    "faas_function_port": (1, 65535),
    "faas_connect_timeout": (0.1, 3600),
    "faas_total_concurrency": (1, 4096),
    "faas_queue_timeout": (0, 3600),
    "faas_warm_idle": (1, 10**9),
    "faas_drain_timeout": (0, 3600),
}
KEYS = ("name", "image", "limits", "state")


def limit_value(name: str, given: Any) -> float:
    """A limit in bytes, cores, seconds or pieces. ValueError says what is wrong with it."""
    if name not in LIMITS:
        raise ValueError(f"there is no such limit; there are {', '.join(LIMITS)}")
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise ValueError(f"{given!r} is not a number")
    if name in SIZES:
        match = SIZE.fullmatch(str(given).strip())
        if not match:
            raise ValueError(f"{given!r} is not a size such as 256M")
        value: float = int(match[1]) * UNITS[match[2].upper()]
    else:
        value = _number(given)
        if name not in ("cpu", "timeout") and value != int(value):
            raise ValueError(f"{given!r} is not a whole number")
    least, most = LIMITS[name]
    if not least <= value <= most:
        raise ValueError(f"{given} is not between {least:g} and {most:g}")
    return value


def _number(given: Any) -> float:
    try:
        return float(given)
    except (TypeError, ValueError):
        raise ValueError(f"{given!r} is not a number") from None


def limit_problems(where: str, limits: Any) -> list[str]:
    """What is wrong with a mapping of limits, each naming the field."""
    if not isinstance(limits, dict):
        return [f"{where}: is no mapping of limits"]
    found = []
    for name, given in limits.items():
        try:
            limit_value(name, given)
        except ValueError as error:
            found.append(f"{where}.{name}: {error}")
    return found


def name_problem(name: Any) -> str:
    """What is wrong with the name of a function; empty when nothing is."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or DOTTED_QUAD.search(name):
        return f"{name!r} is no name: use letters, digits, '.', '_' and '-', 63 at most, and no address"
    return ""


def problems(hosts: dict[str, dict[str, Any]], lab: list[ipaddress.IPv4Network]) -> list[str]:
    """What is wrong, each naming host and field. `hosts` are the variables of each host with functions, as far as the
    inventory sets them; `lab` are the lab's own networks."""
    found = []
    pools = {}
    for host, values in hosts.items():
        pool, wrong = _pool(host, values, lab)
        found += wrong
        if pool:
            pools[host] = pool
        found += _wrong_values(host, values)
        found += _wrong_functions(host, values.get("faas_functions", []))
    for (one, (first, last)), (other, (begin, end)) in combinations(pools.items(), 2):
        if first <= end and begin <= last:
            found.append(f"faas_pool of {other}: {begin}-{end} overlaps that of {one}; routes lead to one host only")
    return found


Range = tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]


def _pool(host: str, values: dict[str, Any], lab: list[ipaddress.IPv4Network]) -> tuple[Range | None, list[str]]:
    if "faas_pool" not in values:
        return None, []
    where, text = f"faas_pool of {host}", str(values["faas_pool"])
    first, _, last = text.partition("-")
    try:
        pool = ipaddress.IPv4Address(first.strip()), ipaddress.IPv4Address(last.strip())
    except ValueError:
        return None, [f"{where}: {text!r} is not FIRST-LAST, two IPv4 addresses"]
    if pool[0] > pool[1]:
        return None, [f"{where}: {text!r}: the first address comes after the last"]
    if "faas_network" not in values:
        return pool, []
    try:
        network = ipaddress.IPv4Network(values["faas_network"])
    except ValueError:
        return pool, [f"faas_network of {host}: {values['faas_network']!r} is not an IPv4 network in CIDR form"]
    if pool[0] not in network or pool[1] not in network:
        return pool, [f"{where}: {text} is not in faas_network {network}, which the other hosts have a route for"]
    for other in lab:
        if network.overlaps(other):
            return pool, [f"faas_network of {host}: {network} overlaps the lab's {other}"]
    return pool, []


def _wrong_values(host: str, values: dict[str, Any]) -> list[str]:
    found = []
    for variable, limit in DEFAULTS.items():
        if variable in values:
            try:
                limit_value(limit, values[variable])
            except ValueError as error:
                found.append(f"{variable} of {host}: {error}")
    for variable, (least, most) in NUMBERS.items():
        if variable in values:
            try:
                value = _number(values[variable])
            except ValueError as error:
                found.append(f"{variable} of {host}: {error}")
                continue
            if not least <= value <= most:
                found.append(f"{variable} of {host}: {values[variable]} is not between {least:g} and {most:g}")
    if not re.fullmatch(r"auto|(/.*/)?(runc|crun)", str(values.get("faas_runtime", "runc"))):
        found.append(f"faas_runtime of {host}: {values['faas_runtime']!r} is not runc, crun, auto or a path of the two")
    binds = values.get("faas_api_bind", [])
    if not isinstance(binds, list) or (not binds and "faas_api_bind" in values):
        found.append(f"faas_api_bind of {host}: is no list of IPv4 addresses")
    for address in binds if isinstance(binds, list) else []:
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            found.append(f"faas_api_bind of {host}: {address!r} is not an IPv4 address")
    return found


def _wrong_functions(host: str, functions: Any) -> list[str]:
    if not isinstance(functions, list) or not all(isinstance(function, dict) for function in functions):
        return [f"faas_functions of {host}: is no list of functions, each with name and image"]
    found = []
    seen: set[str] = set()
    for number, function in enumerate(functions):
        name = function.get("name")
        where = f"faas_functions[{name or number}] of {host}"
        if problem := name_problem(name):
            found.append(f"{where}.name: {problem}")
        elif name in seen:
            found.append(f"{where}.name: another function has this name")
        seen.add(str(name))
        found += [f"{where}.{key}: no such key; there are {', '.join(KEYS)}" for key in function if key not in KEYS]
        found += limit_problems(f"{where}.limits", function.get("limits") or {})
        state = function.get("state", "present")
        if state not in ("present", "absent"):
            found.append(f"{where}.state: {state!r} is neither present nor absent")
        elif state == "present" and not os.path.isfile(str(function.get("image") or "")):
            found.append(f"{where}.image: there is no file {function.get('image') or ''!r} on the control machine")
    return found
