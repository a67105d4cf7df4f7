"""How the charger warms with its current."""

from __future__ import annotations

import math
from dataclasses import dataclass

ROOM = 25.0
# °C: 32 A end at 37, and at 65 lie the currents that the charger should not have carried (58 A).
_PER_SQUARE_AMP = 0.012
_SECONDS = 300.0  # two thirds of the way to where it ends

# The charger stops at these, $GO has them; it starts again 10 degrees below the first.
STOP_AMBIENT = 65.0
STOP_INFRARED = 69.0
RESTART_AMBIENT = 55.0


@dataclass
class Warmth:
    """`celsius` follows the current when `warms`, else it stays what it is."""

    warms: bool = True
    celsius: float = ROOM
    too_hot: bool = False

    def pass_time(self, amps: float, seconds: float) -> None:
        if self.warms:
            end = ROOM + _PER_SQUARE_AMP * amps * amps
            self.celsius += (end - self.celsius) * (1 - math.exp(-seconds / _SECONDS))
        if self.celsius >= STOP_AMBIENT:
            self.too_hot = True
        elif self.celsius <= RESTART_AMBIENT:
            self.too_hot = False
