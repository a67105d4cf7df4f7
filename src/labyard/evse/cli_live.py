"""A line of the monitor, drawn for a terminal or written as text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from labyard.evse.codes import State, is_fault, state_name
from labyard.evse.monitor.watch import Line

CELLS = 30  # of a bar
LEAST_SCALE = 16.0  # A that a full bar stands for, at least


def screen(line: Line, title: str, footer: str) -> Group:
    """Each charger's bar, and the sum's against the budget."""
    known = [one for one in line["chargers"].values() if one is not None]
    scale = max([LEAST_SCALE, *(max(one["offered"], one["drawn"]) for one in known)])
    budget = line["budget"]
    total = max([LEAST_SCALE, line["offered"], line["drawn"], budget or 0.0])
    what = "no budget known" if budget is None else f"of {budget:g} A"
    body = Table.grid(
        Column(), Column(min_width=CELLS + 1, no_wrap=True), Column(no_wrap=True), Column(), padding=(0, 2)
    )
    # The sum comes first: on a terminal that is too low the end is not seen.
    body.add_row(
        Text("sum", style="bold"),
        _bar(line["drawn"], line["offered"], total, budget),
        _amps(line["drawn"], line["offered"]),
        Text(f"{what}  ") + _judgement(line),
    )
    body.add_row("", "", "", "")
    for name, one in line["chargers"].items():
        body.add_row(name, *_charger(one, name in line["overdraw"], scale))
    legend = Text.assemble(("█", "cyan"), " drawn  ", ("░", "cyan"), " offered  ", ("│", "bold"), " budget")
    return Group(Text(title, style="bold"), Text(), body, Text(), legend, Text(footer, style="dim"))


def text(line: Line) -> str:
    """One line, to be read or searched."""
    moment = datetime.fromisoformat(line["time"]).astimezone().strftime("%H:%M:%S")
    budget = "unknown" if line["budget"] is None else f"{line['budget']:g} A"
    words = [moment, f"drawn {line['drawn']:.1f} A  offered {line['offered']:.1f} A  budget {budget}"]
    words.append(_judgement(line).plain)
    words += [_short(name, one) for name, one in line["chargers"].items()]
    return "  ".join(words)


def _judgement(line: Line) -> Text:
    if line["violation"]:
        kinds = [f"{amps:.1f} A {kind}" for kind, amps in line["over"].items() if amps]
        return Text(f"OVER by {', '.join(kinds)}", style="bold red")
    silent = [name for name, one in line["chargers"].items() if one is None]
    if silent:
        return Text("not all answer", style="yellow")
    return Text("ok", style="green")


def _charger(one: dict[str, Any] | None, overdraws: bool, scale: float) -> Iterable[Text]:
    if one is None:
        return Text(), Text(), Text("does not answer", style="yellow")
    state = Text(state_name(one["state"]), style=_style(one["state"]))
    if one["failsafe"]:
        state.append("  failsafe", style="yellow")
    if overdraws:
        state.append("  OVERDRAW", style="bold red")
    return _bar(one["drawn"], one["offered"], scale), _amps(one["drawn"], one["offered"]), state


def _bar(drawn: float, offered: float, scale: float, budget: float | None = None) -> Text:
    """Drawn solid, the rest of the offer light; the budget as a stroke."""
    full, light = round(CELLS * drawn / scale), round(CELLS * offered / scale)
    cells = Text("█" * full + "░" * max(0, light - full), style="cyan")
    cells.append(" " * (CELLS + 1 - len(cells)))
    if budget is None:
        return cells
    place = min(CELLS, round(CELLS * budget / scale))
    return cells[:place] + Text("│", style="bold") + cells[place + 1 :]


def _amps(drawn: float, offered: float) -> Text:
    return Text(f"{drawn:5.1f} of {offered:5.1f} A", justify="right")


def _short(name: str, one: dict[str, Any] | None) -> str:
    if one is None:
        return f"{name} silent"
    return f"{name} {one['drawn']:.1f}/{one['offered']:g}{' failsafe' if one['failsafe'] else ''}"


def _style(state: int) -> str:
    return "red" if is_fault(state) else "green" if state == State.CHARGING else ""
