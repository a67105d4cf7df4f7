"""This gateway as a member: whom it obeys, and what it then lets its charger draw: contract 6.3."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import structlog

from labyard.evse.gateway.options import BadOption
from labyard.evse.sharing.directory import Directory
from labyard.evse.sharing.limit import Failsafe, Limit, MemberLimit
from labyard.evse.sharing.network import is_local, parse, resolve, split_host

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway
    from labyard.evse.gateway.options import Options

log = structlog.get_logger(__name__)

READ_ONLY = "Load sharing configuration is read-only on members"
TICK = 0.5  # s of the charger's clock
JOINING_SECONDS = 1.0
RESOLVED_SECONDS = 30.0  # real: so long an address of the controller is believed
KEYS = frozenset(
    f"loadsharing_{key}"
    for key in (
        "enabled",
        "role",
        "controller_host",
        "heartbeat_timeout",
        "failsafe_mode",
        "failsafe_safe_current",
    )
)


class Member:
    """`apply` gets the limit of our charger. `own_addresses` are this machine's: what comes from it is as loopback."""

    def __init__(
        self,
        gateway: Gateway,
        directory: Callable[[], Directory],
        own_addresses: Callable[[], Iterable[str]],
        apply: Callable[[Limit | None], None],
        on_leave: Callable[[str], None],
        discover: Callable[[], None],
    ) -> None:
        """`on_leave` gets the host of the controller whose group this gateway has left. `discover` looks again who is
        on the network."""
        self.limit: MemberLimit | None = None
        self.ignored = 0  # allocations from elsewhere
        self._gateway = gateway
        self._options: Options = gateway.options
        self._directory = directory
        self._own_addresses = own_addresses
        self._apply = apply
        self._on_leave = on_leave
        self._discover = discover
        self._since = 0.0  # when it became a member, on the charger's clock
        self._resolved: tuple[str, float, frozenset[str]] = ("", 0.0, frozenset())
        self._options.guard(self._guard)

    @property
    def active(self) -> bool:
        return bool(self._options["loadsharing_enabled"]) and self._options["loadsharing_role"] == "member"

    def configure(self) -> None:
        """Options changed, or are there for the first time: a member begins in its failsafe."""
        if not self.active:
            if self.limit is not None:
                left, self.limit = self.limit.failsafe.controller_host, None
                self._apply(None)
                if self._options["loadsharing_role"] == "":
                    self._on_leave(left)
            return
        failsafe = Failsafe(
            self._options["loadsharing_controller_host"],
            self._options["loadsharing_heartbeat_timeout"],
            self._options["loadsharing_failsafe_mode"],
            self._options["loadsharing_failsafe_safe_current"],
        )
        if self.limit is None:
            self.limit = MemberLimit(failsafe)
            self._since = self._gateway.clock.now()
        else:
            self.limit.configure(failsafe)
        self._follow()

    async def run(self) -> None:
        """Fall into the failsafe when it is time. Until cancelled."""
        await self._gateway.clock.every(TICK, self._tick)

    async def allocate(self, message: Any, client: str) -> None:
        """`loadsharing` of a message that came over /ws from that address."""
        if self.limit is None or not isinstance(message, dict):
            return
        current, reason, seq = message.get("target_current"), message.get("reason"), message.get("seq")
        if not isinstance(current, (int, float)) or isinstance(current, bool) or not 0 <= current <= 1000:
            self.ignored += 1
            return
        if not await self._is_controller(client):
            self.ignored += 1
            log.warning("allocation from an address that is not the controller's", client=client)
            self._discover()  # perhaps it is, and was not found yet
            return
        number = seq if isinstance(seq, int) and not isinstance(seq, bool) else None
        if self.limit is not None and self.limit.allocate(
            float(current), str(reason), self._gateway.clock.now(), number
        ):
            self._follow()

    @property
    def joining(self) -> bool:
        """Told to be a member a moment ago, and not yet what it may draw."""
        return self.limit is not None and self._gateway.clock.now() - self._since < JOINING_SECONDS

    def failsafe_active(self) -> bool:
        return self.limit is not None and self.limit.failsafe_active(self._gateway.clock.now())

    # Inside

    async def _tick(self, _seconds: float) -> None:
        self._follow()

    def _follow(self) -> None:
        if self.limit is not None:
            self._apply(self.limit.limit(self._gateway.clock.now()))

    def _guard(self, values: dict[str, Any], client: str) -> None:
        """Before options are set: who may set what of load sharing, and what follows from it."""
        if not any(key.startswith("loadsharing_") for key in values):
            return
        role = values.get("loadsharing_role")
        if client and self.active:
            if role not in ("member", ""):
                raise BadOption(READ_ONLY, 403)
            leaving_a_lost_one = role == "" and self.failsafe_active()
            if not self._may_configure(client, anyone_near=leaving_a_lost_one):
                raise BadOption(f"{READ_ONLY}; {client} is not its controller", 403)
        elif client and role == "member" and not self._may_configure(client, anyone_near=True):
            raise BadOption("loadsharing_role: a controller must be on the same network", 403)
        if role == "member" and values.get("loadsharing_controller_host", self._options["loadsharing_controller_host"]):
            values["loadsharing_enabled"] = True
        elif role == "" and self.active:
            values |= {"loadsharing_enabled": False, "loadsharing_controller_host": ""}
        if any(key.startswith("loadsharing_") and self._options[key] != value for key, value in values.items()):
            values["loadsharing_config_version"] = self._options["loadsharing_config_version"] + 1
            values["loadsharing_config_updated_at"] = int(self._gateway.wall.now().timestamp())

    def _may_configure(self, client: str, anyone_near: bool) -> bool:
        """Without waiting for a resolver: what was found or resolved before counts."""
        if self._is_here(client) or client in self._controller_addresses():
            return True
        address = parse(client)
        return anyone_near and address is not None and is_local(address)

    def _is_here(self, client: str) -> bool:
        address = parse(client)
        return address is not None and (address.is_loopback or client in self._own_addresses())

    def _controller_addresses(self) -> frozenset[str]:
        """As far as they are known."""
        name = self._controller_name()
        resolved, _, addresses = self._resolved
        known = addresses if resolved == name else frozenset()
        for found in self._directory():
            if name in found.names:
                known |= {found.address, *found.addresses}
        return known

    def _controller_name(self) -> str:
        """Without its port: from which it calls is not said. "": it can be no host."""
        try:
            return split_host(self._options["loadsharing_controller_host"]).name
        except ValueError:
            return ""

    async def _is_controller(self, client: str) -> bool:
        if self._is_here(client) or client in self._controller_addresses():
            return True
        name = self._controller_name()
        resolved, at, _ = self._resolved
        if name and (resolved != name or time.monotonic() - at > RESOLVED_SECONDS):
            self._resolved = name, time.monotonic(), frozenset(map(str, await resolve(name)))
        return client in self._controller_addresses()
