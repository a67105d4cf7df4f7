"""No honest member ever acts on more than the controller counts for it, whatever links, supply and members do."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from math import floor

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from labyard.evse.sharing.allocator import Rules
from labyard.evse.sharing.demand import Report
from labyard.evse.sharing.group import Group, Offer
from labyard.evse.sharing.settings import Settings

SAFE = 6.0
TIMEOUT = 30.0


@dataclass
class Charger:
    """An honest member behind a link that keeps the order but takes any time."""

    limit: float = 32.0  # free until it is told something, as a charger that has not joined yet
    wants: bool = True
    takes: float = 32.0
    told_at: float | None = None
    # Its car follows a lower pilot within a second, and is measured once a second.
    held: float = 0.0
    held_until: float = 0.0
    measured: float = 0.0
    linked: bool = False
    down: deque[Offer] = field(default_factory=deque)
    up: deque[Report | tuple[int, float]] = field(default_factory=deque)

    @property
    def charging(self) -> bool:
        return self.wants and self.limit >= 6

    def set(self, limit: float, now: float) -> None:
        self.held, self.held_until = self.may_draw(now), now + 1.0
        self.limit = limit
        if not self.charging:
            self.measured = 0.0

    def report(self) -> Report:
        pilot = float(max(6, floor(self.limit)))
        state = 3 if self.charging else 254 if self.limit < 6 else 2
        measured = self.measured if self.charging else 0.0
        return Report(state, self.wants, pilot, measured, ready=self.limit < 6)

    def may_draw(self, now: float) -> float:
        """With a relay that opens at once, and a car that may be about to begin."""
        if self.limit < 6:
            return 0.0
        return max(floor(self.limit), self.held if self.charging and now < self.held_until else 0.0)


class Links(RuleBasedStateMachine):
    @initialize(count=st.integers(1, 5), budget=st.floats(1, 100), mode=st.sampled_from(["safe_current", "disable"]))
    def begin(self, count: int, budget: float, mode: str) -> None:
        self.now = 100.0
        self.safe = SAFE if mode == "safe_current" else 0.0
        self.settings = Settings(
            Rules(budget, failsafe_mode=mode),  # type: ignore[arg-type]
            SAFE,
            TIMEOUT,
            rotation_interval=60,
        )
        self.group = Group(self.settings)
        self.sent_at: dict[int, float] = {}
        self.chargers = {f"m{number}": Charger() for number in range(count)}
        for id in self.chargers:
            self.group.join(id, self.now)

    def charger(self, number: int) -> tuple[str, Charger]:
        return list(self.chargers.items())[number % len(self.chargers)]

    @rule(number=st.integers(0, 9))
    def link_up(self, number: int) -> None:
        id, charger = self.charger(number)
        if not charger.linked:
            if charger.told_at is None:
                charger.set(self.safe, self.now)  # it takes the configuration: failsafe
                charger.held, charger.told_at = 0.0, self.now
            charger.linked = True
            self.group.report(id, charger.report(), self.now)
            self.group.linked(id)
            self.step()

    @rule(number=st.integers(0, 9), noticed=st.booleans())
    def link_breaks(self, number: int, noticed: bool) -> None:
        """Not noticed: what is on the way is lost all the same."""
        id, charger = self.charger(number)
        charger.down.clear()
        charger.up.clear()
        if charger.linked:
            charger.linked = False
            self.group.lost(id)
            if noticed:
                self.step()

    @rule(number=st.integers(0, 9))
    def restarts(self, number: int) -> None:
        _, charger = self.charger(number)
        self.link_breaks(number, noticed=True)
        if charger.told_at is not None:
            self.spend(1.0)
            charger.set(self.safe, self.now)
            charger.told_at = self.now - TIMEOUT

    @rule(number=st.integers(0, 9), wants=st.booleans(), takes=st.floats(6, 32))
    def car(self, number: int, wants: bool, takes: float) -> None:
        _, charger = self.charger(number)
        charger.wants, charger.takes = wants, takes
        self.tell(charger)

    @rule(number=st.integers(0, 9), down=st.integers(0, 5), up=st.integers(0, 5))
    def deliver(self, number: int, down: int, up: int) -> None:
        id, charger = self.charger(number)
        for _ in range(min(down, len(charger.down))):
            offer = charger.down.popleft()
            charger.set(offer.target_current, self.now)
            charger.told_at = self.now
            charger.up.append((offer.seq, self.sent_at[offer.seq]))
            self.tell(charger)
        for _ in range(min(up, len(charger.up))):
            message = charger.up.popleft()
            if isinstance(message, Report):
                self.group.report(id, message, self.now)
            else:
                self.group.heard(id, self.now)
                self.group.acked(id, *message)

    @rule(budget=st.floats(1, 100))
    def supply(self, budget: float) -> None:
        self.settings = replace(self.settings, rules=replace(self.settings.rules, max_current=budget))
        self.group.configure(self.settings)
        self.step()

    @rule(seconds=st.floats(0.1, 40))
    def spend(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            for charger in self.chargers.values():
                if charger.told_at is not None and self.now - charger.told_at > TIMEOUT:
                    charger.limit = self.safe
                if self.now % 1 == 0 and charger.charging:
                    charger.measured = min(charger.may_draw(self.now), charger.takes)
                    self.tell(charger)
            self.check()
            self.step()

    @rule()
    def settle(self) -> None:
        """With links that work, all is as it was meant within seconds."""
        for number in range(len(self.chargers)):
            self.link_up(number)
        charged = False
        for step in range(80):
            for number in range(len(self.chargers)):
                self.deliver(number, 100, 100)
            self.spend(0.5)
            # Not only the last moment: turns may be changing just then.
            charged = charged or (step > 50 and any(one.may_draw(self.now) for one in self.chargers.values()))
        assert self.group.commitments.total() <= self.settings.rules.budget + 1e-6
        assert charged or self.settings.rules.budget < 6 or not any(one.wants for one in self.chargers.values())

    def tell(self, charger: Charger) -> None:
        if charger.linked:
            charger.up.append(charger.report())

    def step(self) -> None:
        before = {id: (self.group.told(id) or 0.0, self.group.commitments.amount(id)) for id in self.chargers}
        for offer in self.group.step(self.now):
            self.sent_at[offer.seq] = self.now
            told, committed = before[offer.id]
            if offer.target_current > max(told, committed):
                assert self.group.commitments.total() <= self.settings.rules.budget + 1e-6, "a raise beyond the budget"
            self.chargers[offer.id].down.append(offer)

    @invariant()
    @precondition(lambda self: hasattr(self, "group"))
    def check(self) -> None:
        for id, charger in self.chargers.items():
            if charger.told_at is not None:
                assert charger.may_draw(self.now) <= self.group.commitments.amount(id) + 1e-6, id


TestLinks = Links.TestCase
TestLinks.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
