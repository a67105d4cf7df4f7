"""Machines of the VM manager whose consoles tests watch."""

from __future__ import annotations

import re

from labyard.testing.waiting import wait_until
from labyard.vms.answers import Vm
from labyard.vms.client import Client

# Generous, since a shared machine under software emulation can be slow.
BOOT_SECONDS = 300
PIECE_BYTES = 100_000


def console(api: Client, name: str) -> str:
    """All of a machine's console, by offset and limit."""
    pieces, offset = [], 0
    while piece := (found := api.console(name, offset, PIECE_BYTES))["console"]:
        pieces.append(piece)
        offset = found["next_offset"]
    return "".join(pieces)


def wait_for_line(api: Client, name: str, line: str, count: int = 1) -> str:
    """The console, once it has this text so many times; a text that ends with `=` with its value. AssertionError has
    its end."""
    # Letters come one by one: a value is whole when its line has ended.
    wanted = re.compile(re.escape(line) + (r".*\n" if line.endswith("=") else ""))

    def said() -> str | None:
        found = console(api, name)
        return found if len(wanted.findall(found)) >= count else None

    return wait_until(
        said,
        lambda: f"{name} says {line!r} {count} times; its console ends with:\n{console(api, name)[-2000:]}",
        BOOT_SECONDS,
    )


def wait_until_off(api: Client, name: str) -> Vm:
    """The machine, once its guest has ended."""

    def ended() -> Vm | None:
        found = api.vm(name)
        return found if found["state"] != "running" else None

    return wait_until(ended, lambda: f"{name} ends; its console ends with:\n{console(api, name)[-2000:]}", BOOT_SECONDS)
