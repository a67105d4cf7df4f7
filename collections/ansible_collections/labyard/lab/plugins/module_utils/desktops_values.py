# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""`desktops_*` values of an inventory: what is wrong with them."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Any

ANY = math.inf
PORT = (1, 65535)
GIB = 2**30
# Least and most, as labyard.desktops.settings has them.
WHOLE: dict[str, tuple[float, float]] = {
    "desktops_http_port": PORT,
    "desktops_tls_port": PORT,
    "desktops_access_token_minutes": (1, 60),
    "desktops_refresh_token_days": (1, 30),
    "desktops_refresh_families": (1, 100),
    "desktops_rate_login": (1, ANY),
    "desktops_rate_public": (1, ANY),
    "desktops_rate_authenticated": (1, ANY),
    "desktops_rate_burst": (1, ANY),
    "desktops_rate_admin": (1, ANY),
    "desktops_rate_poot": (1, ANY),
    "desktops_rate_create": (1, ANY),
    "desktops_local_max_sessions": (1, 1000),
    "desktops_max_node_cores": (1, ANY),
    "desktops_max_node_memory": (GIB, ANY),
    "desktops_max_node_storage": (10 * GIB, ANY),
    "desktops_session_auto_memory": (512, 16384),
    "desktops_session_auto_disk": (1024, 102400),
    "desktops_session_auto_network": (100, 10000),
    "desktops_session_storage_reserve": (0, ANY),
    "desktops_rdp_first_port": (1024, 65535),
    "desktops_rdp_last_port": (1024, 65535),
    "desktops_rdp_user_quota": (1, ANY),
}
NUMBERS: dict[str, tuple[float, float]] = {
    "desktops_local_overcommit_cpu": (1, ANY),
    "desktops_local_overcommit_memory": (1, ANY),
    "desktops_local_overcommit_disk": (1, ANY),
    "desktops_session_auto_cpu": (0.1, 8),
    "desktops_session_slice": (0.5, 2),
    "desktops_poot_min_score": (0, 100),
}
# Above nought, and no more than this.
POSITIVE: dict[str, float] = {
    "desktops_agent_deadline": ANY,
    "desktops_node_lost_after": ANY,
    "desktops_rdp_grace": ANY,
    "desktops_poot_base_rate": 10_000,
}
CHOICES = {
    "desktops_session_provisioning": ("attach", "auto", "none"),
    "desktops_rdp_desktop_fallback": ("icewm", "refuse"),
    "desktops_log_level": ("debug", "info", "warning", "error"),
}
TLS = ("desktops_tls_certificate", "desktops_tls_key")
OTHERS = ("desktops_environment", "desktops_http_host", "desktops_cors_origins", *TLS)
CHECKED = {*WHOLE, *NUMBERS, *POSITIVE, *CHOICES, *OTHERS}  # what playbooks/preflight.yml hands over
ENVIRONMENT = re.compile(r"[a-z][a-z0-9_-]{0,31}")
QUANTUM = 1 / 64  # USDT, and exact


def problems(hosts: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong, each naming host and field. `hosts` are the variables of each host with desktops, as far as the
    inventory sets them."""
    found = []
    for host, values in hosts.items():
        for variable, given in values.items():
            if problem := _wrong(variable, given):
                found.append(f"{variable} of {host}: {problem}")
        found += [f"{field} of {host}: {problem}" for field, problem in _at_odds(values)]
    return found


def _wrong(variable: str, given: Any) -> str:
    """What is wrong with one value; empty when nothing is."""
    if variable in CHOICES and given not in CHOICES[variable]:
        return f"{given!r} is none of {', '.join(CHOICES[variable])}"
    if variable == "desktops_environment" and not ENVIRONMENT.fullmatch(str(given)):
        return f"{given!r} is no name: use 1 to 32 lower-case letters, digits, '_' and '-', a letter first"
    if variable == "desktops_http_host" and not _is_loopback(str(given)):
        return f"{given!r} is no loopback address: plain HTTP stays on its host; desktops_tls_host is for others"
    if variable == "desktops_cors_origins" and "*" in str(given):
        return "name the origins one by one, without '*'"
    if variable not in {**WHOLE, **NUMBERS, **POSITIVE}:
        return ""
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        return f"{given!r} is not a number"
    return _out_of_range(variable, value)


def _out_of_range(variable: str, value: float) -> str:
    if variable in WHOLE and value != int(value):
        return f"{value:g} is not a whole number"
    if variable in POSITIVE:
        if not 0 < value <= POSITIVE[variable]:
            most = "" if POSITIVE[variable] == ANY else f" and at most {POSITIVE[variable]:g}"
            return f"{value:g} is not above 0{most}"
        if variable == "desktops_poot_base_rate" and value % QUANTUM:
            return f"{value:g} is not a multiple of {QUANTUM} USDT"
        return ""
    least, most = {**WHOLE, **NUMBERS}[variable]
    if least <= value <= most:
        return ""
    return f"{value:.15g} is " + (f"below {least:.15g}" if most == ANY else f"not between {least:g} and {most:g}")


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _at_odds(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Fields that do not go together."""
    found = []
    if bool(values.get(TLS[0])) != bool(values.get(TLS[1])):
        found.append((TLS[0], f"goes together with {TLS[1]}"))
    first, last = values.get("desktops_rdp_first_port", 33890), values.get("desktops_rdp_last_port", 33999)
    if str(first).isdecimal() and str(last).isdecimal() and int(first) > int(last):
        found.append(("desktops_rdp_last_port", f"{last} is below desktops_rdp_first_port {first}"))
    return found
