"""Charging by what the house has to spare: the shaper keeps its supply whole, divert uses the sun: contract 5.1."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from labyard.evse.gateway.claims import Cap, Claims, Client, Priority, Properties, SafetyCaps

FAST, ECO = 1, 2
FRESH = 60.0  # seconds that a measurement counts as new


@dataclass(frozen=True)
class Charger:
    """The charger at this moment: V, W, A."""

    voltage: float
    power: float
    min: int


class Shaper:
    """Keeps house and car together below `max_power`, W. Without a measurement it caps nothing."""

    def __init__(self, caps: SafetyCaps) -> None:
        self.active = False
        self.max_power = 0
        self.live_power: float = 0  # W, the car included
        self.current = 0  # A, what it allows
        self.updated_at: float | None = None
        self._caps = caps

    def measured(self, watts: float, now: float) -> None:
        self.live_power, self.updated_at = watts, now

    def fresh(self, now: float) -> bool:
        return self.updated_at is not None and now - self.updated_at <= FRESH

    def look(self, charger: Charger) -> None:
        if not self.active or self.max_power <= 0 or self.updated_at is None:
            self.current = 0
            self._caps.set("shaper", None)
            return
        spare = self.max_power - max(0.0, self.live_power - charger.power)
        self.current = max(0, floor(spare / charger.voltage))
        self._caps.set("shaper", Cap(self.current, off=self.current < charger.min))


class Divert:
    """In eco mode the car gets what the sun, or what would be exported, is good for."""

    def __init__(self, claims: Claims) -> None:
        self.mode = FAST
        self.ratio = 1.1  # so much of the least power must be there to start
        self.solar: float = 0  # W
        self.grid: float = 0  # W, negative is export
        self.rate = 0  # A
        self.updated_at: float | None = None
        self._by_grid = False
        self._claims = claims

    @property
    def active(self) -> bool:
        return self.mode == ECO

    def measured_solar(self, watts: float, now: float) -> None:
        self.solar, self._by_grid, self.updated_at = watts, False, now

    def measured_grid(self, watts: float, now: float) -> None:
        self.grid, self._by_grid, self.updated_at = watts, True, now

    def look(self, charger: Charger) -> None:
        if not self.active or self.updated_at is None:
            self.rate = 0
            self._claims.release(Client.DIVERT)
            return
        spare = charger.power - self.grid if self._by_grid else self.solar
        self.rate = max(0, floor(spare / charger.voltage))
        claim = self._claims.get(Client.DIVERT)
        started = claim is not None and claim.properties.state == "active"
        least = charger.voltage * charger.min
        enough = spare >= (least if started else least * self.ratio)
        current = max(self.rate, charger.min)
        properties = Properties("active", charge_current=current) if enough else Properties("disabled")
        self._claims.set(Client.DIVERT, Priority.DIVERT, properties)
