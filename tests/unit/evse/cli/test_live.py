"""The live view of a group."""

from __future__ import annotations

from rich.console import Console

from labyard.evse import cli_live
from labyard.evse.monitor.sample import Charger
from labyard.evse.monitor.watch import Line, Watch


def line(budget: float | None = 32.0) -> Line:
    chargers = {"a/0": Charger(16.0, 20, 3), "a/1": Charger(18.0, 6, 3), "a/2": None, "a/3": Charger(0, 0, 6, True)}
    return Watch(budget).take(chargers, 0.0)


def shown(made: Line) -> list[str]:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(cli_live.screen(made, "Group lab", "Ctrl-C ends it."))
    return capture.get().splitlines()


def test_bars_show_drawn_and_offered_and_flag_what_is_wrong() -> None:
    rows = {words[0]: row for row in shown(line()) if (words := row.split())}
    full, light = cli_live.CELLS * 16 // 20, cli_live.CELLS * 4 // 20
    assert "█" * full + "░" * light in rows["a/0"] and "16.0 of  20.0 A" in rows["a/0"] and "charging" in rows["a/0"]
    assert "OVERDRAW" in rows["a/1"] and "OVERDRAW" not in rows["a/0"]
    assert "does not answer" in rows["a/2"]
    assert "gfci" in rows["a/3"] and "failsafe" in rows["a/3"]
    assert "│" in rows["sum"] and "of 32 A" in rows["sum"] and "OVER by 2.0 A drawn" in rows["sum"]


def test_without_a_budget_nothing_is_judged() -> None:
    row = next(row for row in shown(line(None)) if row.startswith("sum"))
    assert "no budget known" in row and "OVER" not in row and "not all answer" in row


def test_text_has_it_all_on_one_line() -> None:
    text = cli_live.text(line())
    assert "\n" not in text
    for part in ("drawn 34.0 A  offered 26.0 A  budget 32 A", "OVER by 2.0 A drawn"):
        assert part in text
    for part in ("a/0 16.0/20", "a/2 silent", "a/3 0.0/0 failsafe"):
        assert part in text
    assert "budget unknown" in cli_live.text(line(None))
