"""The car: what it would draw of an offer, and how its battery fills."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

FULL = 100.0
TAPER_FROM = 80.0  # %: from here to FULL the power falls to half
_VARIANCE = 0.01


@dataclass
class Car:
    """`soc` is in %. In direct mode it draws `direct_amps`, whatever it is offered and however full it is."""

    battery_kwh: float = 75.0
    max_rate_kw: float = 7.2
    tapers: bool = True
    seed: int = 0
    soc: float = 50.0
    connected: bool = False
    requesting: bool = False
    direct_mode: bool = False
    direct_amps: float = 0.0
    varies: bool = False
    _random: Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def connect(self) -> None:
        self.connected = True

    def disconnect(self) -> None:
        self.connected = self.requesting = False

    def request(self) -> None:
        """Ask for a charge; without effect while not connected, or full."""
        self.requesting = self.connected
        self._stop_when_full()

    def stop(self) -> None:
        self.requesting = False

    def set_soc(self, soc: float) -> None:
        self.soc = soc
        self._stop_when_full()

    def set_direct_mode(self, direct: bool) -> None:
        self.direct_mode = direct
        self._stop_when_full()

    def set_max_amps(self, amps: float, volts: float) -> None:
        self.max_rate_kw = amps * volts / 1000

    def draw(self, offer: float, volts: float) -> float:
        """The current in A that it takes now from an offer in A. With variance each call gives another."""
        if self.direct_mode:
            return self.direct_amps * (1 + self._variation(-_VARIANCE, _VARIANCE))
        power = min(offer * volts, self.max_rate_kw * 1000)
        if self.tapers and self.soc > TAPER_FROM:
            power *= 1 - 0.5 * (self.soc - TAPER_FROM) / (FULL - TAPER_FROM)
        return power / volts * (1 + self._variation(-_VARIANCE, 0))

    def fill(self, watt_hours: float) -> None:
        """Take energy up; a full car stops asking for more."""
        self.soc = min(FULL, self.soc + watt_hours / (self.battery_kwh * 1000) * 100)
        self._stop_when_full()

    def _stop_when_full(self) -> None:
        if self.soc >= FULL and not self.direct_mode:
            self.requesting = False

    def _variation(self, low: float, high: float) -> float:
        return self._random.uniform(low, high) if self.varies else 0.0
