"""The controller of a group: the group's mind (group.py), a link to each peer, and its own charger: contract 6.2."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import structlog

from labyard.evse.sharing.allocator import Rules
from labyard.evse.sharing.calls import Calls
from labyard.evse.sharing.demand import Report
from labyard.evse.sharing.directory import Found
from labyard.evse.sharing.group import Group, Offer
from labyard.evse.sharing.limit import Failsafe, Limit
from labyard.evse.sharing.link import PeerLink
from labyard.evse.sharing.notices import Notices
from labyard.evse.sharing.peers import Me, Peer, PeerBook
from labyard.evse.sharing.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from labyard.evse.gateway.app import Gateway
    from labyard.evse.gateway.options import Options

log = structlog.get_logger(__name__)

TICK = 0.5  # s of the charger's clock
LOOK_AFTER = 2  # ticks without the answer that frees current, until it is asked for


def settings_of(options: Options) -> Settings:
    rules = Rules(
        options["loadsharing_group_max_current"],
        options["loadsharing_safety_factor"],
        options["loadsharing_failsafe_mode"],
        options["loadsharing_failsafe_peer_assumed_current"],
        options["loadsharing_connected_min_in_budget"],
        options["loadsharing_subset_topup"],
    )
    return Settings(
        rules,
        options["loadsharing_failsafe_safe_current"],
        options["loadsharing_heartbeat_timeout"],
        options["loadsharing_rotation_interval"],
        options["loadsharing_two_phase"],
    )


class Controller:
    """`apply` gets the limit of this gateway's own charger, None: it is free. `on_status` is called when what is
    allocated changes."""

    def __init__(
        self,
        gateway: Gateway,
        me: Me,
        book: PeerBook,
        calls: Calls,
        apply: Callable[[Limit | None], None],
        on_status: Callable[[], None],
    ) -> None:
        self.group: Group | None = None
        self.links: dict[str, PeerLink] = {}
        self.computed_at: float | None = None  # wall clock
        self._gateway = gateway
        self._me = me
        self._book = book
        self._calls = calls
        self._apply = apply
        self._on_status = on_status
        self._notices = Notices(book, calls, gateway.clock)
        self._kick = asyncio.Event()
        self._tick: asyncio.Task[None] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._local = ""  # our own host, as a member
        self._shown: object = None
        self._awaited: dict[str, int] = {}
        self._from_the_start = {peer.host for peer in book}

    @property
    def active(self) -> bool:
        options = self._gateway.options
        return bool(options["loadsharing_enabled"]) and options["loadsharing_role"] == "controller"

    def look(self) -> None:
        """Something that the group depends on may have changed: options, peers, our own name, our charger."""
        self._kick.set()

    def came(self, found: Found) -> None:
        """mDNS has found it, or found it again: its link need not wait for its next attempt."""
        for link in self.links.values():
            if self._book.found(link.peer) == found:
                link.retry()

    def push_all(self) -> None:
        """To all members, their configuration."""
        for link in self.links.values():
            link.push()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._reconcile()
                if self.group is not None:
                    self._step(self.group)
                await self._wait()
        finally:
            self._notices.close()
            for task in (*self._tasks.values(), *([self._tick] if self._tick else [])):
                task.cancel()

    def let_go(self, peer: Peer) -> None:
        """A peer that left the group is told, in the background."""
        self._notices.let_go(peer)

    def introduce(self, peer: Peer) -> None:
        """Tell a peer that we are in one group (`reciprocal`), once, in the background."""
        self._notices.introduce(peer, self._me.host)

    # What links tell

    def peer_reported(self, host: str, report: Report, acked: int | None) -> None:
        if group := self._group_of(host):
            group.report(host, report, self._now(), acked)
            self._kick.set()

    def peer_heard(self, host: str) -> None:
        if group := self._group_of(host):
            group.heard(host, self._now())

    def peer_linked(self, host: str) -> None:
        if group := self._group_of(host):
            group.linked(host)
            self._kick.set()

    def peer_lost(self, host: str) -> None:
        if group := self._group_of(host):
            group.lost(host)
            self._kick.set()

    def peer_acked(self, host: str, seq: int, sent_at: float) -> None:
        if group := self._group_of(host):
            group.acked(host, seq, sent_at)

    def acknowledged(self, host: str) -> int:
        group = self._group_of(host)
        return 0 if group is None else group.acknowledged(host)

    def heartbeat_timeout(self) -> float:
        """s"""
        return float(self._gateway.options["loadsharing_heartbeat_timeout"])

    def member_config(self) -> dict[str, Any]:
        """What a member is told to be: not its priority, and not the rotation."""
        options = self._gateway.options
        copied = (
            "group_id",
            "group_max_current",
            "safety_factor",
            "heartbeat_timeout",
            "failsafe_mode",
            "failsafe_safe_current",
            "failsafe_peer_assumed_current",
        )
        return {
            "loadsharing_enabled": True,
            "loadsharing_role": "member",
            "loadsharing_controller_host": self._me.host,
            **{f"loadsharing_{key}": options[f"loadsharing_{key}"] for key in copied},
        }

    # Inside

    def _now(self) -> float:
        return self._gateway.clock.now()

    def _group_of(self, host: str) -> Group | None:
        return self.group if self.group is not None and host in self.group.members else None

    async def _wait(self) -> None:
        """Until the next tick, or until something happens. A gateway that is no controller has no ticks."""
        if self.group is None:
            await self._kick.wait()
        else:
            if self._tick is None or self._tick.done():
                self._tick = asyncio.create_task(self._gateway.clock.sleep(TICK))
                self._tick.add_done_callback(lambda _: self._kick.set())
            await self._kick.wait()
        self._kick.clear()

    def _reconcile(self) -> None:
        """Group and links as options and peers say."""
        if not self.active:
            if self.group is not None:
                self.group = None
                self._apply(None)
                self._on_status()
            self._drop_links(keep=set())
            return
        now, settings = self._now(), settings_of(self._gateway.options)
        if self.group is None:
            self.group = Group(settings, first_seq=int(time.time() * 1000))
            self._apply(self._before_allocation())
        self.group.configure(settings)
        if self._local != self._me.host:
            if self._local in self.group.members:
                self.group.leave(self._local)
            self._local = self._me.host
            self.push_all()  # members are to know our new name
        wanted = {peer.host: peer for peer in self._book}
        for host in set(self.group.members) - wanted.keys() - {self._local}:
            self.group.leave(host)
        if self._local not in self.group.members:
            self.group.join(self._local, now, local=True)
        for host in [host for host in wanted if host not in self.group.members]:
            self.group.join(host, now, told_before=host in self._from_the_start)
            self._from_the_start.discard(host)
        self._drop_links(keep=wanted.keys())
        for host in [host for host in wanted if host not in self.links]:
            self._notices.keep(host)
            link = self.links[host] = PeerLink(wanted[host], self, self._book, self._calls, self._gateway.clock)
            self._tasks[host] = asyncio.create_task(link.run())

    def _drop_links(self, keep: Any) -> None:
        for host in set(self.links) - set(keep):
            del self.links[host]
            self._awaited.pop(host, None)
            self._tasks.pop(host).cancel()

    def _before_allocation(self) -> Limit | None:
        """As a member that restarts: the safe current. A charger that is told nothing might take what is not there."""
        options = self._gateway.options
        if options["loadsharing_group_max_current"] <= 0:
            return None
        failsafe = Failsafe(
            mode=options["loadsharing_failsafe_mode"], safe_current=options["loadsharing_failsafe_safe_current"]
        )
        return failsafe.limit

    def _step(self, group: Group) -> None:
        self._report_local(group)
        now = self._now()
        offers = group.step(now)
        for offer in offers:
            self._send(group, offer, now)
        if not group.allocations:
            self._apply(None)
        self._look_for_answers(group)
        for host, link in self.links.items():
            if group.given_up(host):
                link.cut()
        if offers:
            self.computed_at = self._gateway.wall.now().timestamp()
        shown = (tuple(group.allocations), tuple(map(group.online, group.members)))
        if shown != self._shown:
            self._shown = shown
            self._on_status()

    def _report_local(self, group: Group) -> None:
        """Our own charger; until its EVSE answers nothing is known of it."""
        gateway = self._gateway
        if gateway.manager.ready:
            local = gateway.local()
            report = Report(
                local.state,
                local.vehicle,
                float(local.pilot),
                local.amps,
                float(local.min),
                float(local.max),
                gateway.options["loadsharing_priority"],
                ready=not gateway.asleep_by_others(),
            )
            group.report(self._local, report, self._now())

    def _send(self, group: Group, offer: Offer, now: float) -> None:
        if offer.id == self._local:
            self._apply(Limit(offer.target_current, offer.reason == "failsafe_disabled", "group_cap"))
            group.acked(offer.id, offer.seq, now)
        elif offer.id in self.links:
            self.links[offer.id].send(offer, now)

    def _look_for_answers(self, group: Group) -> None:
        """A peer tells its pilot with a change of its state, or half a minute later: it is asked."""
        for host, link in self.links.items():
            self._awaited[host] = self._awaited.get(host, 0) + 1 if group.awaited(host) else 0
            if self._awaited[host] > LOOK_AFTER:
                self._awaited[host] = 0
                link.look()
