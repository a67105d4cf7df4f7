"""What the controller's group depends on, as options say it, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from labyard.evse.sharing.allocator import EPSILON, Rules

CYCLE_SECONDS = 5.0
# The others are lowered so long before a member that hears nothing may rise to its safe current.
LEAD_SECONDS = 6.0


@dataclass(frozen=True)
class Settings:
    """The load sharing options of the controller that the group depends on."""

    rules: Rules
    safe_current: float = 6.0
    heartbeat_timeout: float = 30.0
    rotation_interval: float = 1800.0
    two_phase: bool = True

    @property
    def heartbeat(self) -> float:
        """Seconds between two messages to a member: four of them may be lost before its failsafe engages."""
        return min(CYCLE_SECONDS, self.heartbeat_timeout / 4)

    @property
    def lead(self) -> float:
        return min(LEAD_SECONDS, self.heartbeat_timeout * 0.4)

    @property
    def failsafe_current(self) -> float:
        """What a member that lost its controller may draw."""
        return self.safe_current if self.rules.failsafe_mode == "safe_current" else 0.0

    @property
    def assumed_current(self) -> float:
        """What is kept back for a member that cannot be told anything, whatever it was told before."""
        if not self.two_phase:
            return self.rules.assumed_current
        return max(self.rules.assumed_current, self.failsafe_current)

    def issues(self, members: int) -> list[str]:
        """What cannot work out in a group of so many, each as a sentence."""
        rules = self.rules
        if rules.max_current <= 0:
            return ["loadsharing_group_max_current is 0: nothing is allocated"]
        found = []
        total = members * self.failsafe_current
        if total > rules.budget + EPSILON:
            found.append(
                f"loadsharing_failsafe_safe_current: {members} members without their controller may draw {total:g} A "
                f"of {rules.budget:g} A"
            )
        if rules.failsafe_mode == "safe_current" and rules.assumed_current < self.safe_current:
            found.append(
                "loadsharing_failsafe_peer_assumed_current is below loadsharing_failsafe_safe_current: an offline "
                "member may draw more than was assumed"
            )
        return found
