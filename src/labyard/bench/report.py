"""The table on stdout and build/bench.json."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from labyard.bench.bench import Bench
from labyard.bench.figure import Figure, Target
from labyard.inventory import InventoryError


def _table(*, header: bool) -> Table:
    """One part of the report; widths are fixed, since each row is printed as soon as its figure is known."""
    table = Table(show_header=header, header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name, width in (("Figure", 28), ("Value", 14), ("Target", 13), ("", 2), ("Change", 7)):
        table.add_column(name, width=width, no_wrap=True, justify="left" if name in ("Figure", "") else "right")
    return table


def print_header(console: Console) -> None:
    """The table's first line."""
    console.print(_table(header=True))


def print_figure(console: Console, figure: Figure, change: str = "") -> None:
    """One line of the table; a figure that could not be measured is followed by the reason. `change`: markup."""
    target = figure.target
    value = "-" if figure.value is None else f"{figure.value:.2f} {target.unit}"
    mark = "[green]✔[/]" if figure.ok else "[red]✘[/]"
    table = _table(header=False)
    table.add_row(target.name, value, str(target), mark, change)
    console.print(table)
    if figure.reason:
        console.print(f"  [red]not measured:[/] {escape(figure.reason)}", highlight=False)


def print_left_out(console: Console, target: Target) -> None:
    """A line for a figure that is measured only on request."""
    name = target.name.rpartition("_")[0]
    console.print(f"{target.name}: not measured in this run (use --only {name})", highlight=False)


def _answer(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _acceleration(bench: Bench) -> str:
    """kvm or tcg, as the lab's machines have it; unknown without a lab."""
    try:
        machine = next(iter(bench.lab.machines.values()))
        kind = str(bench.lab.vm_host(machine).run("virsh dumpxml %s | head -n 1", machine.name).stdout)
    except (InventoryError, StopIteration):
        return "unknown"
    if "type=" not in kind:
        return "unknown"
    return "kvm" if "kvm" in kind else "tcg"


def stamp(checkout: Path) -> dict[str, str]:
    """When, and at which commit."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _answer(["git", "describe", "--always", "--dirty", "--abbrev=12"], checkout),
    }


def environment(bench: Bench) -> dict[str, Any]:
    """Where the figures come from."""
    return {
        **stamp(bench.checkout),
        "cores": len(os.sched_getaffinity(0)),
        "acceleration": _acceleration(bench),
    }


def earlier_figures(path: Path) -> list[dict[str, Any]]:
    """The figures of an earlier run, each marked with when it was measured; none when there is no usable file."""
    try:
        document = json.loads(path.read_text())
        date = document["environment"]["date"]
        return [{"measured": date} | figure for figure in document["figures"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write(path: Path, where: dict[str, Any], figures: list[Figure], earlier: list[dict[str, Any]]) -> None:
    """Write the figures of this run; what only an earlier run measured is kept, with its `measured`."""
    named = {figure.target.name for figure in figures}
    kept = [figure for figure in earlier if figure["name"] not in named]
    document = {"environment": where, "figures": [figure.as_dict() for figure in figures] + kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=2) + "\n")
    part.replace(path)
