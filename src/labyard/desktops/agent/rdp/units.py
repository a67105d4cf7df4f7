"""What runs a server's daemons. systemd does (`systemd.py`); this is all that the rest of the agent knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from labyard.desktops.agent.rdp.cgroup import Taken

SESMAN, XRDP = "sesman", "xrdp"
SERVICES = (SESMAN, XRDP)  # in the order in which they start


@dataclass(frozen=True)
class Limits:
    """Cores, MiB, processes: of all that a server runs."""

    cpu: float
    memory: int
    tasks: int = 512


@dataclass(frozen=True)
class UnitState:
    """`active` is systemd's ActiveState; `since` an RFC 3339 time."""

    active: str
    since: str | None = None
    main_pid: int | None = None
    restarts: int = 0


INACTIVE = UnitState("inactive")


class Units(Protocol):
    """By the hexadecimal part of servers' ids. AdapterError when it cannot."""

    def prepare(self) -> None:
        """Whatever all servers need is there. Idempotent."""

    def limit(self, key: str, limits: Limits) -> None:
        """From now on, for all that the server runs."""

    def enforced(self, key: str, limits: Limits) -> dict[str, str | None]:
        """`cpu` and `memory`: None where the limit is in force, else why it is not."""

    def start(self, key: str, service: str) -> None: ...

    def stop(self, key: str) -> None:
        """All that the server runs has ended, and its units are inactive. Absent is fine."""

    def forget(self, key: str) -> None:
        """Nothing of the server is left, once it is stopped: no limit. Absent is fine."""

    def state(self, key: str, service: str) -> UnitState: ...

    def processes(self, key: str) -> list[int]: ...

    def taken(self, key: str) -> Taken: ...

    def log(self, key: str, lines: int) -> tuple[str, ...]:
        """What the server's daemons said last."""

    def known(self) -> frozenset[str]:
        """Every server of which anything runs or has failed."""
