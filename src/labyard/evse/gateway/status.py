"""The document of `/status`, and the part of it that is sent when the EVSE changes: contract 5.1, 5.6."""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from typing import TYPE_CHECKING, Any

from labyard.evse.codes import State
from labyard.evse.gateway.claims import Client
from labyard.evse.gateway.timekeeping import iso, offset

if TYPE_CHECKING:
    from labyard.evse.gateway.app import Gateway

# Colours of the charger's display.
_RED, _GREEN, _YELLOW, _VIOLET, _TEAL = 1, 2, 3, 5, 6
_COLOURS: dict[int, int] = {
    State.NOT_CONNECTED: _GREEN,
    State.CONNECTED: _YELLOW,
    State.CHARGING: _TEAL,
    State.STARTING: 0,
}
# An address to route to; nothing is sent there.
_ELSEWHERE = ("192.0.2.1", 9)


def colour(state: int, asleep: bool) -> int:
    return _VIOLET if asleep else _COLOURS.get(state, _RED)


def power(gateway: Gateway) -> int:
    """W, what the car takes."""
    local = gateway.local()
    return round(local.amps * local.voltage)


def live(gateway: Gateway) -> dict[str, Any]:
    """What changes each second while it charges."""
    local = gateway.local()
    return {"amp": local.amp, "voltage": local.voltage, "power": power(gateway)}


def charger(gateway: Gateway) -> dict[str, Any]:
    """What changes with the state of the EVSE."""
    evse, manager = gateway.evse, gateway.manager
    return {
        "state": evse.state,
        "flags": evse.vflags,
        "vehicle": int(evse.vehicle),
        "colour": colour(evse.state, evse.asleep),
        "pilot": evse.pilot,
        "max_current": manager.max_current,
        "manual_override": int(gateway.claims.get(Client.MANUAL) is not None),
        "status": "active" if manager.wanted().active else "disabled",
        "elapsed": evse.elapsed(gateway.clock.now()),
        **live(gateway),
    }


def full(gateway: Gateway) -> dict[str, Any]:
    evse, energy = gateway.evse, gateway.energy
    now, wall = gateway.clock.now(), gateway.wall
    shaper, divert = gateway.shaper, gateway.divert
    t1, t2, t3 = (False if value is None else value for value in evse.temperatures)
    local = wall.local()
    document = {
        **gateway.host,
        "packets_sent": 0,
        "packets_success": 0,
        "comm_sent": gateway.manager.rapi.sent,
        "comm_success": gateway.manager.rapi.succeeded,
        "rapi_connected": int(gateway.manager.rapi.connected),
        "evse_connected": int(gateway.manager.ready),
        **charger(gateway),
        "temp": False if evse.temperature is None else evse.temperature,
        "temp_max": False if evse.temperature_max is None else evse.temperature_max,
        "temp1": t1,
        "temp2": t2,
        "temp3": t3,
        "divertmode": divert.mode,
        "time": iso(local),
        "local_time": local.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "offset": offset(local),
        "uptime": int(now),
        "session_elapsed": evse.elapsed(now),
        "session_energy": round(energy.session, 2),
        "total_energy": round(energy.total, 3),
        **{f"total_{name}": round(value, 3) for name, value in energy.periods.items()},
        "total_switches": energy.switches,
        "wattsec": evse.session_wattseconds,
        "watthour": evse.total_wh,
        "gfcicount": evse.gfci,
        "nogndcount": evse.no_ground,
        "stuckcount": evse.stuck,
        "solar": divert.solar,
        "grid_ie": divert.grid,
        "charge_rate": divert.rate,
        "divert_update": 0 if divert.updated_at is None else int(now - divert.updated_at),
        "divert_active": divert.active,
        "shaper": int(shaper.active),
        "shaper_live_pwr": shaper.live_power,
        "shaper_cur": shaper.current,
        "shaper_updated": shaper.fresh(now),
        "service_level": evse.service_level,
        "limit": gateway.limits.limit is not None,
        "ota_update": 0,
        "config_version": gateway.options.version,
        **gateway.versions.as_json(),
        "vehicle_state_update": 0 if gateway.vehicle.updated_at is None else int(now - gateway.vehicle.updated_at),
        **gateway.vehicle.known,
    }
    for fields in gateway.status_fields:
        document |= fields()
    return document


def host() -> dict[str, Any]:
    """What is said of the host, read once: addresses, memory, disk, and the services that are not here."""
    node = f"{uuid.getnode():012X}"
    disk = shutil.disk_usage(".")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "mode": "STA",
        "wifi_client_connected": 1,
        "eth_connected": 0,
        "net_connected": 1,
        "ipaddress": _address(socket.AF_INET) or "127.0.0.1",
        "ipv6address": "",
        "macaddress": ":".join(node[at : at + 2] for at in range(0, 12, 2)),
        "srssi": 0,
        "emoncms_connected": 0,
        "mqtt_connected": 0,
        "mqtt_status": 0,
        "ocpp_connected": 0,
        "ohm_hour": "NotConnected",
        "free_heap": free,
        "freeram": free,
        "littlefs_free": disk.free,
        "littlefs_used": disk.used,
        "tesla_vehicle_count": False,
        "tesla_vehicle_id": False,
        "tesla_vehicle_name": False,
    }


def _address(family: socket.AddressFamily) -> str:
    """The address that this host would speak to others from."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return ""
        return str(probe.getsockname()[0])
