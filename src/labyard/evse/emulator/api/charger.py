"""/api/status, /api/evse, /api/errors."""

from __future__ import annotations

from typing import Any

from labyard.evse.codes import ErrorFlag
from labyard.evse.emulator.api import body
from labyard.evse.emulator.api.body import BadRequest, Body
from labyard.evse.emulator.config import MAX_AMPS, MIN_AMPS
from labyard.evse.emulator.display import COLOURS
from labyard.evse.emulator.emulator import Emulator

_ERRORS = {
    "gfci": ErrorFlag.GFCI,
    "stuck_relay": ErrorFlag.STUCK_RELAY,
    "no_ground": ErrorFlag.NO_GROUND,
    "diode_check": ErrorFlag.DIODE,
    "over_temp": ErrorFlag.OVER_TEMPERATURE,
    "gfi_self_test": ErrorFlag.SELF_TEST,
}


def get_status(emulator: Emulator) -> Any:
    return emulator.status()


def get_evse(emulator: Emulator) -> Any:
    return emulator.status()["evse"]


def get_version(emulator: Emulator) -> Any:
    return {"firmware": emulator.evse.firmware, "protocol": emulator.evse.protocol}


def enable(emulator: Emulator) -> None:
    with emulator.change():
        enabled = emulator.evse.enable()
    if not enabled:
        raise BadRequest(f"a fault stands: {emulator.evse.state.name.lower()}", success=False)


def disable(emulator: Emulator) -> None:
    with emulator.change():
        emulator.evse.sleep()


def reset(emulator: Emulator) -> None:
    emulator.reboot()


def set_current(emulator: Emulator, given: Body) -> None:
    amps = int(body.number(given, "amps", MIN_AMPS, MAX_AMPS))  # the pilot has no fractions
    pilot = emulator.evse.pilot
    if amps > pilot.hardware_max:
        raise BadRequest(f"amps must be at most {pilot.hardware_max}, the hardware's maximum")
    with emulator.change():
        pilot.stored_max = max(pilot.stored_max, amps)
        pilot.set(amps)


def set_service_level(emulator: Emulator, given: Body) -> None:
    level = body.choice(given, "level", "L1", "L2", "Auto")
    with emulator.change():
        emulator.evse.set_level(level)


def get_lcd(emulator: Emulator) -> Any:
    display = emulator.evse.display
    return {"row1": display.rows[0], "row2": display.rows[1], "backlight_color": display.colour}


def set_lcd(emulator: Emulator, given: Body) -> None:
    rows = [body.text(given, "row1"), body.text(given, "row2")]
    for row, text in enumerate(rows):
        if text is not None:
            emulator.evse.display.set_row(row, text)


def get_backlight(emulator: Emulator) -> Any:
    return {"color": emulator.evse.display.colour}


def set_backlight(emulator: Emulator, given: Body) -> None:
    emulator.evse.display.colour = body.whole(given, "color", 0, COLOURS - 1)


def trigger_error(emulator: Emulator, given: Body) -> None:
    name = body.choice(given, "error", *_ERRORS)
    emulator.trip(_ERRORS[name], name)


def clear_errors(emulator: Emulator) -> None:
    with emulator.change():
        emulator.evse.protection.clear()


def get_errors(emulator: Emulator) -> Any:
    protection = emulator.evse.protection
    return {
        "error_flags": int(protection.faults),
        "error_counts": {
            "gfci": protection.counts[ErrorFlag.GFCI],
            "no_ground": protection.counts[ErrorFlag.NO_GROUND],
            "stuck_relay": protection.counts[ErrorFlag.STUCK_RELAY],
        },
    }
