"""Who is connected to a port, from the kernel's table: cheaper than asking which process has each socket."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ESTABLISHED = "01"


def peers(port: int, tables: tuple[Path, ...] = TABLES) -> list[str]:
    """`address:port` of each client, sorted."""
    found = []
    for table in tables:
        if not table.exists():  # a kernel without IPv6
            continue
        for line in table.read_text().splitlines()[1:]:
            local, remote, state = line.split()[1:4]
            if state == ESTABLISHED and int(local.split(":")[1], 16) == port:
                found.append(_readable(remote))
    return sorted(found)


def _readable(text: str) -> str:
    """Of the kernel's form: 32-bit words in the machine's order."""
    words, port = text.split(":")
    raw = b"".join(int(words[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(words), 8))
    address = ipaddress.ip_address(raw)
    if isinstance(address, ipaddress.IPv6Address):
        plain = address.ipv4_mapped or address
        return f"{plain}:{int(port, 16)}" if address.ipv4_mapped else f"[{plain}]:{int(port, 16)}"
    return f"{address}:{int(port, 16)}"
