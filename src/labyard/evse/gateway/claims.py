"""Who wants what of the charger, and who wins: contract 5.3. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Literal

State = Literal["active", "disabled"]
MAX_CLAIMS = 10


class Client(IntEnum):
    """Vendor << 16 | number."""

    MANUAL = 65537
    DIVERT = 65538
    BOOST = 65539
    SCHEDULE = 65540
    LIMIT = 65542
    ERROR = 65543
    OHM = 65544
    OCPP = 65545
    RFID = 65546
    MQTT = 65547
    SHAPER = 65548
    TEMPERATURE = 65549
    LOAD_SHARING = 65550


class Priority(IntEnum):
    DEFAULT = 10
    DIVERT = 50
    TIMER = 100
    BOOST = 200
    API = 500
    TIMER_FEATURE = 900
    MANUAL = 1000
    RFID = 1030
    OCPP = 1050
    LIMIT = 1100
    SAFETY = 5000
    ERROR = 10000


@dataclass(frozen=True)
class Properties:
    """What a claim asks for; None asks for nothing. Currents in whole amperes."""

    state: State | None = None
    charge_current: int | None = None
    max_current: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True)
class Claim:
    client: int
    priority: int
    properties: Properties
    auto_release: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "client": self.client,
            "priority": self.priority,
            **self.properties.as_json(),
            "auto_release": self.auto_release,
        }


@dataclass(frozen=True)
class Target:
    """The winning value of each property, and the client it came from (None: nobody asks)."""

    properties: Properties
    winners: dict[str, int]


class Claims:
    """Ten slots. `on_change` functions are called after each effective change."""

    def __init__(self) -> None:
        self._slots: list[Claim | None] = [None] * MAX_CLAIMS
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def set(self, client: int, priority: int, properties: Properties, auto_release: bool = False) -> bool:
        """Make or replace the claim of that client. False: all slots are taken by others, and none of them is lower."""
        claim = Claim(client, priority, properties, auto_release)
        slot = self._slot(client)
        if slot is None:
            slot = self._room(priority)
            if slot is None:
                return False
        if self._slots[slot] != claim:
            self._slots[slot] = claim
            self._changed()
        return True

    def release(self, client: int) -> bool:
        """False: it had none."""
        slot = self._slot(client)
        if slot is None:
            return False
        self._slots[slot] = None
        self._changed()
        return True

    def release_automatic(self) -> None:
        """The car has gone: drop the claims that were to last only as long as it stays."""
        kept = [claim if claim is None or not claim.auto_release else None for claim in self._slots]
        if kept != self._slots:
            self._slots = kept
            self._changed()

    def get(self, client: int) -> Claim | None:
        slot = self._slot(client)
        return None if slot is None else self._slots[slot]

    def all(self) -> list[Claim]:
        return [claim for claim in self._slots if claim is not None]

    def target(self, without: frozenset[int] = frozenset()) -> Target:
        """Per property the highest priority wins, of equals the first slot. `without`: as if these had no claim."""
        properties = Properties()
        winners: dict[str, int] = {}
        for name in ("state", "charge_current", "max_current"):
            best: Claim | None = None
            for claim in self.all():
                if claim.client in without or getattr(claim.properties, name) is None:
                    continue
                if best is None or claim.priority > best.priority:
                    best = claim
            if best is not None:
                properties = replace(properties, **{name: getattr(best.properties, name)})
                winners[name] = best.client
        return Target(properties, winners)

    def _slot(self, client: int) -> int | None:
        for number, claim in enumerate(self._slots):
            if claim is not None and claim.client == client:
                return number
        return None

    def _room(self, priority: int) -> int | None:
        """A free slot, else that of the lowest claim if it is lower: a limit or a cap always finds room."""
        for number, claim in enumerate(self._slots):
            if claim is None:
                return number
        lowest = min(self.all(), key=lambda claim: claim.priority)
        return self._slot(lowest.client) if lowest.priority < priority else None

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


@dataclass(frozen=True)
class Cap:
    """A current that safety allows, A; `off` forbids charging altogether."""

    current: int
    off: bool = False


class SafetyCaps:
    """Claim 65548 (priority 5000) is shared by the shaper and load sharing: the lower of their caps counts."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._caps: dict[str, Cap] = {}

    def get(self, source: str) -> Cap | None:
        return self._caps.get(source)

    def set(self, source: str, cap: Cap | None) -> None:
        """`source` is "shaper" or "loadsharing"; None takes its cap away. A cap of 0 A keeps the claim."""
        if cap is None:
            self._caps.pop(source, None)
        else:
            self._caps[source] = cap
        if not self._caps:
            self._claims.release(Client.SHAPER)
            return
        off = any(cap.off for cap in self._caps.values())
        current = min(cap.current for cap in self._caps.values())
        self._claims.set(Client.SHAPER, Priority.SAFETY, Properties("disabled" if off else None, max_current=current))
