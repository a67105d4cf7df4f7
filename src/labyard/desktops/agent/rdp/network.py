"""What goes in and out at a server's port: counted and held below its bandwidth by nftables, in a table of our own."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp.run import run

BYTES_PER_MBIT = 125_000
FRESH = 0.25  # seconds that a reading of all counters is good for
CLIENTS = 10  # connections to a server
BURST = 10  # as a part of a second: what a client's window may bring at once


@dataclass(frozen=True)
class Counted:
    """Bytes since the server's rules were made."""

    received: int
    sent: int


class Network:
    """`owner` names the table. Rules are by port; a port's are replaced as one."""

    def __init__(self, owner: str) -> None:
        self._table = f"{owner}_rdp"
        self._lock = threading.Lock()
        self._chains: dict[str, int] = {}
        self._read_at = float("-inf")

    def limit(self, port: int, bandwidth: int) -> None:
        """Count what goes through this port, drop what is above `bandwidth` Mbit/s either way, and refuse more than
        CLIENTS connections, where the kernel can count those. AdapterError."""
        rate = bandwidth * BYTES_PER_MBIT
        limit = f"limit rate over {rate} bytes/second burst {max(rate // BURST, 65536)} bytes drop"
        full = f"ct state new ct count over {CLIENTS} reject with tcp reset"
        with self._lock:
            self._read_at = float("-inf")
            self._forget(port)
            self._apply(
                f"add table inet {self._table}",
                f"add chain inet {self._table} in {{ type filter hook input priority -5; }}",
                f"add chain inet {self._table} out {{ type filter hook output priority -5; }}",
                f"add chain inet {self._table} in_{port}",
                f"add chain inet {self._table} out_{port}",
                f"add rule inet {self._table} in_{port} {limit}",
                f"add rule inet {self._table} in_{port} counter",
                f"add rule inet {self._table} out_{port} {limit}",
                f"add rule inet {self._table} out_{port} counter",
                f"add rule inet {self._table} in tcp dport {port} jump in_{port}",
                f"add rule inet {self._table} out tcp sport {port} jump out_{port}",
            )
            with suppress(AdapterError):
                self._apply(f"insert rule inet {self._table} in_{port} {full}")

    def counted(self, port: int) -> Counted | None:
        """None when the port has no rules. A reading serves all ports for a moment. AdapterError."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH:
                self._chains = {
                    rule["chain"]: int(part["counter"]["bytes"])
                    for rule in self._rules()
                    for part in rule["expr"]
                    if "counter" in part
                }
                self._read_at = time.monotonic()
            received, sent = (self._chains.get(f"{way}_{port}") for way in ("in", "out"))
        return None if received is None or sent is None else Counted(received, sent)

    def forget(self, port: int) -> None:
        """Absent is fine. With the last port the table goes."""
        with self._lock:
            self._forget(port)
            if not self._rules():
                # "add" first: a table that is not there cannot be deleted.
                self._apply(f"add table inet {self._table}", f"delete table inet {self._table}")

    def _forget(self, port: int) -> None:
        jumps = [
            f"delete rule inet {self._table} {rule['chain']} handle {rule['handle']}"
            for rule in self._rules()
            if any(part.get("jump", {}).get("target") in (f"in_{port}", f"out_{port}") for part in rule["expr"])
        ]
        if jumps:
            chains = [f"delete chain inet {self._table} {way}_{port}" for way in ("in", "out")]
            flushes = [f"flush chain inet {self._table} {way}_{port}" for way in ("in", "out")]
            self._apply(*jumps, *flushes, *chains)

    def _rules(self) -> list[dict[str, Any]]:
        try:
            listed = run("nft", "-j", "list", "table", "inet", self._table)
        except AdapterError as error:
            if "No such file or directory" in str(error):
                return []
            raise
        items: list[dict[str, Any]] = json.loads(listed)["nftables"]
        return [item["rule"] for item in items if "rule" in item]

    def _apply(self, *commands: str) -> None:
        run("nft", "-f", "-", given="\n".join(commands) + "\n")
