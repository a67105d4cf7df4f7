"""/api/link and /api/clock: faults on the RAPI line, and the pace of time (contract 8)."""

from __future__ import annotations

from typing import Any

from labyard.evse.clock import MAX_SCALE
from labyard.evse.emulator import link_faults
from labyard.evse.emulator.api import body
from labyard.evse.emulator.api.body import BadRequest, Body
from labyard.evse.emulator.emulator import Emulator

# A day at a time: each tick of it is run.
_LONGEST_ADVANCE = 86_400.0


def get_faults(emulator: Emulator) -> Any:
    return emulator.line.faults.describe()


def set_faults(emulator: Emulator, given: Body) -> None:
    try:
        plan = link_faults.parse(given)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    emulator.line.set_faults(plan)


def clear_faults(emulator: Emulator) -> None:
    """The log stays, to be read."""
    emulator.line.faults = link_faults.FaultPlan()


def get_log(emulator: Emulator) -> Any:
    return list(emulator.line.log.entries)


def get_clock(emulator: Emulator) -> Any:
    clock = emulator.clock
    return {"mode": clock.mode, "scale": clock.scale, "now_s": round(clock.now(), 3)}


async def set_clock(emulator: Emulator, given: Body) -> None:
    mode = body.choice(given, "mode", "real", "scaled", "manual")
    scale = body.number(given, "scale", 1, MAX_SCALE) if "scale" in given else 1.0
    now_s = body.number(given, "now_s", 0) if "now_s" in given else None
    try:
        async with emulator.advancing:
            emulator.clock.set(mode, scale, now_s)  # type: ignore[arg-type]  # choice() has looked
    except ValueError as error:
        raise BadRequest(str(error)) from None


async def advance_clock(emulator: Emulator, given: Body) -> None:
    seconds = body.number(given, "seconds", 0, _LONGEST_ADVANCE)
    try:
        async with emulator.advancing:
            await emulator.clock.advance(seconds)
    except ValueError as error:
        raise BadRequest(str(error)) from None
