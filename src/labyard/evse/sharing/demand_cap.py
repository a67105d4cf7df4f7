"""What a car does not take is left to the others: contract 7, the demand cap."""

from __future__ import annotations

MARGIN = 0.25  # A
RISE = 0.5  # A
PATIENCE = 6  # cycles: a car needs time to follow a higher offer, and is looked at again after as many


class DemandCap:
    """Of one member. `observe` is called once in each cycle."""

    def __init__(self) -> None:
        self.cap: float | None = None
        self._charging = False
        self._offer: float | None = None
        self._suspended = 0
        self._cycles = 0
        self._probe = 0.0

    def observe(
        self, *, demanding: bool, charging: bool, pilot: float, measured: float, minimum: float, offer: float
    ) -> float | None:
        """The cap in A after this cycle, None for none. `offer` is what the member was told last."""
        if charging != self._charging or not demanding:
            self.cap = None
            self._suspended = 0
        self._charging = charging
        if self._offer is not None and offer > self._offer + RISE:
            self._suspended = PATIENCE
        self._offer = offer
        if self.cap is not None and self._released(measured):
            self.cap = None
        elif self._suspended:
            self._suspended -= 1
        elif demanding and charging and pilot > minimum and 0 < measured < pilot - MARGIN:
            self._lower(max(measured, minimum), measured)
        return self.cap

    def _lower(self, cap: float, measured: float) -> None:
        if self.cap is None:
            self._cycles, self._probe = 0, measured
        if self.cap is None or cap < self.cap:
            self.cap = cap

    def _released(self, measured: float) -> bool:
        """Takes it more than it is capped at? At a cap equal to its offer it cannot: so the growth since the last
        probe counts as well."""
        assert self.cap is not None
        if measured >= self.cap + MARGIN:
            return True
        self._cycles += 1
        if self._cycles < PATIENCE:
            return False
        grown = measured >= self._probe + MARGIN
        self._cycles, self._probe = 0, measured
        return grown
