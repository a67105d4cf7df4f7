"""What the pairs say of themselves, all asked at once, and the groups that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from labyard.client.http import ClientError
from labyard.evse.client import Document, Emulator, Gateway
from labyard.evse.codes import is_fault, state_name
from labyard.evse.monitor.sample import Charger, charger
from labyard.evse.pairs import Pair


@dataclass(frozen=True)
class Reading:
    """One pair. What did not answer is empty, and in `silent` with the reason."""

    pair: Pair
    evse: Document = field(default_factory=dict)  # the emulator's two halves
    car: Document = field(default_factory=dict)
    status: Document = field(default_factory=dict)  # the gateway's
    config: Document = field(default_factory=dict)
    group: Document = field(default_factory=dict)  # of a controller only
    silent: tuple[str, ...] = ()

    @property
    def device_id(self) -> str:
        """Lower case; empty when it is not known."""
        return str(self.config.get("wifi_serial", "")).lower()

    @property
    def controls(self) -> bool:
        return bool(self.config.get("loadsharing_enabled")) and self.config.get("loadsharing_role") == "controller"

    @cached_property
    def charger(self) -> Charger | None:
        """By the emulator, where current flows; by the gateway when the emulator is silent."""
        if self.evse:
            evse = self.evse
            return charger(int(evse["state"]), float(evse["current_capacity"]), float(evse["actual_current"]))
        if self.status:
            status = self.status
            return charger(int(status["state"]), float(status["pilot"]), float(status["amp"]) / 1000)
        return None

    @property
    def vehicle(self) -> bool | None:
        if self.car:
            return bool(self.car["connected"])
        return bool(self.status["vehicle"]) if self.status else None

    @property
    def energy_kwh(self) -> float | None:
        """Of this session."""
        watt_hours = self.evse.get("session_energy_wh", self.status.get("session_energy"))
        return None if watt_hours is None else float(watt_hours) / 1000

    @property
    def role(self) -> str:
        """In load sharing: off, joining, controller, member, member_limited, failsafe; empty when not known."""
        if not self.config:
            return ""
        firmware = self.config.get("loadsharing_role") if self.config.get("loadsharing_enabled") else "off"
        return str(self.status.get("loadsharing_state", firmware))

    @property
    def trouble(self) -> str:
        """Why it is not well; empty when it is."""
        if self.silent:
            return "; ".join(self.silent)
        if not self.status.get("evse_connected"):
            return "the gateway does not reach the emulator: does the bridge run?"
        now = self.charger
        if now is not None and is_fault(now.state):
            return f"fault: {state_name(now.state)}"
        if self.role == "failsafe":
            return "controller lost: at the safe current"
        if now is not None and now.overdraws:
            return "the car draws more than it is offered"
        return ""


@dataclass(frozen=True)
class Group:
    """A controller with the pairs that it shares its budget (A) with, its own first. `strangers` are joined hosts that
    are none of the pairs."""

    controller: Reading
    members: list[Reading]
    strangers: list[str]
    budget: float

    @property
    def name(self) -> str:
        return str(self.controller.config.get("loadsharing_group_id", ""))

    def reason(self, reading: Reading) -> str:
        """Why the pair is allocated what it is; empty when it is not in the group."""
        document = self.controller.group
        ids = {peer["host"]: peer["id"] for peer in document["peers"]}
        for allocation in document["allocations"]:
            if reading.device_id and ids.get(allocation["id"]) == reading.device_id:
                return str(allocation["reason"])
        return ""


def survey(pairs: Sequence[Pair]) -> list[Reading]:
    """In the order of the pairs."""
    with ThreadPoolExecutor(2 * len(pairs)) as pool:
        halves = [(pool.submit(_emulator, pair), pool.submit(_gateway, pair)) for pair in pairs]
        found = [(emulator.result(), gateway.result()) for emulator, gateway in halves]
    return [_reading(pair, *answers) for pair, answers in zip(pairs, found, strict=True)]


def groups(readings: Iterable[Reading]) -> list[Group]:
    known = {reading.device_id: reading for reading in readings if reading.device_id}
    return [_group(reading, known) for reading in known.values() if reading.controls and reading.group]


def group_of(readings: Sequence[Reading], controller: str = "") -> Group | None:
    """The group of the pair named `controller`, or the only one; None: there is none.

    ClientError when there are several, or the named one is none.
    """
    found = groups(readings)
    names = ", ".join(group.controller.pair.name for group in found)
    if controller:
        named = next((group for group in found if group.controller.pair.name == controller), None)
        if named is None:
            raise ClientError(f"{controller} is no group's controller; controllers are: {names or 'none'}")
        return named
    if len(found) > 1:
        raise ClientError(f"there are {len(found)} groups; say which with --controller, one of: {names}")
    return found[0] if found else None


def _group(controller: Reading, known: dict[str, Reading]) -> Group:
    document, config = controller.group, controller.config
    joined = {peer["id"] for peer in document["peers"] if peer["joined"]} - {controller.device_id}
    members = [reading for id, reading in known.items() if id in joined]
    strangers = [str(peer["host"]) for peer in document["peers"] if peer["joined"] and peer["id"] not in known]
    # The firmware's own document has no budget.
    budget = document.get("budget") or config["loadsharing_group_max_current"] * config["loadsharing_safety_factor"]
    return Group(controller, [controller, *members], strangers, float(budget))


Answers = tuple[dict[str, Any], str]


def _emulator(pair: Pair) -> Answers:
    """Fields of Reading, and why there are none."""
    if pair.trouble:
        return {}, pair.trouble
    try:
        with Emulator(pair.emulator) as emulator:
            status = emulator.status()
        found = {"evse": status["evse"], "car": status["ev"]}
        _ = Reading(pair, **found).charger
        return found, ""
    except (ClientError, LookupError, TypeError) as error:
        return {}, _why(error, "emulator", pair.emulator)


def _gateway(pair: Pair) -> Answers:
    if pair.trouble:
        return {}, ""
    try:
        with Gateway(pair.gateway, pair.credentials) as gateway:
            found: dict[str, Any] = {"status": gateway.status(), "config": gateway.config()}
            reading = Reading(pair, **found)
            _ = reading.charger
            if reading.controls:
                found["group"] = gateway.group()
            return found, ""
    except (ClientError, LookupError, TypeError) as error:
        return {}, _why(error, "gateway", pair.gateway)


def _why(error: Exception, part: str, url: str) -> str:
    if not isinstance(error, ClientError):
        return f"what answers at {url} is no {part}"
    return f"{part}: {error}" if error.status else f"the {part} does not answer"


def _reading(pair: Pair, emulator: Answers, gateway: Answers) -> Reading:
    silent = tuple(why for _, why in (emulator, gateway) if why)
    return Reading(pair, **emulator[0], **gateway[0], silent=silent)
