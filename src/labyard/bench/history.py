"""What earlier runs found: build/bench-history.jsonl, a line for each run, and what has become of each figure since."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from labyard.bench.figure import TARGETS, Target

PATH = Path("build/bench-history.jsonl")
NOTABLE = 0.1
BARS = "▁▂▃▄▅▆▇█"
LAST = 20


def this_machine() -> str:
    """Figures of other machines are not compared."""
    return f"{platform.node()}, {len(os.sched_getaffinity(0))} cores"


def append(path: Path, stamp: Mapping[str, str], figures: Mapping[str, float]) -> None:
    """Add a run with its date and commit. One that measured nothing is left out."""
    if not figures:
        return
    run = {**stamp, "machine": this_machine(), "figures": {name: round(value, 3) for name, value in figures.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(run) + "\n")


def read(path: Path) -> dict[str, list[float]]:
    """Each figure's values on this machine, oldest first. A line that was not written to its end does not count."""
    values: dict[str, list[float]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            run = json.loads(line)
        except ValueError:
            continue
        if run["machine"] == this_machine():
            for name, value in run["figures"].items():
                values.setdefault(name, []).append(value)
    return values


def of_suite(name: str, path: Path) -> dict[str, float]:
    """What came of a suite of tests (passed, skipped, failed, seconds), as figures."""
    return {f"tests.{name}.{what}": float(value) for what, value in json.loads(path.read_text()).items()}


def change(value: float, earlier: Sequence[float], target: Target | None) -> str:
    """How much a value differs from the median of earlier ones, green or red when that is notable. "" without any."""
    if not earlier:
        return ""
    middle = median(earlier)
    if not middle:
        return "same" if value == middle else "was 0"
    part = value / middle - 1
    text = f"{part:+.0%}"
    if target is None or abs(part) < NOTABLE:
        return text
    return f"[{'green' if (part < 0) == (target.better == 'lower') else 'red'}]{text}[/]"


def print_trend(console: Console, values: Mapping[str, Sequence[float]], only: str = "") -> None:
    """A line for each figure: its median, its last value, and the last runs as a picture."""
    targets = {target.name: target for target in TARGETS}
    wanted = tuple(part.strip() for part in only.split(",") if part.strip()) or ("",)
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("Figure", "Runs", "Median", "Last", "Change", "Course"):
        table.add_column(heading, justify="left" if heading in ("Figure", "Course") else "right", no_wrap=True)
    for name, of_runs in sorted(values.items()):
        if name.startswith(wanted):
            target = targets.get(name)
            unit = target.unit if target else ""
            table.add_row(
                name, str(len(of_runs)), f"{median(of_runs):.2f} {unit}", f"{of_runs[-1]:.2f} {unit}",
                change(of_runs[-1], of_runs[:-1], target), course(of_runs[-LAST:]),
            )  # fmt: skip
    if table.row_count:
        console.print(table)
    else:
        console.print(f"{PATH} has no such figure of this machine ({this_machine()})", highlight=False)


def course(values: Sequence[float]) -> str:
    """A bar for each value, the lowest and the highest as low and as high as they can be."""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / ((high - low) or 1)
    return "".join(BARS[round((value - low) * scale)] for value in values)
