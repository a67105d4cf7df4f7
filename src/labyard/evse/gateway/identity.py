"""Who this gateway is: contract section 4."""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from labyard.evse.gateway.storage import Storage

VERSION = "v5.2.0"  # clients want X.Y.Z, and take a suffix for a development build
BUILDENV = "native"
FILE = "identity.json"
_MACHINE_ID = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_CHIP_ID = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,32})")


@dataclass(frozen=True)
class Identity:
    """`device_id` is lower case hex."""

    device_id: str

    @property
    def default_hostname(self) -> str:
        return f"openevse-{self.device_id[-4:].zfill(4)}"


def machine_id() -> str:
    for path in _MACHINE_ID:
        try:
            if text := path.read_text(encoding="ascii").strip():
                return text
        except OSError:
            continue
    return f"{uuid.getnode():012x}"


def derive(machine: str, port: int) -> str:
    """Different for each machine, and for each port of one machine."""
    digest = hashlib.sha256(machine.encode()).hexdigest()
    return f"{digest[:8]}{(int(digest[-4:], 16) + port) % 65536:04x}"


def load(storage: Storage, port: int, chip_id: str) -> Identity:
    """`chip_id` (OPENEVSE_CHIP_ID) if it is given, else what was kept, else a new one, which is kept.

    ValueError: `chip_id` is not hexadecimal.
    """
    if chip_id:
        found = _CHIP_ID.fullmatch(chip_id.strip())
        if not found:
            raise ValueError(f"OPENEVSE_CHIP_ID must be up to 32 hexadecimal digits, not {chip_id!r}")
        return Identity(found[1].lower())
    kept = storage.read(FILE)
    if isinstance(kept, dict) and isinstance(kept.get("id"), str) and _CHIP_ID.fullmatch(kept["id"]):
        return Identity(kept["id"].lower())
    identity = Identity(derive(machine_id(), port))
    storage.write(FILE, {"id": identity.device_id})
    return identity
