"""What goes over the links of a group: contract 5.1, 6.2. Here mA become A, and what makes no sense is left out."""

from __future__ import annotations

from typing import Any

from labyard.evse.sharing.demand import Report
from labyard.evse.sharing.group import Offer

# The fields of a peer's /status that are looked at; of all others nothing is kept.
STATUS_FIELDS = (
    "amp",
    "voltage",
    "pilot",
    "vehicle",
    "state",
    "max_current",
    "config_version",
    "loadsharing_min_current",
    "loadsharing_max_current",
    "loadsharing_priority",
    "loadsharing_ready",
)
# What changes an allocation is not among what the web socket tells; only that something has changed.
REFETCH = ("config_version",)
MAX_AMPS = 100.0
MINIMUM, MAXIMUM = 6.0, 32.0


def merge(known: dict[str, Any], message: dict[str, Any]) -> bool:
    """Take what is new of a peer's status into `known`. False: nothing in it concerns us."""
    new = {key: message[key] for key in STATUS_FIELDS if _is_number(message.get(key))}
    known.update(new)
    return bool(new.keys() - set(REFETCH))


def report(known: dict[str, Any]) -> Report | None:
    """None: it has not said yet how it is."""
    if "state" not in known or "pilot" not in known:
        return None
    minimum = _amps(known.get("loadsharing_min_current"), MINIMUM)
    maximum = _amps(known.get("loadsharing_max_current", known.get("max_current")), MAXIMUM)
    ready = known.get("loadsharing_ready")
    return Report(
        state=int(known["state"]),
        vehicle=bool(known.get("vehicle", 0)),
        pilot=_amps(known["pilot"], 0.0),
        measured=min(MAX_AMPS, max(0.0, float(known.get("amp", 0)) / 1000)),
        minimum=minimum or MINIMUM,
        maximum=maximum or MAXIMUM,
        priority=int(known.get("loadsharing_priority", 0)),
        ready=None if ready is None else bool(ready),
    )


def public_status(known: dict[str, Any]) -> dict[str, Any]:
    """As it is shown of a peer in our own documents; amp in mA."""
    return {
        "amp": known.get("amp", 0),
        "voltage": known.get("voltage", 0),
        "pilot": known.get("pilot", 0),
        "vehicle": int(bool(known.get("vehicle", 0))),
        "state": int(known.get("state", 0)),
        "min_current": known.get("loadsharing_min_current", MINIMUM),
        "max_current": known.get("loadsharing_max_current", known.get("max_current", MAXIMUM)),
        "priority": int(known.get("loadsharing_priority", 0)),
    }


def allocation(offer: Offer, expires_s: float) -> dict[str, Any]:
    return {
        "loadsharing": {
            "target_current": offer.target_current,
            "reason": offer.reason,
            "seq": offer.seq,
            "expires_s": expires_s,
        }
    }


def _amps(value: Any, default: float) -> float:
    return min(MAX_AMPS, max(0.0, float(value))) if _is_number(value) else default


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 2**53  # NaN is not below anything
