"""The results, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from labyard.doctor.model import CheckResult, Status, exit_code

COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.LATER: "cyan"}


def as_json(results: Sequence[CheckResult]) -> str:
    """The results as JSON: `ok` (nothing failed), `counts` by status, `results` as CheckResult has them."""
    counts = Counter(result.status for result in results)
    document = {
        "ok": exit_code(results) == 0,
        "counts": {status.value: counts[status] for status in Status},
        "results": [asdict(result) for result in results],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def closing_sentence(results: Sequence[CheckResult]) -> str:
    """One sentence that says whether the lab can be built, and what next."""
    counts = Counter(result.status for result in results)
    if failed := counts[Status.FAIL]:
        them = "it has" if failed == 1 else "they have"
        number = "One check fails" if failed == 1 else f"{failed} checks fail"
        return f"{number}: do what the table says, then run the doctor again. Until {them} passed, do not build."
    notes = []
    if counts[Status.WARN]:
        notes.append("mind the warnings" if counts[Status.WARN] > 1 else "mind the warning")
    if counts[Status.LATER]:
        notes.append("`make lab` installs what is marked later, and asks the doctor again")
    return "; ".join(["Nothing stands in the way of the lab", *notes]) + "."


def print_report(results: Sequence[CheckResult], console: Console) -> None:
    """Prints the table and the closing sentence."""
    table = Table(title="Labyard doctor", title_justify="left", box=box.ROUNDED)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found, and the way out")
    table.add_column("s", justify="right", no_wrap=True)
    for result in results:
        colour = COLOURS[result.status]
        text = Text(result.found)
        if result.remedy:
            text.append("\n→ ", style=colour)
            text.append(result.remedy, style="bold" if result.status is Status.FAIL else "")
        table.add_row(result.name, Text(result.status.value, style=colour), text, f"{result.seconds:.1f}")
    console.print(table)
    console.print(Text(closing_sentence(results), style="bold"))
