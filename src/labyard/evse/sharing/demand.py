"""What a charger says of itself, and whether it wants current: contract 7, "demanding" and "charging"."""

from __future__ import annotations

from dataclasses import dataclass, field

from labyard.evse.codes import State
from labyard.evse.sharing.allocator import EPSILON, Allocation, Member
from labyard.evse.sharing.demand_cap import DemandCap

# A car that was offered current is given this long to begin; an EVSE this long to wake up.
START_SECONDS = 15.0
ASLEEP = (State.SLEEPING, State.DISABLED)
# A measurement may lie this far above the offer before it counts.
TOLERANCE = 0.1
# A draw above the offer for longer than a car needs to follow a lower pilot is the car's own doing.
OVERDRAW_SECONDS = 3.0


@dataclass(frozen=True)
class Report:
    """One report of a charger; currents in A. `ready` is `loadsharing_ready`, None: the peer has no such field."""

    state: int = 0
    vehicle: bool = False
    pilot: float = 0.0
    measured: float = 0.0
    minimum: float = 6.0
    maximum: float = 32.0
    priority: int = 0
    ready: bool | None = None

    @property
    def charging(self) -> bool:
        return self.state == State.CHARGING

    def wants_change(self, other: Report) -> bool:
        """Whether the allocation must be looked at again: not for a new measurement alone."""
        return (self.state, self.vehicle, self.minimum, self.maximum, self.priority, self.ready) != (
            other.state,
            other.vehicle,
            other.minimum,
            other.maximum,
            other.priority,
            other.ready,
        )


@dataclass
class Demand:
    """What one member wants, over time."""

    report: Report = field(default_factory=Report)
    # A car that draws more than it may, whatever it is told, needs this much or nothing.
    need: float = 0.0
    waiting: bool = False  # its turn in the rotation is kept
    cap: DemandCap = field(default_factory=DemandCap)
    _declined: bool = False  # had its turn, and did not begin or has ended
    _seen: bool = False
    _own_will: bool = False  # asleep, and not because of us: it was so before we told it anything, or after an offer
    _offered_since: float | None = None  # None while the offer is below the minimum
    _over_since: float | None = None

    def update(self, report: Report, now: float, committed: float) -> bool:
        """Take a report in; whether the allocation must be looked at again. `committed` in A is what it may draw."""
        changed = report.wants_change(self.report)
        if not self._seen:
            self._seen, self._own_will = True, report.state in ASLEEP
        elif report.vehicle != self.report.vehicle or report.state != self.report.state:
            self._own_will = False
            if self._offered_since is not None:
                self._offered_since = now  # it has begun to move: it gets the whole time again
        if not report.vehicle:
            self.need, self.waiting, self._declined = 0.0, False, False
        if report.charging:
            self._declined = False
            if self._offered_since is not None:
                self.waiting = False
        elif self.report.charging and report.state == State.CONNECTED and self._offered_since is not None:
            self._declined = True  # the car has stopped by itself
        self.report = report
        self.cap.charges(report.charging)
        return self._watch_overdraw(now, committed) or changed

    def offered(self, amps: float, now: float) -> None:
        """It was told."""
        self.cap.offered(amps, self.report.pilot)
        if amps < self._least - EPSILON:
            self._offered_since = None
        elif self._offered_since is None:
            self._offered_since = now

    def allocated(self, allocation: Allocation) -> None:
        if allocation.reason == "insufficient":
            self.waiting = self.waiting or not self._declined
        elif allocation.reason == "idle":
            self.waiting = False

    def new_turn(self) -> None:
        """The rotation went on: who declined is asked again."""
        self._declined = False

    def look(self, now: float) -> bool:
        """Whether time alone has changed something."""
        if self._offered_since is None or now - self._offered_since < START_SECONDS:
            return False
        if self.report.state in ASLEEP and self.report.ready is None and not self._own_will:
            self._own_will = True
            return True
        if self.waiting and not self.report.charging:
            self.waiting, self._declined = False, True
            return True
        return False

    def demanding(self) -> bool:
        report = self.report
        if not report.vehicle or report.state == State.STARTING:
            return False
        if report.state not in ASLEEP:
            return True
        return report.ready if report.ready is not None else not self._own_will

    def member(self, id: str, online: bool, capped: bool) -> Member:
        """As the allocator wants it. `capped`: the demand cap applies."""
        report = self.report
        minimum, maximum = report.minimum, report.maximum
        if self.need > minimum:
            minimum = maximum = self.need
        elif capped and self.cap.cap is not None:
            maximum = min(maximum, self.cap.cap)
        return Member(
            id,
            online=online,
            demanding=self.demanding(),
            charging=report.charging or self.waiting,
            minimum=minimum,
            maximum=maximum,
            priority=report.priority,
        )

    @property
    def _least(self) -> float:
        return min(self.report.minimum, self.report.maximum)

    def _watch_overdraw(self, now: float, committed: float) -> bool:
        """Whether `need` changed."""
        report = self.report
        before = self.need
        if not report.charging or report.measured <= committed + TOLERANCE:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        elif now - self._over_since >= OVERDRAW_SECONDS:
            self.need = report.measured
        if report.charging and 0 < report.measured < self.need - 2 * TOLERANCE:
            self.need = report.measured if report.measured > report.minimum else 0.0
        return abs(self.need - before) > TOLERANCE
