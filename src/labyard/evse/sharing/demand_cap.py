"""What a car does not take is left to the others: contract 7, the demand cap.

A car that is offered no more than its cap cannot show that it would take more. So a cap rises in small steps while the
car takes all that it is offered; as soon as it takes more with it, the cap is released, and when not, it goes back.
"""

from __future__ import annotations

MARGIN = 0.25  # A
RISE = 0.5  # A
PATIENCE = 6  # cycles: a car needs time to follow a higher offer, and is looked at again after as many
STEP = 0.5  # A: the most that shares may swing; two of them, since a pilot has whole amperes


class DemandCap:
    """Of one member. `offered` and `charges` are told at once, `observe` is called in each cycle."""

    def __init__(self) -> None:
        self.cap: float | None = None
        self._charging: bool | None = None
        self._offer: float | None = None
        self._suspended = 0  # cycles
        self._cycles = 0  # since the last probe
        self._probe = 0.0  # what was measured then
        self._stepped = 0.0  # how far the cap is above what was measured

    def offered(self, amps: float, pilot: float) -> None:
        """A higher offer than before, or, as the first one, than its pilot: the car needs time to follow."""
        before = pilot if self._offer is None else self._offer
        if amps > before + RISE:
            self._suspended = PATIENCE
        self._offer = amps

    def charges(self, charging: bool) -> None:
        """Another charge, another demand; and a car that begins needs time to take what it is offered."""
        if charging != self._charging:
            begins = charging and self._charging is False
            self._reset()
            self._suspended = PATIENCE if begins else 0
            self._charging = charging

    def observe(
        self, *, demanding: bool, charging: bool, pilot: float, measured: float, minimum: float, offer: float
    ) -> float | None:
        """The cap in A after this cycle, None for none. `offer` is what the member was told last."""
        self.charges(charging)
        self.offered(offer, pilot)
        if not demanding or (self.cap is not None and self._released(measured)):
            self._reset()
        elif self._suspended:
            self._suspended -= 1
        elif charging and pilot > minimum and 0 < measured < pilot - MARGIN:
            self._lower(max(measured, minimum), measured)
        # One step in the cycle of the probe, and one in the next.
        elif self.cap is not None and measured >= pilot - MARGIN and self._cycles == self._stepped / STEP:
            self.cap += STEP
            self._stepped += STEP
        return self.cap

    def _reset(self) -> None:
        self.cap = None
        self._stepped = 0.0

    def _lower(self, cap: float, measured: float) -> None:
        if self.cap is None:
            self.cap, self._cycles, self._probe = cap, 0, measured
        elif self._stepped > 0:
            self.cap = max(cap, self.cap - STEP)
            self._stepped -= STEP
        else:
            self.cap = min(cap, self.cap)

    def _released(self, measured: float) -> bool:
        """Whether it takes more than it is known to, or more than at the last probe."""
        assert self.cap is not None
        if measured >= self.cap - self._stepped + MARGIN:
            return True
        self._cycles += 1
        if self._cycles < PATIENCE:
            return False
        grown = measured >= self._probe + MARGIN
        self._cycles, self._probe = 0, measured
        return grown
