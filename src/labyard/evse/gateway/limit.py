"""An end to a session by time, energy, charge or range: contract 5.3. Pure but for the claim it places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from labyard.evse.gateway.claims import Claims, Client, Priority, Properties

Kind = Literal["none", "time", "energy", "soc", "range"]


@dataclass(frozen=True)
class Limit:
    """`value` in minutes, Wh, %, or the vehicle's unit of range."""

    type: Kind
    value: int
    auto_release: bool = True

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def parse(content: Any) -> Limit:
    """ValueError: `content` is no limit."""
    if not isinstance(content, dict):
        raise ValueError("a limit is an object")
    kind: Any = content.get("type")
    value = content.get("value")
    release = content.get("auto_release", content.get("release", True))
    if kind not in get_args(Kind) or kind == "none":
        raise ValueError("type must be time, energy, soc or range")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value < 2**31:
        raise ValueError("value must be 1 or more")
    if not isinstance(release, bool):
        raise ValueError("auto_release must be true or false")
    return Limit(kind, int(value), release)


class Limits:
    def __init__(self, claims: Claims) -> None:
        self.limit: Limit | None = None
        self._claims = claims

    def set(self, limit: Limit | None) -> None:
        self.limit = limit
        self._claims.release(Client.LIMIT)

    def look(self, vehicle: bool, measured: Mapping[str, float]) -> bool:
        """Compare with what is measured (in the limit's unit, under the name of its type; what is not known is left
        out). True: just reached, and claim 65542 is placed, until the car goes or the limit changes."""
        limit = self.limit
        if limit is None or not vehicle or measured.get(limit.type, 0.0) < limit.value:
            self._claims.release(Client.LIMIT)
            return False
        if self._claims.get(Client.LIMIT) is not None:
            return False
        return self._claims.set(Client.LIMIT, Priority.LIMIT, Properties("disabled"))
