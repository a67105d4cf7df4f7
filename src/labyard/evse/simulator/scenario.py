"""What is simulated, as JSON. Times are seconds from the start, currents A."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from labyard.evse.sharing.allocator import Rules
from labyard.evse.sharing.settings import Settings

Seconds = Annotated[float, Field(ge=0)]
Amps = Annotated[float, Field(ge=0, le=1000)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class GroupOptions(Strict):
    """The gateway's options of the same names, without `loadsharing_`."""

    safety_factor: Annotated[float, Field(ge=0, le=1)] = 1.0
    heartbeat_timeout: Annotated[float, Field(ge=5, le=600)] = 30.0
    failsafe_mode: Literal["safe_current", "disable"] = "safe_current"
    failsafe_safe_current: Annotated[float, Field(ge=0, le=80)] = 6.0
    failsafe_peer_assumed_current: Annotated[float, Field(ge=0, le=80)] = 6.0
    rotation_interval: Seconds = 1800.0
    two_phase: bool = True
    connected_min_in_budget: bool = True
    subset_topup: bool = False

    def settings(self, max_current: float) -> Settings:
        rules = Rules(
            max_current,
            self.safety_factor,
            self.failsafe_mode,
            self.failsafe_peer_assumed_current,
            self.connected_min_in_budget,
            self.subset_topup,
        )
        return Settings(
            rules, self.failsafe_safe_current, self.heartbeat_timeout, self.rotation_interval, self.two_phase
        )


class Supply(Strict):
    """From `at` on the group may draw this much."""

    at: Seconds
    amps: Amps


class Vehicle(Strict):
    battery_kwh: Annotated[float, Field(gt=0)] = 75.0
    max_kw: Annotated[float, Field(gt=0)] = 7.2
    soc: Annotated[float, Field(ge=0, le=100)] = 50.0
    direct_amps: Amps | None = None  # draws this whatever it is offered


class Event(Strict):
    """`connect` also asks for a charge; `plug` does not. `soc`, `max_amps` and `direct_amps` take `value`."""

    at: Seconds
    do: Literal["connect", "plug", "disconnect", "request", "stop", "soc", "max_amps", "direct_amps"]
    value: Annotated[float, Field(ge=0, le=1000)] | None = None

    @model_validator(mode="after")
    def _needs_value(self) -> Event:
        if (self.do in ("soc", "max_amps", "direct_amps")) != (self.value is not None):
            raise ValueError(f"value: {self.do} takes {'one' if self.value is None else 'none'}")
        return self


class Peer(Strict):
    """A charger of the group. The first peer is the controller's own. `joins_at` 0: it is a member from the start."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    min: Annotated[float, Field(gt=0, le=80)] = 6.0
    max: Annotated[float, Field(gt=0, le=80)] = 32.0
    priority: int = 0
    volts: Annotated[float, Field(gt=0)] = 240.0
    joins_at: Seconds = 0.0
    # What the EVSE falls back to by itself 5 s after its gateway went silent ($SY); None: it goes on as it was.
    heartbeat_current: Amps | None = 6.0
    ev: Vehicle = Vehicle()
    events: list[Event] = []


class Fault(Strict):
    """From `at` on, for `lasts` seconds.

    partition: nothing gets through. disconnect: the link breaks and is made again. delay: messages take `seconds`
    longer. restart: the gateway of that member, or of the controller (the first peer), is down. lie: it reports
    `measured` and `pilot`.
    """

    at: Seconds
    kind: Literal["partition", "disconnect", "delay", "restart", "lie"]
    peer: str
    lasts: Annotated[float, Field(gt=0)] = 5.0
    seconds: Seconds = 1.0
    measured: Amps | None = None
    pilot: Amps | None = None


class Scenario(Strict):
    duration_s: Annotated[float, Field(gt=0, le=31 * 86400)] = 86400.0
    seed: int = 0
    link_delay_s: tuple[Seconds, Seconds] = (0.002, 0.05)
    group: GroupOptions = GroupOptions()
    supply: Annotated[list[Supply], Field(min_length=1)]
    peers: Annotated[list[Peer], Field(min_length=1, max_length=64)]
    faults: list[Fault] = []

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        ids = [peer.id for peer in self.peers]
        if len(set(ids)) < len(ids):
            raise ValueError("peers: two have the same id")
        for fault in self.faults:
            if fault.peer not in ids:
                raise ValueError(f"faults: there is no peer {fault.peer!r}")
            if fault.peer == ids[0] and fault.kind != "restart":
                raise ValueError(f"faults: {ids[0]!r} is the controller's own charger; it has no link, only a restart")
        if self.peers[0].joins_at > 0:
            raise ValueError("peers: the first is the controller's own and joins at 0")
        if self.link_delay_s[0] > self.link_delay_s[1]:
            raise ValueError("link_delay_s: the first must not be above the second")
        return self


def load(path: Path) -> Scenario:
    """ValueError: it cannot be read, or is no scenario; the text names the key."""
    try:
        return Scenario.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as problem:
        lines = [f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in problem.errors()]
        raise ValueError("\n".join(f"{path}: {line.removeprefix(': ')}" for line in lines)) from None
    except (OSError, ValueError) as problem:
        raise ValueError(f"{path}: {problem}") from None
