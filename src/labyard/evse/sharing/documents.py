"""What the API shows of a group: peers, status, the fields of /status: contract 5.1, 5.5. Only reads."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from labyard.evse.gateway import identity
from labyard.evse.sharing import wire
from labyard.evse.sharing.network import parse, split_host

if TYPE_CHECKING:
    from labyard.evse.sharing.directory import Found
    from labyard.evse.sharing.part import Sharing
    from labyard.evse.sharing.peers import Peer


def peers(sharing: Sharing, with_self: bool) -> list[dict[str, Any]]:
    """Who was discovered first, then who was joined and is not seen; one entry for a device."""
    entries = [_own_entry(sharing)] if with_self else []
    joined: dict[str, Peer] = {}  # by the instance that mDNS knows it by
    unseen: list[Peer] = []
    for peer in sharing.book:
        found = sharing.book.found(peer)
        if found is None:
            unseen.append(peer)
        else:
            joined.setdefault(found.instance, peer)
    entries += [_found_entry(sharing, found, joined.get(found.instance)) for found in sharing.directory]
    return entries + [_unseen_entry(sharing, peer) for peer in unseen]


def group_status(sharing: Sharing) -> dict[str, Any]:
    """`/loadsharing/status`."""
    options, controller = sharing.gateway.options, sharing.controller
    group = controller.group
    entries = [_with_status(sharing, entry) for entry in peers(sharing, with_self=True)]
    joined = [entry for entry in entries if entry["joined"]]
    online = sum(entry["online"] for entry in joined)
    allocations = [] if group is None else group.allocations
    ids = {entry["host"]: entry["id"] for entry in entries}
    computed = controller.computed_at
    return {
        "enabled": options["loadsharing_enabled"],
        "group_id": options["loadsharing_group_id"],
        "computed_at": "" if computed is None else _iso(computed),
        "failsafe_active": sharing.member.failsafe_active() or (group is not None and group.failsafe_active),
        "online_count": online,
        "offline_count": len(joined) - online,
        "peers": entries,
        "allocations": [
            {
                "id": allocation.id,
                "device_id": ids.get(allocation.id, "unknown"),
                "target_current": allocation.target_current,
                "reason": allocation.reason,
                "committed_current": _rounded(group.commitments.amount(allocation.id)) if group else 0.0,
            }
            for allocation in allocations
        ],
        "budget": _rounded(group.settings.rules.budget) if group else 0.0,
        "committed_total": _rounded(group.commitments.total()) if group else 0.0,
        "config_issues": group.config_issues() if group else [],
    }


def status_fields(sharing: Sharing) -> dict[str, Any]:
    """In `/status`."""
    gateway = sharing.gateway
    local = gateway.local()
    return {
        "loadsharing_min_current": local.min,
        "loadsharing_max_current": local.max,
        "loadsharing_priority": gateway.options["loadsharing_priority"],
        "loadsharing_joined_peers": [
            {"hostname": peer.host, "id": peer.device_id or "unknown", "name": peer.name or peer.host}
            | wire.public_status(_known(sharing, peer))
            for peer in sharing.book
        ],
        "loadsharing_group_current_total": group_current(sharing),
        **limit_fields(sharing),
    }


def limit_fields(sharing: Sharing) -> dict[str, Any]:
    gateway, limit = sharing.gateway, sharing.limit
    evse = gateway.evse
    reason, applied = "none", evse.pilot
    if limit is not None:
        applied = 0 if limit.pauses(evse.min) else max(evse.min, min(limit.amps, evse.configured_max))
        if limit.reason == "controller_lost" or limit.pauses(evse.min) or limit.amps < evse.configured_max:
            reason = limit.reason
    return {
        "loadsharing_state": _state(sharing, limited=reason != "none"),
        "limit_reason": reason,
        "applied_current": applied,
        "loadsharing_ready": int(gateway.manager.ready and not gateway.asleep_by_others()),
    }


def group_current(sharing: Sharing) -> int:
    """mA, of the whole group as far as it is known here."""
    if not (sharing.controller.active or sharing.member.active):
        return 0
    return sharing.gateway.local().amp + sum(int(_known(sharing, peer).get("amp", 0)) for peer in sharing.book)


def _state(sharing: Sharing, limited: bool) -> str:
    if sharing.controller.active:
        return "controller"
    member = sharing.member.limit
    if member is None:
        return "off"
    if sharing.member.failsafe_active():
        return "joining" if sharing.member.joining else "failsafe"
    return "member_limited" if limited else "member"


def _own_entry(sharing: Sharing) -> dict[str, Any]:
    me, addresses = sharing.me, sharing.addresses()
    address = addresses[0] if addresses else "127.0.0.1"
    return {
        "id": me.device_id,
        "name": sharing.names()[0],
        "host": me.host,
        "url": f"http://{address}:{me.port}",
        "ip": address,
        "online": True,
        "joined": True,
        "isLocal": True,
    }


def _found_entry(sharing: Sharing, found: Found, peer: Peer | None) -> dict[str, Any]:
    return {
        "id": found.device_id or (peer.device_id if peer else "") or "unknown",
        "name": found.instance,
        "host": found.host if peer is None else peer.host,
        "url": found.url,
        "ip": found.address,
        "online": found.online if peer is None else _online(sharing, peer, found.online),
        "joined": peer is not None,
        "isLocal": False,
    }


def _unseen_entry(sharing: Sharing, peer: Peer) -> dict[str, Any]:
    where = split_host(peer.host)
    address = peer.address or str(parse(where.name) or "")
    name = f"[{address}]" if ":" in address else address or where.name
    return {
        "id": peer.device_id or "unknown",
        "name": peer.name or peer.host,
        "host": peer.host,
        "url": f"http://{name}" + ("" if where.port in (None, 80) else f":{where.port}"),
        "ip": address,
        "online": _online(sharing, peer, False),
        "joined": True,
        "isLocal": False,
    }


def _online(sharing: Sharing, peer: Peer, found: bool) -> bool:
    """The controller knows it from its link; for another gateway what mDNS has found counts."""
    group = sharing.controller.group
    return found if group is None else peer.host in group.members and group.online(peer.host)


def _known(sharing: Sharing, peer: Peer) -> dict[str, Any]:
    link = sharing.controller.links.get(peer.host)
    return {} if link is None else link.status


def _with_status(sharing: Sharing, entry: dict[str, Any]) -> dict[str, Any]:
    """With version, when it was seen last (seconds ago, null: never), and its status where that is known."""
    entry = {key: value for key, value in entry.items() if key != "isLocal"} | {"version": "", "last_seen": None}
    if entry["host"] == sharing.me.host:
        local = sharing.gateway.local()
        known = {
            **{"amp": local.amp, "voltage": local.voltage, "pilot": local.pilot, "vehicle": local.vehicle},
            **{"state": local.state, "loadsharing_min_current": local.min, "loadsharing_max_current": local.max},
            "loadsharing_priority": sharing.gateway.options["loadsharing_priority"],
        }
        return entry | {"version": identity.VERSION, "last_seen": 0, "status": wire.public_status(known)}
    seen = sharing.directory.heard_at(entry["name"])
    found = next((found for found in sharing.directory if found.instance == entry["name"]), None)
    if found is not None:
        entry["version"] = found.version
    link = sharing.controller.links.get(entry["host"])
    if link is not None:
        entry["version"] = link.peer.version or entry["version"]
        seen = max((moment for moment in (seen, link.last_seen) if moment is not None), default=None)
        if link.status:
            entry["status"] = wire.public_status(link.status)
    if seen is not None:
        entry["last_seen"] = round(time.monotonic() - seen, 1)
    return entry


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rounded(amps: float) -> float:
    return round(amps, 3)
