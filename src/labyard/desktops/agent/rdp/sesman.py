"""Asks a server's sesman for a desktop, as xrdp does for a client: with xrdp-sesrun, the password on its input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from labyard.core.adapter import AdapterError
from labyard.desktops.agent.rdp.run import run

_OPENED = re.compile(r"^ok data=\d+ display=:(\d+)", re.MULTILINE)
_DENIED = re.compile(r"Connection denied|authentication error", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """`display` is the desktop's, new or the one that was there; None: sesman refuses, and `reason` says why."""

    display: int | None
    reason: str | None


def ask_for_desktop(
    sesman_ini: Path, account: str, password: str, resolution: str, depth: int, seconds: float
) -> Answer:
    """AdapterError when sesman does not answer."""
    said = run(
        "xrdp-sesrun", "-c", str(sesman_ini), "-F", "0", "-t", "Xorg", "-g", resolution, "-b", str(depth),
        # By address: the name of this machine's loopback need not lead to where sesman listens.
        "-s", "127.0.0.1", account,
        given=password, timeout=seconds,
    )  # fmt: skip
    opened = _OPENED.search(said)
    if opened:
        return Answer(int(opened[1]), None)
    if _DENIED.search(said):
        return Answer(None, "sesman refuses this user name and password")
    raise AdapterError(f"sesman answered what is no answer: {said.strip()[:200]}")
