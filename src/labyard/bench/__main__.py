"""`python -m labyard.bench`: measure, print each figure with its target, and write build/bench.json and its history."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from labyard.bench import (
    boot,
    desktops,
    dhcp,
    evse,
    faas,
    history,
    iscsi,
    lab,
    molecule,
    netboot,
    report,
    tftp,
    vm,
    vms,
)
from labyard.bench.bench import Bench, Measure
from labyard.bench.figure import TARGETS, Figure, Target, select
from labyard.lab import DEFAULT_INVENTORY

MEASURES: dict[str, Measure] = (
    lab.MEASURES
    | molecule.MEASURES
    | boot.MEASURES
    | dhcp.MEASURES
    | tftp.MEASURES
    | iscsi.MEASURES
    | netboot.MEASURES
    | vms.MEASURES
    | evse.MEASURES
    | faas.MEASURES
    | vm.MEASURES
    | desktops.MEASURES
)
OUTPUT = Path("build/bench.json")

console = Console()
progress = Console(stderr=True, style="dim", highlight=False)
app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _measure(bench: Bench, target: Target) -> Figure:
    """Measure one figure; what goes wrong is its reason."""
    try:
        return Figure(target, MEASURES[target.name](bench))
    except Exception as error:  # whatever it is, the other figures are still wanted
        return Figure(target, None, str(error) or type(error).__name__)


def _print_list() -> None:
    table = Table(header_style="bold")
    for heading in ("Figure", "Target", "What it is"):
        table.add_column(heading)
    for target in TARGETS:
        table.add_row(target.name, str(target), target.about + (" (on request)" if target.on_request else ""))
    console.print(table)


@app.command()
def main(
    only: Annotated[str, typer.Option(help="Figures or families, separated by commas: boot,dhcp or lab.noop.")] = "",
    list_figures: Annotated[bool, typer.Option("--list", help="Say what can be measured, and its target.")] = False,
    trend: Annotated[
        bool, typer.Option("--trend", help="Show how figures went from run to run on this machine.")
    ] = False,
    record: Annotated[
        str, typer.Option(metavar="SUITE", help="Keep what came of a suite, from build/SUITE-integration.json.")
    ] = "",
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", envvar="LABYARD_INVENTORY", help="Which lab.")
    ] = DEFAULT_INVENTORY,
) -> None:
    """Measure the lab, print each figure with its target, and write build/bench.json.

    It takes the lab for itself: without --only it destroys and rebuilds it, and it switches machines off. Run it in the
    checkout, on a machine that does little else.

    [bold]python -m labyard.bench[/]                   everything but lab.cold_s

    [bold]python -m labyard.bench --only boot,dhcp[/]  two families, on the lab as it is

    [bold]python -m labyard.bench --only lab.cold[/]   removes the images and builds all of it in a fresh clone

    Exits with 0 when every figure meets its target, with 1 when one does not or could not be measured.
    """
    if list_figures:
        _print_list()
        return
    if trend:
        history.print_trend(console, history.read(history.PATH), only)
        return
    try:
        targets = select(only)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    # Ended from outside, it still removes what it made in the lab.
    signal.signal(signal.SIGTERM, _interrupt)
    checkout = Path.cwd()
    if not (checkout / "site.yml").exists():
        raise typer.BadParameter("run this in the checkout: the current folder has no site.yml")
    if record:
        found = history.of_suite(record, Path(f"build/{record}-integration.json"))
        history.append(history.PATH, report.stamp(checkout), found)
        return
    bench = Bench(checkout, inventory, lambda text: progress.print(f"  {text}", markup=False))
    past = history.read(history.PATH)
    earlier = report.earlier_figures(OUTPUT)
    figures: list[Figure] = []
    report.print_header(console)
    for target in targets:
        progress.print(f"measuring {target.name}: {target.about}", markup=False)
        figures.append(_measure(bench, target))
        value = figures[-1].value
        change = "" if value is None else history.change(value, past.get(target.name, ()), target)
        report.print_figure(console, figures[-1], change)
        report.write(OUTPUT, report.environment(bench), figures, earlier)
    measured = {figure.target.name: figure.value for figure in figures if figure.value is not None}
    history.append(history.PATH, report.stamp(checkout), measured)
    for target in TARGETS:
        if target.on_request and not only:
            report.print_left_out(console, target)
    missed = [figure.target.name for figure in figures if not figure.ok]
    console.print(f"{len(figures) - len(missed)} of {len(figures)} as wanted; written to {OUTPUT}", style="dim")
    raise typer.Exit(1 if missed else 0)


if __name__ == "__main__":
    app()
