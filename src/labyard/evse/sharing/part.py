"""Load sharing as a part of the gateway: joins discovery, peers, controller and member, and says how they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog

from labyard.evse.gateway import identity
from labyard.evse.gateway.claims import Cap
from labyard.evse.gateway.metrics import Measure
from labyard.evse.sharing import api, documents
from labyard.evse.sharing.calls import Calls
from labyard.evse.sharing.controller import Controller
from labyard.evse.sharing.directory import Directory, Found
from labyard.evse.sharing.discovery import Discovery, mode_from_environment
from labyard.evse.sharing.faults import PeerFaults
from labyard.evse.sharing.limit import Limit
from labyard.evse.sharing.mdns import Announcement
from labyard.evse.sharing.member import KEYS, Member
from labyard.evse.sharing.network import own_interfaces, split_host
from labyard.evse.sharing.peers import Me, PeerBook

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

log = structlog.get_logger(__name__)

ADDRESSES_SECONDS = 10.0  # real: so long our own addresses are believed


class Sharing:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.faults = PeerFaults()
        self.calls = Calls(self.faults, gateway.credentials)
        self.directory = Directory()
        self.discovery: Discovery | None = None
        self.limit: Limit | None = None  # of our own charger
        self._as_controller: Limit | None = None
        self._as_member: Limit | None = None
        self._told: dict[str, Any] = {}
        self._mode = mode_from_environment()
        self._addresses: tuple[float, list[str]] = (0.0, [])
        self.me = Me(gateway.identity.device_id, gateway.port, self.names, self.addresses)
        self.book = PeerBook(
            gateway.storage, lambda: self.directory, self.addresses, self._peers_changed, gateway.identity.device_id
        )
        self.controller = Controller(
            gateway, self.me, self.book, self.calls, self._limit_as_controller, self._status_changed
        )
        self.member = Member(
            gateway, lambda: self.directory, self.addresses, self._limit_as_member, self._left, self.discover
        )
        self._plug_in()
        self.member.configure()

    def names(self) -> list[str]:
        """The one on the network first."""
        hostname = self.gateway.hostname
        return [hostname if self.discovery is None else self.discovery.instance, hostname]

    def addresses(self) -> list[str]:
        """This machine's own."""
        at, addresses = self._addresses
        if not addresses or time.monotonic() - at > ADDRESSES_SECONDS:
            addresses = [str(interface.ip) for interface in own_interfaces()]
            self._addresses = time.monotonic(), addresses
        return addresses

    @property
    def is_member(self) -> bool:
        return self.member.active

    def discover(self) -> None:
        if self.discovery is not None:
            self.discovery.trigger()

    # Inside

    def _plug_in(self) -> None:
        gateway = self.gateway
        gateway.routes.extend(api.routes(self))
        gateway.status_fields.append(lambda: documents.status_fields(self))
        gateway.hub.handle("loadsharing", self.member.allocate)
        gateway.measures.append(self._measures)
        gateway.options.on_change(self._options_changed)
        gateway.evse.on_change(self._evse_changed)
        gateway.claims.on_change(self._tell)
        gateway.manager.on_ready(self._evse_ready)
        gateway.tasks += [self._discover_forever, self.controller.run, self.member.run]
        gateway.closers += [self._close, self.calls.close]

    def _announcement(self) -> Announcement:
        about = {
            "type": identity.BUILDENV,
            "version": identity.VERSION,
            "id": self.gateway.identity.device_id,
            "ssl": "0",
        }
        return Announcement(self.gateway.hostname, self.gateway.port, about)

    async def _discover_forever(self) -> None:
        if self._mode != "off":
            self.discovery = Discovery(self._announcement(), self._mode, self._peers_changed, self.directory)
            await self.discovery.run()

    async def _close(self) -> None:
        if self.discovery is not None:
            await self.discovery.close()

    def _options_changed(self, keys: frozenset[str]) -> None:
        if "hostname" in keys and self.discovery is not None:
            self.discovery.announce(self._announcement())
        if keys & KEYS:
            self.member.configure()
        if "hostname" in keys or any(key.startswith("loadsharing_") for key in keys):
            self.controller.look()
            self.controller.push_all()
            self._status_changed()

    def _evse_changed(self, names: frozenset[str]) -> None:
        if "min" in names:  # until then it was not known what is too little
            self._apply()
        self._tell()
        if self.controller.active and names & {"state", "vflags", "pilot", "min", "configured_max"}:
            self.controller.look()

    async def _evse_ready(self) -> None:
        self._tell()

    def _limit_as_controller(self, limit: Limit | None) -> None:
        self._as_controller = limit
        self._apply()

    def _limit_as_member(self, limit: Limit | None) -> None:
        self._as_member = limit
        self._apply()

    def _apply(self) -> None:
        """Let our charger have what the role that we are in says; without a role as much as it wants."""
        self.limit = self._as_controller if self._as_member is None else self._as_member
        cap = None
        if self.limit is not None:
            cap = Cap(self.limit.amps, self.limit.pauses(self.gateway.evse.min))
        if self.gateway.caps.get("loadsharing") != cap:
            self.gateway.caps.set("loadsharing", cap)
        self._tell()

    def _tell(self) -> None:
        """What a controller goes by, as soon as it is another: whether our EVSE is ready, say."""
        fields = documents.limit_fields(self)
        if fields != self._told:
            self._told = fields
            self.gateway.hub.publish(fields)

    def _peers_changed(self, came: Found | None = None) -> None:
        self.gateway.versions.bump("loadsharing_peers_version")
        if came is not None:
            self.controller.came(came)
        self.controller.look()

    def _status_changed(self) -> None:
        self.gateway.versions.bump("loadsharing_status_version")

    def _left(self, controller_host: str) -> None:
        try:
            peer = self.book.find(split_host(controller_host))
        except ValueError:
            return
        if peer is not None:
            self.book.remove(peer)

    def _measures(self) -> Iterable[Measure]:
        group = self.controller.group
        if group is not None:
            actual = documents.group_current(self) / 1000
            for name, text, value in (
                ("labyard_group_budget_amps", "What the group may draw", group.settings.rules.budget),
                ("labyard_group_committed_amps", "What members may still act on", group.commitments.total()),
                ("labyard_group_actual_amps", "What members report to draw", actual),
            ):
                yield Measure(name, "gauge", text, {"": value})
            online = {host: float(group.online(host)) for host in group.members}
            yield Measure("labyard_peer_online", "gauge", "Whether a member is online", online, "peer")
        failsafe = self.member.failsafe_active() or (group is not None and group.failsafe_active)
        yield Measure("labyard_failsafe_active", "gauge", "Whether a failsafe is engaged", {"": float(failsafe)})
        ignored = {"": float(self.member.ignored)}
        yield Measure("labyard_allocations_ignored", "counter", "Allocations not from the controller", ignored)
        injected = dict(self.faults.injected)
        yield Measure("labyard_link_faults", "counter", "Faults injected into links to peers", injected, "kind")


def install(gateway: Gateway) -> None:
    """Ends the process when LABYARD_MDNS is none of its modes."""
    try:
        Sharing(gateway)
    except ValueError as problem:
        sys.exit(f"labyard-evse-gateway: {problem}")
