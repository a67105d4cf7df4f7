"""What the doctor is told and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labyard.doctor.work import Work

GIB = 1024**3


class Status(StrEnum):
    """How a check ended. `later`: the tool is not installed yet, and `make lab` installs it."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    LATER = "later"


@dataclass(frozen=True)
class CheckResult:
    """One line of the report.

    `found` is what was seen, `remedy` the way out, `seconds` how long the check took.
    Raises ValueError for a failure without a remedy: it would leave the reader stuck.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.status is Status.FAIL and not self.remedy.strip():
            raise ValueError(f"check {self.name!r} fails without saying what to do")


@dataclass(frozen=True)
class Settings:
    """What to check for.

    checkout          the folder with `site.yml`; the module and the unpacked tools are found in it
    networks          the lab's networks as (name, subnet in CIDR notation); None: not known yet
    networks_problem  why they are not known
    free_bytes        free space each file system the lab writes to must have, in bytes
    memory_bytes      memory that should be available, in bytes
    tools             where `scripts/fetch-tools` unpacks; None: `.cache/tools` in the checkout
    label             the label on everything Labyard makes in the engine
    lio_supported     whether the lab has a role for LIO; without it tgt is chosen even where LIO exists
    """

    checkout: Path
    networks: tuple[tuple[str, str], ...] | None = None
    networks_problem: str = ""
    free_bytes: int = 4 * GIB
    memory_bytes: int = 4 * GIB
    tools: Path | None = None
    label: str = "labyard"
    lio_supported: bool = False

    @property
    def tools_folder(self) -> Path:
        """Folder of the unpacked tools."""
        return self.tools or self.checkout / ".cache" / "tools"

    @property
    def kernel(self) -> Path:
        """The kernel the guest probe boots."""
        return self.tools_folder / "vmlinuz"

    @property
    def accel_module(self) -> Path:
        """The Ansible module that boots it."""
        return self._modules / "accel_probe.py"

    @property
    def container_module(self) -> Path:
        """The Ansible module that runs a container."""
        return self._modules / "container_probe.py"

    @property
    def _modules(self) -> Path:
        return self.checkout / "collections" / "ansible_collections" / "labyard" / "lab" / "plugins" / "modules"


@dataclass(frozen=True)
class Finding:
    """What a check returns: a status, what was seen and, unless all is well, the way out."""

    found: str
    status: Status = Status.OK
    remedy: str = ""


class Problem(Exception):
    """Ends a check early with what was found and the way out."""

    def __init__(self, found: str, remedy: str, status: Status = Status.FAIL) -> None:
        super().__init__(found)
        self.finding = Finding(found, status, remedy)


@dataclass(frozen=True)
class Check:
    """One thing to check. `timeout` in seconds ends it; `needs_root` skips it, with a warning."""

    name: str
    function: Callable[[Work, Settings], Finding]
    timeout: float = 5.0
    needs_root: bool = field(default=False, kw_only=True)


def exit_code(results: Iterable[CheckResult]) -> int:
    """0 when nothing failed (warnings and `later` are allowed), else 1."""
    return int(any(result.status is Status.FAIL for result in results))
