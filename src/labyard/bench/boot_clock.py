"""Runs on a VM host: power machines on, time each to a line on its console, and power them off again.

Arguments: MARK CONSOLE_FOLDER LIMIT_SECONDS MACHINE...
Prints {"machine": seconds} as JSON; all times are from the first power-on. Standard library only, since it is
sent to the host as text: polling from elsewhere would add a connection's time to each look.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.02


def watch(mark: bytes, consoles: dict[str, Path], limit: float) -> dict[str, float]:
    """Power the machines on and wait until each console shows the mark; seconds by machine."""
    for console in consoles.values():
        if console.exists():
            console.write_bytes(b"")  # what an earlier boot wrote would be taken for this one's
    found: dict[str, float] = {}
    began = time.monotonic()
    starts = [subprocess.Popen(["virsh", "--quiet", "start", name]) for name in consoles]
    while len(found) < len(consoles) and time.monotonic() - began < limit:
        for name, console in consoles.items():
            if name not in found and console.exists() and mark in console.read_bytes():
                found[name] = time.monotonic() - began
        time.sleep(POLL_SECONDS)
    for start in starts:
        start.wait(10)
    return found


def main() -> None:
    """See the module's docstring."""
    mark, folder, limit, *machines = sys.argv[1:]
    consoles = {name: Path(folder, f"{name}.log") for name in machines}
    try:
        found = watch(mark.encode(), consoles, float(limit))
    finally:
        for name in machines:
            # A machine that did not even start is off already.
            subprocess.run(["virsh", "--quiet", "destroy", name], stderr=subprocess.DEVNULL, check=False)
    missing = [name for name in machines if name not in found]
    if missing:
        console = consoles[missing[0]]
        tail = console.read_text(errors="replace").splitlines()[-20:] if console.exists() else []
        sys.exit(
            f"not in userland after {limit} s: {', '.join(missing)}. {missing[0]}'s console ends with:\n"
            + "\n".join(tail)
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
