"""The controller's mind: who is there, who gets what, and what is told to whom when. No network, no sleeping.

Reports of the members and of the link to them go in; `step` says what is to be sent now. The gateway and the simulator
run the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor

from labyard.evse.sharing.allocator import EPSILON, Allocation, Reason, Result, allocate
from labyard.evse.sharing.commitments import Commitments
from labyard.evse.sharing.demand import TOLERANCE, Demand, Report
from labyard.evse.sharing.rotation import Rotation
from labyard.evse.sharing.settings import CYCLE_SECONDS, Settings

# A member is in its failsafe at the latest so long after its timeout: contract 6.3, and a tick of the car.
ENGAGE_SECONDS = 2.0
# Our own EVSE goes on as it was until it answers. One that has not by then is taken to be none.
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Offer:
    """A message to a member. `seq` rises from message to message."""

    id: str
    target_current: float
    reason: Reason
    seq: int


@dataclass
class _Member:
    local: bool = False
    joined: float = 0.0
    demand: Demand = field(default_factory=Demand)
    seen: bool = False
    linked: bool = False
    heard: float = 0.0  # when anything came last
    sent: float | None = None  # when anything was sent last, also by a controller before this one
    acked: int = 0
    acked_at: float | None = None  # when the last message was sent that it is known to have
    told: float | None = None
    resend: bool = False
    reason: Reason = "idle"
    target: float = 0.0
    online: bool = False
    reachable: bool = False


class Group:
    """Members are known by any id. A member that is `local` is the controller's own charger."""

    def __init__(self, settings: Settings, first_seq: int = 1) -> None:
        self.settings = settings
        self.result = Result()
        self.commitments = Commitments()
        self._members: dict[str, _Member] = {}
        self._rotation = Rotation(settings.rotation_interval)
        self._offset = 0
        self._seq = first_seq
        self._dirty = True
        self._next_cycle: float | None = None
        self._next_heartbeat = 0.0

    # What happens

    def configure(self, settings: Settings) -> None:
        self._dirty = self._dirty or settings != self.settings
        self.settings = settings
        self._rotation.set_interval(settings.rotation_interval)

    def join(self, id: str, now: float, local: bool = False, told_before: bool = False) -> None:
        """`told_before`: an earlier run of this controller may have told it anything up to the whole budget."""
        self._members[id] = _Member(local=local, joined=now, linked=local, sent=now if told_before else None)
        may_be_anything = told_before or local
        self.commitments.join(id, self.settings.rules.budget if may_be_anything else self.settings.assumed_current)
        self._dirty = True

    def leave(self, id: str) -> None:
        del self._members[id]
        self.commitments.leave(id)
        self._dirty = True

    def report(self, id: str, report: Report, now: float, acked: int | None = None) -> None:
        """`acked` is the last message that the member had when it made the report; None: the last one acknowledged."""
        member = self._members[id]
        member.heard = now
        acked = member.acked if acked is None else acked
        if not member.seen:
            member.seen = True
            drawing = report.pilot if report.charging else 0.0
            self.commitments.join(id, max(drawing, self.settings.failsafe_current))
            self._dirty = True
        if not self._forgotten(member, now):  # else the report is old, or soon untrue
            self.commitments.seen(id, acked, now, pilot=report.pilot, charging=report.charging, minimum=report.minimum)
        self.commitments.measured(id, 0.0)
        offered = self.commitments.amount(id)
        if member.demand.update(report, now, offered):
            self._dirty = True
        if report.charging and report.measured > offered + TOLERANCE:
            self.commitments.measured(id, report.measured)

    def heard(self, id: str, now: float) -> None:
        """Any message came from it."""
        self._members[id].heard = now

    def linked(self, id: str) -> None:
        """Messages can be sent to it from now on."""
        member = self._members[id]
        member.linked = member.resend = True
        self._dirty = True

    def acked(self, id: str, seq: int, sent_at: float) -> None:
        """It is known to have the message `seq`, sent at `sent_at`, and all before it."""
        member = self._members[id]
        member.acked, member.acked_at = max(member.acked, seq), max(member.acked_at or sent_at, sent_at)

    def lost(self, id: str) -> None:
        """The link broke: perhaps it restarts, and then it begins in its failsafe."""
        member = self._members[id]
        if member.linked:
            member.linked = False
            self._may_fail_safe(id)
            self._dirty = True

    # What is to be done

    def step(self, now: float) -> list[Offer]:
        """Called each 500 ms and after whatever happened. Returns what is to be sent, lower offers first."""
        cycle = self._next_cycle is None or now >= self._next_cycle - EPSILON
        if cycle:
            self._next_cycle = now + CYCLE_SECONDS
            self._observe_demand()
            self._dirty = True
        heartbeat = now >= self._next_heartbeat - EPSILON
        if heartbeat:
            self._next_heartbeat = now + self.settings.heartbeat
        self._look(now)
        if self._dirty:
            self._dirty = False
            self._recompute(now)
        return self._offers(now, heartbeat)

    # What is so

    def online(self, id: str) -> bool:
        return self._members[id].online

    def given_up(self, id: str) -> bool:
        """It is offline, although a link to it is there: that must be cut, so that no offer that waits in it arrives
        when nobody reckons with it any more."""
        member = self._members[id]
        return member.linked and not member.local and member.seen and not member.online

    def awaited(self, id: str) -> bool:
        """Whether a fresh report of this member would free current for others."""
        return self.commitments.pending(id)

    def acknowledged(self, id: str) -> int:
        """The last message that it is known to have."""
        return self._members[id].acked

    def reason(self, id: str) -> Reason:
        return self._members[id].reason

    def told(self, id: str) -> float | None:
        """The last offer that was sent."""
        return self._members[id].told

    @property
    def members(self) -> Sequence[str]:
        return tuple(self._members)

    @property
    def allocations(self) -> list[Allocation]:
        """The targets, each member once. A member that cannot be told, but is not offline yet, keeps what it has."""
        return [
            Allocation(entry.id, self._members[entry.id].target, self._members[entry.id].reason)
            for entry in self.result.allocations
            if entry.id in self._members
        ]

    @property
    def failsafe_active(self) -> bool:
        return bool(self.result.allocations) and any(not member.online for member in self._members.values())

    def config_issues(self) -> list[str]:
        """Settings that cannot work out, each as a sentence."""
        return self.settings.issues(len(self._members))

    # The steps of a step

    def _look(self, now: float) -> None:
        """What time alone changes."""
        offset = self._rotation.offset(now)
        if offset != self._offset:
            self._offset = offset
            for member in self._members.values():
                member.demand.new_turn()
            self._dirty = True
        for id, member in self._members.items():
            online = member.local or (member.seen and now - member.heard < self.settings.heartbeat_timeout)
            reachable = online and member.linked and not self._forgotten(member, now)
            if (online, reachable) != (member.online, member.reachable):
                member.online, member.reachable = online, reachable
                self._dirty = True
            if not reachable:
                self._may_fail_safe(id)
            if member.local and not member.seen and now - member.joined >= ANSWER_SECONDS:
                self.commitments.join(id, 0.0)
            if not online:
                self._settle(id, member, now)
            elif member.demand.look(now):
                self._dirty = True

    def _forgotten(self, member: _Member, now: float) -> bool:
        """It may soon believe that it lost us, although we hear it."""
        if member.local or member.acked_at is None or self.settings.failsafe_current <= 0:
            return False
        return now - member.acked_at > self.settings.heartbeat_timeout - self.settings.lead

    def _may_fail_safe(self, id: str) -> None:
        if not self._members[id].local and self.commitments.amount(id) < self.settings.failsafe_current:
            self._seq += 1
            self.commitments.sent(id, self._seq, self.settings.failsafe_current)

    def _settle(self, id: str, member: _Member, now: float) -> None:
        """Offline for so long that its failsafe must have engaged: when it comes back, it joins anew."""
        until = self.settings.heartbeat_timeout + ENGAGE_SECONDS
        if member.sent is not None and now - member.sent <= until:
            return
        if member.told is not None or self.commitments.amount(id) != self.settings.assumed_current:
            self.commitments.join(id, self.settings.assumed_current)
            member.told, member.acked_at, member.seen = None, None, False
            self._dirty = True

    def _observe_demand(self) -> None:
        for member in self._members.values():
            report = member.demand.report
            if member.told is not None and member.reachable:
                member.demand.cap.observe(
                    demanding=member.demand.demanding(),
                    charging=report.charging,
                    pilot=report.pilot,
                    measured=report.measured,
                    minimum=min(report.minimum, report.maximum),
                    offer=member.told,
                )

    def _recompute(self, now: float) -> None:
        demanding = sum(member.reachable and member.demand.demanding() for member in self._members.values())
        rules = self.settings.rules
        with_disable = rules.failsafe_mode == "disable"
        members = [
            member.demand.member(id, online=member.online if with_disable else member.reachable, capped=demanding > 1)
            for id, member in self._members.items()
        ]
        self.result = allocate(members, rules, self._offset, self._reserves())
        for entry in self.result.allocations:
            member = self._members[entry.id]
            if entry.reason == "offline" and member.online:
                continue
            member.target, member.reason = _cut(entry.target_current), entry.reason
            member.demand.allocated(entry)

    def _reserves(self) -> dict[str, float]:
        """What a member that cannot be told anything may draw."""
        if not self.settings.two_phase:
            return {}
        assumed = self.settings.assumed_current
        return {
            id: max(assumed, self.commitments.amount(id)) if member.seen else assumed
            for id, member in self._members.items()
        }

    def _offers(self, now: float, heartbeat: bool) -> list[Offer]:
        if not self.result.allocations:
            return []
        changed = self._lower(now) | self._raise(now)
        if not changed and not heartbeat and not any(member.resend for member in self._members.values()):
            return []
        return [
            self._send(id, member, now)
            for id, member in sorted(self._members.items(), key=lambda item: item[0] not in changed)
            if member.linked and member.told is not None and (id in changed or heartbeat or member.resend)
        ]

    def _lower(self, now: float) -> set[str]:
        """At once: whoever has more than his target, and whoever was told nothing yet."""
        lowered = set()
        for id, member in self._members.items():
            if not member.linked or not member.seen or not (member.reachable or member.told is None):
                continue
            if not self.settings.two_phase:
                wanted = member.target
            elif member.told is None:
                wanted = min(member.target, self._first_offer(id))
            else:
                wanted = min(member.target, member.told)
            if wanted != member.told:
                self._tell(id, member, wanted, now)
                lowered.add(id)
        return lowered

    def _first_offer(self, id: str) -> float:
        """A joining member goes on with what it has, as far as that is allowed."""
        member = self._members[id]
        amps = float(floor(min(self.commitments.amount(id), max(0.0, member.demand.report.pilot))))
        return amps if member.demand.report.charging and amps >= member.demand.report.minimum else 0.0

    def _raise(self, now: float) -> set[str]:
        """As far as what the others may still draw allows."""
        raised: set[str] = set()
        if not self.settings.two_phase:
            return raised
        for id in self.result.order:
            member = self._members.get(id)
            if member is None or not member.reachable or member.told is None or member.target <= member.told:
                continue
            least = min(member.target, member.demand.report.minimum, member.demand.report.maximum)
            amps = min(member.target, _cut(self.commitments.room(id, self.settings.rules.budget)))
            if member.reason == "connected_min" and not self.settings.rules.connected_min_in_budget:
                amps = member.target
            if amps >= least - EPSILON and amps > member.told:
                self._tell(id, member, amps, now)
                raised.add(id)
        return raised

    def _tell(self, id: str, member: _Member, amps: float, now: float) -> None:
        member.told = amps
        member.demand.offered(amps, now)
        self._seq += 1
        self.commitments.sent(id, self._seq, amps)

    def _send(self, id: str, member: _Member, now: float) -> Offer:
        assert member.told is not None
        if member.acked_at is None:
            member.acked_at = now  # it cannot believe that it lost us before
        member.sent, member.resend = now, False
        self._seq += 1
        self.commitments.sent(id, self._seq, member.told)
        return Offer(id, member.told, member.reason, self._seq)


def _cut(amps: float) -> float:
    """To hundredths, never up."""
    return floor(amps * 100 + 1e-6) / 100
