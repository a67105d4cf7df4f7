"""Reading emulators and, where they are named, gateways and the controller, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from labyard.evse.codes import OFFERING
from labyard.evse.pairs import Pair
from labyard.evse.sharing.account import OVERDRAW

TIMEOUT = 1.0  # s
# Or one that makes no sense.
_NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, OverflowError)


@dataclass(frozen=True)
class Charger:
    """`drawn` and `offered` in A. `failsafe`: it is at its safe current, for its controller is lost."""

    drawn: float
    offered: float
    state: int
    failsafe: bool = False

    @property
    def overdraws(self) -> bool:
        return self.drawn > self.offered + OVERDRAW

    def as_json(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "offered": self.offered, "state": self.state, "failsafe": self.failsafe}


def charger(state: int, pilot: float, drawn: float) -> Charger:
    """`pilot` and `drawn` in A. A pilot is an offer only where a car may follow it."""
    return Charger(drawn, pilot if state in OFFERING else 0.0, state)


@dataclass(frozen=True)
class Group:
    """What the controller says: the budget in A, how many are joined, what is committed in A, and whether it counts
    with members that it has lost."""

    budget: float
    members: int
    committed: float
    failsafe: bool = False


class Reader:
    """A pair without a gateway is its emulator only."""

    def __init__(self, pairs: Sequence[Pair], controller: Pair | None) -> None:
        self._pairs = pairs
        self._controller = controller
        # One connection each, kept: a pass must not take long.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, limits=limits, verify=False)

    async def chargers(self) -> dict[str, Charger | None]:
        """By the pairs' names. None: the emulator did not answer."""
        found = await asyncio.gather(*(self._charger(pair) for pair in self._pairs))
        return {pair.name: one for pair, one in zip(self._pairs, found, strict=True)}

    async def group(self) -> Group | None:
        """None: no controller was named, or it does not answer."""
        if self._controller is None:
            return None
        try:
            status = await self._ask_gateway(self._controller, "/loadsharing/status")
            members = status["online_count"] + status["offline_count"]
            failsafe = bool(status["failsafe_active"])
            return Group(float(status["budget"]), int(members), float(status["committed_total"]), failsafe)
        except _NO_ANSWER:
            return None

    async def close(self) -> None:
        await self._client.aclose()

    async def _charger(self, pair: Pair) -> Charger | None:
        status, failsafe = await asyncio.gather(self._evse(pair), self._failsafe(pair))
        return None if status is None else replace(status, failsafe=failsafe)

    async def _evse(self, pair: Pair) -> Charger | None:
        try:
            status = (await self._client.get(f"{pair.emulator}/api/evse/status")).json()
            return charger(int(status["state"]), float(status["current_capacity"]), float(status["actual_current"]))
        except _NO_ANSWER:
            return None

    async def _failsafe(self, pair: Pair) -> bool:
        """False, too, when the gateway does not answer: what it offers then is its charger's business."""
        if not pair.gateway:
            return False
        try:
            status = await self._ask_gateway(pair, "/status")
            return bool(status["loadsharing_state"] == "failsafe")
        except _NO_ANSWER:
            return False

    async def _ask_gateway(self, pair: Pair, path: str) -> Any:
        return (await self._client.get(f"{pair.gateway}{path}", auth=pair.credentials)).json()
