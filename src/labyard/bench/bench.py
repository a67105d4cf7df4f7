"""What every measurement is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from labyard.lab import Lab, LabHost


class MeasureError(RuntimeError):
    """A figure cannot be measured; the message is the reason."""


@dataclass(eq=False)
class Bench:
    """The checkout, the lab of an inventory, and a way to say how far the work is."""

    checkout: Path
    inventory: Path
    say: Callable[[str], None]

    @cached_property
    def lab(self) -> Lab:
        """The lab. InventoryError when the inventory is of no use."""
        return Lab(self.inventory)

    def host(self, group: str) -> LabHost:
        """The first host of a group. MeasureError when it does not answer."""
        host = self.lab.host(group)
        if host.run("true").rc != 0:
            raise MeasureError(f"lab host {host.name} does not answer; build the lab with: make lab")
        return host


Measure = Callable[[Bench], float]
