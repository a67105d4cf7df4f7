"""Runs a scenario: a queue of what happens when, and a clock that jumps from one to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from labyard.evse.sharing.account import OVERDRAW, Account
from labyard.evse.sharing.demand import Report
from labyard.evse.sharing.group import Group, Offer
from labyard.evse.sharing.limit import Failsafe, Limit
from labyard.evse.simulator.charger import Charger
from labyard.evse.simulator.link import Link
from labyard.evse.simulator.scenario import Fault, Peer, Scenario

STEP = 0.5  # s, the controller's poll tick
TICK = 1.0  # s, the car's
STALE = 30.0  # s without a sign of life before a link is given up
DOWN, UP = 0, 1

Sample = dict[str, Any]


class Simulation:
    """`on_sample` gets what each charger is offered and draws, every `sample_s` seconds."""

    def __init__(self, scenario: Scenario, on_sample: Callable[[Sample], None] | None = None, sample_s: float = 60.0):
        self.scenario = scenario
        self.now = 0.0
        self.account = Account()
        self.overdraw_ampere_seconds = 0.0
        self.messages = 0
        self._random = Random(scenario.seed)
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._on_sample, self._sample_s, self._next_sample = on_sample, sample_s, 0.0
        self._over = False  # since the last sample
        self.chargers = {peer.id: Charger(peer, scenario.seed + number) for number, peer in enumerate(scenario.peers)}
        self.local = self.chargers[scenario.peers[0].id]
        self._links = {peer.id: Link(scenario.link_delay_s, self._random) for peer in scenario.peers[1:]}
        self._reported: dict[str, tuple[object, float, float]] = {}  # signs, current, when
        self._max_current = min(scenario.supply, key=lambda supply: supply.at).amps
        self._first_seq = 1
        self._running = True
        self.group = self._new_group(told_before=False)

    def run(self) -> dict[str, Any]:
        """To the end of the scenario; the result."""
        self._plan()
        while self._queue and self._queue[0][0] <= self.scenario.duration_s:
            self.now, _, work, arguments = heapq.heappop(self._queue)
            work(*arguments)
        return self.result()

    def result(self) -> dict[str, Any]:
        account = self.account
        return {
            "duration_s": self.scenario.duration_s,
            "over_budget_ampere_seconds": round(account.over_ampere_seconds, 3),
            "violations": account.violations,
            "worst_over_a": round(account.worst, 3),
            "in_grace_ampere_seconds": round(account.graced_ampere_seconds, 3),
            "overdraw_ampere_seconds": round(self.overdraw_ampere_seconds, 3),
            "energy_wh": {id: round(charger.energy_wh, 1) for id, charger in self.chargers.items()},
            "soc": {id: round(charger.car.soc, 1) for id, charger in self.chargers.items()},
            "messages": self.messages,
            "config_issues": self.group.config_issues(),
        }

    # Time

    def _at(self, moment: float, work: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._queue, (moment, next(self._order), work, arguments))

    def _plan(self) -> None:
        scenario = self.scenario
        for supply in scenario.supply:
            self._at(supply.at, self._supply, supply.amps)
        for peer in scenario.peers:
            for event in peer.events:
                self._at(event.at, self._event, peer.id, event)
            if self.chargers[peer.id] is not self.local:
                self._at(peer.joins_at, self._join, peer)
        for fault in scenario.faults:
            self._at(fault.at, self._begin, fault)
            self._at(fault.at + fault.lasts, self._end, fault)
        self._at(0.0, self._step)
        self._at(TICK, self._look)
        for number, charger in enumerate(self.chargers.values(), 1):
            self._at(TICK * number / (len(self.chargers) + 1), self._tick, charger)

    # The scenario

    def _supply(self, amps: float) -> None:
        self._max_current = amps
        if self._running:
            self.group.configure(self.scenario.group.settings(amps))

    def _event(self, id: str, event: Any) -> None:
        self.chargers[id].happen(event)
        self._tell_controller(id)

    def _join(self, peer: Peer) -> None:
        self.account.joined(self.now)
        options = self.scenario.group
        failsafe = Failsafe("sim", options.heartbeat_timeout, options.failsafe_mode, options.failsafe_safe_current)
        self.chargers[peer.id].become_member(failsafe, self.now)
        if self._running:
            self.group.join(peer.id, self.now)
            self._connect(peer.id)

    def _begin(self, fault: Fault) -> None:
        charger = self.chargers[fault.peer]
        link = self._links.get(fault.peer)
        if fault.kind == "restart":
            charger.down_since = self.now
            if link is None:
                self._controller_down()
            else:
                self._break(fault.peer)
        elif link is None:
            return
        elif fault.kind == "partition":
            link.partitioned_until = max(link.partitioned_until, self.now + fault.lasts)
            self._at(self.now + STALE, self._stale, fault.peer, link.epoch)
        elif fault.kind == "disconnect":
            self._break(fault.peer)
        elif fault.kind == "delay":
            link.extra = fault.seconds
        elif fault.kind == "lie":
            charger.lie = (fault.measured, fault.pilot)

    def _end(self, fault: Fault) -> None:
        charger = self.chargers[fault.peer]
        if fault.kind == "restart":
            charger.down_since = None
            if charger is self.local:
                self._controller_up()
            elif charger.member is not None:
                charger.become_member(charger.member.failsafe, self.now)
        elif fault.kind == "delay":
            self._links[fault.peer].extra = 0.0
        elif fault.kind == "lie":
            charger.lie = (None, None)

    def _controller_down(self) -> None:
        self._running = False
        self._first_seq += 1_000_000
        for link in self._links.values():
            link.broke()

    def _controller_up(self) -> None:
        """Its own charger begins at the safe current, as a member that restarts does."""
        self._running = True
        options = self.scenario.group
        self.local.limit = Failsafe(mode=options.failsafe_mode, safe_current=options.failsafe_safe_current).limit
        self.local.follow(self.now)
        self.group = self._new_group(told_before=True)
        self._reported.clear()
        for id in self._links:
            if id in self.group.members:
                self._connect(id)
        self._act()

    def _new_group(self, told_before: bool) -> Group:
        group = Group(self.scenario.group.settings(self._max_current), self._first_seq)
        group.join(self.local.peer.id, self.now, local=True)
        for id in self._links:
            if self.chargers[id].member is not None:
                group.join(id, self.now, told_before=told_before)
        return group

    # Links

    def _connect(self, id: str) -> None:
        """As the gateway does it: /status, then /ws; again after a while if it does not come to be."""
        link = self._links[id]
        if link.up or not self._running:
            return
        if self.chargers[id].down_since is not None or link.partitioned_until > self.now:
            self._at(self.now + link.retry_delay(), self._connect, id)
            return
        link.made()
        self._arrive(id, link.epoch, self.chargers[id].report())
        self.group.linked(id)

    def _break(self, id: str) -> None:
        link = self._links[id]
        if link.up:
            link.broke()
            if self._running:
                self.group.lost(id)
                self._at(self.now + link.retry_delay(), self._connect, id)

    def _stale(self, id: str, epoch: int) -> None:
        link = self._links[id]
        if link.epoch == epoch and link.partitioned_until > self.now:
            self._break(id)

    def _tell_controller(self, id: str) -> None:
        """What changed in a charger; small changes of its current wait."""
        charger = self.chargers[id]
        signs, current, at = self._reported.get(id, (None, 0.0, 0.0))
        small = abs(charger.current - current) < 0.05 or (charger.current > 0 < current and self.now - at < 1.0)
        if signs == charger.signs and small and not self._is_awaited(id):
            return
        self._reported[id] = charger.signs, charger.current, self.now
        if charger is self.local:
            if self._running:
                self.group.report(id, charger.report(), self.now)
        elif (link := self._links[id]).up and charger.down_since is None:
            self._at(link.arrival(self.now, UP), self._arrive, id, link.epoch, charger.report())

    def _is_awaited(self, id: str) -> bool:
        """A gateway tells its current each second. Here it does only where that makes a difference."""
        return self._running and id in self.group.members and self.group.awaited(id)

    def _arrive(self, id: str, epoch: int, message: Report | tuple[int, float]) -> None:
        if self._links[id].epoch != epoch:
            return
        if isinstance(message, Report):
            self.group.report(id, message, self.now)
        else:
            self.group.heard(id, self.now)
            self.group.acked(id, *message)

    def _deliver(self, epoch: int, offer: Offer, sent_at: float) -> None:
        link, charger = self._links[offer.id], self.chargers[offer.id]
        if link.epoch != epoch or charger.member is None:
            return
        charger.member.allocate(offer.target_current, offer.reason, self.now, offer.seq)
        charger.follow(self.now)
        self._at(link.arrival(self.now, UP), self._arrive, offer.id, epoch, (offer.seq, sent_at))
        self._tell_controller(offer.id)

    # What goes on all the time

    def _step(self) -> None:
        if self._running:
            self._act()
        self._at(self.now + STEP, self._step)

    def _act(self) -> None:
        """As the controller's gateway does it: its own charger is looked at first."""
        self._tell_controller(self.local.peer.id)
        for offer in self.group.step(self.now):
            self._send(offer)
        for id in self._links:
            if id in self.group.members and self.group.given_up(id):
                self._break(id)

    def _send(self, offer: Offer) -> None:
        self.messages += 1
        if offer.id == self.local.peer.id:
            off = offer.reason == "failsafe_disabled"
            self.local.limit = Limit(offer.target_current, off, "group_cap")
            self.local.follow(self.now)
            self.group.acked(offer.id, offer.seq, self.now)
            self._tell_controller(offer.id)
        elif (link := self._links[offer.id]).up:
            self._at(link.arrival(self.now, DOWN), self._deliver, link.epoch, offer, self.now)

    def _tick(self, charger: Charger) -> None:
        charger.follow(self.now)
        charger.tick(TICK)
        self._tell_controller(charger.peer.id)
        self._at(self.now + TICK, self._tick, charger)

    def _look(self) -> None:
        """What a monitor sees, once a second."""
        total = offered = 0.0
        for charger in self.chargers.values():
            if charger is self.local or charger.member is not None:
                total += charger.current
                offered += charger.offered
                if charger.current > charger.offered + OVERDRAW:
                    self.overdraw_ampere_seconds += (charger.current - charger.offered) * TICK
        budget = self._max_current * self.scenario.group.safety_factor
        self._over = self.account.add(self.now, TICK, total, budget) > 0 or self._over
        if self._on_sample is not None and self.now >= self._next_sample:
            self._next_sample = self.now + self._sample_s
            self._on_sample(self._sample(total, offered, budget))
            self._over = False
        self._at(self.now + TICK, self._look)

    def _sample(self, drawn: float, offered: float, budget: float) -> Sample:
        """With the keys of a line of labyard-evse-monitor, as far as there are such things here."""
        return {
            "t": round(self.now, 3),
            "budget": round(budget, 3),
            "drawn": round(drawn, 3),
            "offered": round(offered, 3),
            "committed": round(self.group.commitments.total(), 3) if self._running else None,
            "failsafe": self.group.failsafe_active if self._running else None,
            "violation": self._over,
            "chargers": {
                id: {
                    "offered": charger.offered,
                    "drawn": round(charger.current, 3),
                    "state": int(charger.state),
                    "failsafe": charger.limit is not None and charger.limit.reason == "controller_lost",
                    "reason": self.group.reason(id) if self._running and id in self.group.members else None,
                }
                for id, charger in self.chargers.items()
            },
        }
