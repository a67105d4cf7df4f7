"""What a person asks of the charger, over all automatics: contract 5.3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from labyard.evse.gateway.claims import Claim, Claims, Client, Priority, Properties


def parse(content: dict[str, Any], now: Properties) -> tuple[Properties, bool]:
    """`now` with what `content` sets or, with "clear", takes away; and auto_release. ValueError names the key."""
    changes: dict[str, Any] = {}
    if (state := content.get("state")) is not None:
        if state not in ("active", "disabled", "clear"):
            raise ValueError("state must be active, disabled or clear")
        changes["state"] = None if state == "clear" else state
    for key in ("charge_current", "max_current"):
        if (value := content.get(key)) is None:
            continue
        if value == "clear":
            changes[key] = None
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1000:
            raise ValueError(f"{key} must be amperes, 0 to 1000, or clear")
        else:
            changes[key] = int(value)
    release = content.get("auto_release", True)
    if not isinstance(release, bool):
        raise ValueError("auto_release must be true or false")
    return replace(now, **changes), release


class Override:
    """Claim 65537. `on_change` is called after each change of it, also when it went with the car."""

    def __init__(self, claims: Claims, active_now: Callable[[], bool], on_change: Callable[[], None]) -> None:
        self._claims = claims
        self._active_now = active_now
        self._on_change = on_change
        self._last: Claim | None = None
        claims.on_change(self._look)

    @property
    def claim(self) -> Claim | None:
        return self._claims.get(Client.MANUAL)

    def as_json(self) -> dict[str, Any]:
        claim = self.claim
        return {} if claim is None else {**claim.properties.as_json(), "auto_release": claim.auto_release}

    def set(self, content: dict[str, Any]) -> bool:
        """False: all claims are taken. ValueError: `content` is none, the text names the key."""
        claim = self.claim
        properties, release = parse(content, claim.properties if claim else Properties())
        return self._claims.set(Client.MANUAL, Priority.MANUAL, properties, release)

    def toggle(self) -> bool:
        """Take it away, or ask for the opposite of what is."""
        if self.release():
            return True
        opposite = Properties("disabled" if self._active_now() else "active")
        return self._claims.set(Client.MANUAL, Priority.MANUAL, opposite, auto_release=True)

    def release(self) -> bool:
        return self._claims.release(Client.MANUAL)

    def _look(self) -> None:
        if self.claim != self._last:
            self._last = self.claim
            self._on_change()
