"""Reading emulators and, where one is named, the controller, all at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from labyard.evse.codes import State
from labyard.evse.sharing.account import OVERDRAW

TIMEOUT = 1.0  # s
# Or one that makes no sense.
_NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, OverflowError)
# A car may draw in these: what is offered there is a live offer.
_OFFERING = (State.CONNECTED, State.CHARGING)


@dataclass(frozen=True)
class Charger:
    """`drawn` and `offered` in A."""

    drawn: float
    offered: float
    state: int

    @property
    def overdraws(self) -> bool:
        return self.drawn > self.offered + OVERDRAW

    def as_json(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "offered": self.offered, "state": self.state}


@dataclass(frozen=True)
class Group:
    """What the controller says: the budget in A, how many are joined, and what is committed in A."""

    budget: float
    members: int
    committed: float


class Reader:
    """`emulators` are URLs, `controller` that of its gateway."""

    def __init__(self, emulators: list[str], controller: str | None, auth: tuple[str, str] | None = None) -> None:
        self._emulators = emulators
        self._controller = controller
        # One connection each, kept: a pass must not take long.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, limits=limits, verify=False)
        self._auth = auth

    async def chargers(self) -> dict[str, Charger | None]:
        """None: it did not answer."""
        found = await asyncio.gather(*(self._charger(url) for url in self._emulators))
        return dict(zip(self._emulators, found, strict=True))

    async def group(self) -> Group | None:
        """None: no controller was named, or it does not answer."""
        if self._controller is None:
            return None
        try:
            answer = await self._client.get(f"{self._controller}/loadsharing/status", auth=self._auth)
            status = answer.json()
            members = status["online_count"] + status["offline_count"]
            return Group(float(status["budget"]), int(members), float(status["committed_total"]))
        except _NO_ANSWER:
            return None

    async def close(self) -> None:
        await self._client.aclose()

    async def _charger(self, url: str) -> Charger | None:
        try:
            status = (await self._client.get(f"{url}/api/evse/status")).json()
            state = int(status["state"])
            offered = float(status["current_capacity"]) if state in _OFFERING else 0.0
            return Charger(float(status["actual_current"]), offered, state)
        except _NO_ANSWER:
            return None
