"""What `labyard evse` prints of pairs: tables for people, documents for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from labyard.client.commands import build, console
from labyard.evse.codes import state_name
from labyard.evse.survey import Group, Reading

WIDE = 180  # columns that one table of everything takes
LIVE = ("Pair", "State", "Car", "Offered", "Drawn", "Energy", "Sharing", "Reason", "Health")
PLACE = ("Gateway", "Emulator", "RAPI port")


def document(reading: Reading, found: Sequence[Group]) -> dict[str, Any]:
    """For programs. Currents are A, energy kWh; null is not known."""
    host, _, number = reading.pair.name.rpartition("/")
    now = reading.charger
    group = _group(reading, found)
    return {
        "pair": reading.pair.name,
        "host": host,
        "number": int(number),
        "gateway": reading.pair.gateway,
        "emulator": reading.pair.emulator,
        "rapi_port": reading.pair.rapi_port,
        "id": reading.device_id,
        "state": None if now is None else state_name(now.state),
        "vehicle": reading.vehicle,
        "offered": None if now is None else now.offered,
        "drawn": None if now is None else now.drawn,
        "session_energy": reading.energy_kwh,
        "soc": reading.car.get("soc"),
        "role": reading.role,
        "group": group.name if group else "",
        "reason": group.reason(reading) if group else "",
        "healthy": not reading.trouble,
        "trouble": reading.trouble,
    }


def pairs(readings: Sequence[Reading], found: Sequence[Group]) -> None:
    """One table; on a narrow terminal a second one has the addresses."""
    live = [_live(document(reading, found)) for reading in readings]
    place = [(one.pair.gateway, one.pair.emulator, one.pair.rapi_port) for one in readings]
    if console.width >= WIDE or not console.is_terminal:
        rows = [(*one, *other) for one, other in zip(live, place, strict=True)]
        screen = console if console.is_terminal else Console(width=WIDE)
        screen.print(build((*LIVE, *PLACE), rows))
    else:
        console.print(build(LIVE, live))
        names = [one.pair.name for one in readings]
        console.print(build(("Pair", *PLACE), [(name, *one) for name, one in zip(names, place, strict=True)]))
    for one in readings:
        if one.trouble:
            console.print(Text.assemble((f"{one.pair.name}: ", "bold"), (one.trouble, "red")), soft_wrap=True)
    for group in found:
        _sums(group)


def _live(one: dict[str, Any]) -> tuple[Any, ...]:
    return (
        one["pair"],
        one["state"],
        _car(one),
        _unit(one["offered"], "A"),
        _unit(one["drawn"], "A"),
        _unit(one["session_energy"], "kWh", 2),
        f"{one['role'].replace('_', ' ')}{' of ' + one['group'] if one['group'] else ''}",
        one["reason"].replace("_", " "),
        Text("✔ well", style="green") if one["healthy"] else Text("✘", style="red"),
    )


def _car(one: dict[str, Any]) -> str:
    if one["vehicle"] is None:
        return ""
    if not one["vehicle"]:
        return "no"
    return "yes" if one["soc"] is None else f"yes, {one['soc']:.0f} %"


def _sums(group: Group) -> None:
    """What a group does together, and what is wrong with its settings."""
    present = [one.charger for one in group.members if one.charger is not None]
    name = f"Group {group.name}" if group.name else f"The group of {group.controller.pair.name}"
    drawn, offered = sum(one.drawn for one in present), sum(one.offered for one in present)
    line = f"{name}: {len(group.members)} pairs draw {drawn:.1f} A, are offered {offered:.1f} A of {group.budget:g} A"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    if group.strangers:
        console.print(f"  joined, but none of these pairs: {', '.join(group.strangers)}", highlight=False, markup=False)
    for issue in group.controller.group.get("config_issues", []):
        console.print(Text(f"  {issue}", style="yellow"), soft_wrap=True)


def _group(reading: Reading, found: Sequence[Group]) -> Group | None:
    return next((group for group in found if reading in group.members), None)


def _unit(value: float | None, unit: str, digits: int = 1) -> Text:
    return Text("" if value is None else f"{value:.{digits}f} {unit}", justify="right")
