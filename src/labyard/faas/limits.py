"""What one function may use: read from `X-Faas-Limits`, defaults from the settings (contract 8.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from labyard.faas.errors import BadRequest

UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
SIZE = re.compile(r"(\d+)\s*([KMG]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str | int | float) -> int:
    """Bytes of `268435456`, `256M`, `256MiB`, `1 GiB`. ValueError for anything else."""
    match = SIZE.fullmatch(str(text).strip())
    if not match:
        raise ValueError(f"{text!r} is not a size such as 256M")
    return int(match[1]) * UNITS[match[2].upper()]


@dataclass(frozen=True)
class Limits:
    """memory and tmp in bytes, cpu in cores, timeout in seconds; warm is the number of parked handlers."""

    memory: int
    cpu: float
    pids: int
    tmp: int
    timeout: float
    concurrency: int
    warm: int

    def with_changes(self, given: object) -> Limits:
        """These limits with what a caller gave. BadRequest names the field."""
        if not isinstance(given, Mapping):
            raise BadRequest("limits are not a JSON object")
        known = {field.name for field in fields(self)}
        if unknown := sorted(str(key) for key in given if key not in known):
            raise BadRequest(f"unknown limit {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        values: dict[str, Any] = {name: _value(name, value) for name, value in given.items()}
        return replace(self, **values)

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)


# Least and most of each. 6 MiB is what runc itself needs to start a process.
RANGES: dict[str, tuple[float, float]] = {
    "memory": (6 * 1024**2, 1024**4),
    "cpu": (0.01, 1024),
    "pids": (1, 32768),
    "tmp": (4096, 1024**4),
    "timeout": (0.1, 3600),
    "concurrency": (1, 1024),
    "warm": (0, 64),
}


def _value(name: str, given: object) -> int | float:
    try:
        if isinstance(given, bool) or not isinstance(given, (int, float, str)):
            raise ValueError(f"{given!r} is not a number")
        value: int | float
        if name in ("memory", "tmp"):
            value = parse_size(given)
        elif name in ("cpu", "timeout"):
            value = float(given)
        else:
            value = int(str(given))
    except ValueError as error:
        raise BadRequest(f"limit {name}: {error}") from None
    least, most = RANGES[name]
    if not least <= value <= most:
        raise BadRequest(f"limit {name}: {given} is not between {least:g} and {most:g}")
    return value
