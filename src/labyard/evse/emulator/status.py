"""What the HTTP API and the web socket show of charger and car: contract 3."""

from __future__ import annotations

from typing import Any

from labyard.evse.codes import ErrorFlag
from labyard.evse.emulator.controller import Evse


def state(evse: Evse) -> dict[str, Any]:
    return {"state": int(evse.state), "state_name": evse.state.name.lower()}


def charger(evse: Evse) -> dict[str, Any]:
    celsius = round(evse.warmth.celsius, 1)
    return state(evse) | {
        "current_capacity": evse.pilot.amps,
        "actual_current": round(evse.current, 1),
        "voltage": evse.millivolts,
        "temperature_ds": celsius,
        "temperature_mcp": celsius,
        "session_energy_wh": round(evse.session.watt_seconds / 3600, 3),
        "total_energy_wh": round(evse.total_wh, 3),
        "session_time": int(evse.session.seconds),
        "service_level": evse.level,
        "error_flags": int(evse.protection.faults),
        "gfci_count": evse.protection.counts[ErrorFlag.GFCI],
        "no_ground_count": evse.protection.counts[ErrorFlag.NO_GROUND],
        "stuck_relay_count": evse.protection.counts[ErrorFlag.STUCK_RELAY],
        "firmware_version": evse.firmware,
        "protocol_version": evse.protocol,
        "lcd_row1": evse.display.rows[0],
        "lcd_row2": evse.display.rows[1],
        "lcd_backlight_color": evse.display.colour,
    }


def car(evse: Evse) -> dict[str, Any]:
    car = evse.car
    return {
        "connected": car.connected,
        "requesting_charge": car.requesting,
        "soc": round(car.soc, 3),
        "battery_capacity_kwh": car.battery_kwh,
        "max_charge_rate_kw": round(car.max_rate_kw, 6),
        "actual_charge_rate_kw": round(evse.current * evse.volts / 1000, 3),
        "diode_check_failed": ErrorFlag.DIODE in evse.protection.faults,
        "direct_mode": car.direct_mode,
        "direct_current_amps": car.direct_amps,
        "current_variance_enabled": car.varies,
    }


def both(evse: Evse) -> dict[str, Any]:
    return {"evse": charger(evse), "ev": car(evse)}
