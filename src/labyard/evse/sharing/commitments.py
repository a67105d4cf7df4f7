"""What each member may still act on: contract 7, the two-phase rule.

A link delivers in order but takes its time, and may break with offers on the way. So a lower offer frees nothing until
the member is known to have it and shows for a while that it follows; until then the highest offer on the way counts.
"""

from __future__ import annotations

from math import floor

from labyard.evse.sharing.allocator import EPSILON

# Offers on the way that are remembered one by one. Beyond it the oldest two are taken as one, the higher.
MAX_OUTSTANDING = 32
SETTLE_SECONDS = 1.5


class Commitments:
    """The ledger of the controller. Currents in A; `seq` is the rising number of the message that carried an offer."""

    def __init__(self) -> None:
        # Oldest first. The first is what the member last showed to follow; any of the others may have reached it.
        self._outstanding: dict[str, list[tuple[int, float]]] = {}
        # Since when a member shows to follow the offer of that number, although its car may not yet.
        self._proven: dict[str, dict[int, float]] = {}
        self._overdraw: dict[str, float] = {}

    def join(self, member: str, amps: float) -> None:
        """A member that was not told anything yet and may draw `amps`."""
        self._outstanding[member] = [(0, amps)]
        self._proven[member] = {}

    def leave(self, member: str) -> None:
        self._outstanding.pop(member, None)
        self._proven.pop(member, None)
        self._overdraw.pop(member, None)

    def sent(self, member: str, seq: int, amps: float) -> None:
        """An offer is on its way, or the member may from now on turn to `amps` by itself (its failsafe)."""
        offers = self._outstanding[member]
        if offers[-1][1] == amps:
            return  # the earlier message will do as proof
        offers.append((seq, amps))
        if len(offers) > MAX_OUTSTANDING:
            (_, first), (number, second), *rest = offers
            offers[:] = [(number, max(first, second)), *rest]
            self._proven[member].clear()

    def seen(self, member: str, acked: int, now: float, *, pilot: float, charging: bool, minimum: float) -> None:
        """A report that the member made when it had the message `acked`, and all before it."""
        offers, proven = self._outstanding[member], self._proven[member]
        index = max((place for place, (seq, _) in enumerate(offers) if seq <= acked), default=0)
        highest = max(amps for _, amps in offers[index:])
        stopped = highest < minimum - EPSILON and not charging
        if not stopped and pilot > floor(highest + EPSILON):
            proven.clear()
            return
        seq = offers[index][0]
        proven.setdefault(seq, now)
        if charging and highest < max(amps for _, amps in offers):
            # The pilot is lower; the car follows with its next tick, and is measured with the one after.
            settled = [number for number, since in proven.items() if now - since >= SETTLE_SECONDS]
            seq = max(settled, default=0)
        self._outstanding[member] = [offer for offer in offers if offer[0] >= seq] or offers[-1:]
        for number in [number for number in proven if number <= seq]:
            del proven[number]

    def measured(self, member: str, amps: float) -> None:
        """A car that draws more than it was offered counts with that. 0: it draws no more than it may."""
        self._overdraw[member] = amps

    def amount(self, member: str) -> float:
        """The largest current that the member may still draw."""
        offered = max(amps for _, amps in self._outstanding[member])
        return max(offered, self._overdraw.get(member, 0.0))

    def pending(self, member: str) -> bool:
        """Whether an answer is awaited that would free current."""
        return len(self._outstanding[member]) > 1

    def total(self) -> float:
        return sum(self.amount(member) for member in self._outstanding)

    def room(self, member: str, budget: float) -> float:
        """How far this member's offer may go."""
        return budget - sum(self.amount(other) for other in self._outstanding if other != member)
