"""`labyard evse watch` and `record`: the monitor, with the pairs of the inventory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from labyard.client.commands import JsonOption, console, progress
from labyard.client.http import ClientError
from labyard.evse import cli_live
from labyard.evse.cli_types import ControllerOption, where
from labyard.evse.monitor.run import watch_group
from labyard.evse.monitor.sample import Reader
from labyard.evse.monitor.watch import Line, Watch
from labyard.evse.pairs import Pair
from labyard.evse.survey import group_of, survey

BudgetOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="AMPS", help="Watch all pairs against this, not a group against its controller's."),
]
IntervalOption = Annotated[float, typer.Option(min=0.1, help="Seconds between two samples.")]


@dataclass(frozen=True)
class Watched:
    """What a group is held to. `controller` None: `budget` (A) stands as it is."""

    pairs: list[Pair]
    controller: Pair | None
    budget: float
    title: str


def watch(
    ctx: typer.Context,
    controller: ControllerOption = "",
    budget: BudgetOption = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="End by itself.")] = None,
    interval: IntervalOption = 1,
    as_data: JsonOption = False,
) -> None:
    """Show live what each charger of a group is offered and draws, and the sum against the budget. Ctrl-C ends it.

    Where the output is no terminal there is a line for each sample. Exits with 1 when the budget did not hold.

    [bold]labyard evse watch[/]

    [bold]labyard evse watch --seconds 60 | grep OVER[/]

    [bold]labyard evse --pairs 4 watch --budget 32[/]
    """
    watched = _watched(ctx, controller, budget)
    if as_data or not console.is_terminal:
        write = _print_json if as_data else _print_text
        _end(_run(watched, write, seconds, interval), quiet=as_data)
        return
    with Live(console=console, auto_refresh=False) as live:

        def draw(line: Line) -> None:
            live.update(cli_live.screen(line, watched.title, "Ctrl-C ends it."), refresh=True)

        done = _run(watched, draw, seconds, interval)
    _end(done)


def record(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The file: a JSON line a sample.")],
    controller: ControllerOption = "",
    budget: BudgetOption = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="How long; without it until Ctrl-C.")] = None,
    interval: IntervalOption = 1,
) -> None:
    """Record a group for `plot`: labyard-evse-monitor with the pairs of the inventory. Exits with 1 when the budget did
    not hold.

    [bold]labyard evse record --seconds 300 --output run.jsonl[/]
    """
    watched = _watched(ctx, controller, budget)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with output.open("w", encoding="utf-8") as file, progress(*columns, transient=True) as bars:
            task = bars.add_task("recording", total=seconds)

            def write(line: Line) -> None:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
                file.flush()
                bars.update(task, completed=line["t"], description=f"{line['drawn']:.1f} of {line['budget']:g} A")

            done = _run(watched, write, seconds, interval)
    except OSError as error:
        raise ClientError(f"{output}: {error.strerror or error}") from error
    console.print(f"{output} has {done.passes} samples; draw it: labyard evse plot {output}", soft_wrap=True)
    _end(done)


def _watched(ctx: typer.Context, controller: str, budget: float | None) -> Watched:
    """The group to watch. ClientError when there is none and no budget was given."""
    pairs = where(ctx).pairs
    if budget is not None:
        reachable = [pair for pair in pairs if not pair.trouble]
        if not reachable:
            raise ClientError(pairs[0].trouble)
        return Watched(reachable, None, budget, f"{len(reachable)} pairs against {budget:g} A")
    group = group_of(survey(pairs), controller)
    if group is None:
        raise ClientError(
            "no pair that answers is a group's controller; hold all pairs to a budget of your own with --budget AMPS, "
            "or see what is there: labyard evse list"
        )
    members = [one.pair for one in group.members]
    title = f"Group {group.name or 'without a name'}, controller {members[0].name}"
    if group.strangers:
        title += f"; not watched, for they are none of these pairs: {', '.join(group.strangers)}"
    return Watched(members, members[0], group.budget, title)


def _run(watched: Watched, take: Callable[[Line], None], seconds: float | None, interval: float) -> Watch:
    """ClientError when no emulator ever answered."""
    found = Watch(watched.budget, watched.pairs[0].time_scale)
    follow = watched.controller is not None

    async def run() -> bool:
        reader = Reader(watched.pairs, watched.controller)
        return await watch_group(found, reader, take, follow_budget=follow, interval=interval, duration=seconds)

    if not asyncio.run(run()):
        raise ClientError("no emulator has answered: labyard evse list")
    return found


def _end(done: Watch, quiet: bool = False) -> None:
    """Say whether the budget held; exit code 1 when it did not."""
    summary = done.summary()
    if not quiet:
        kinds = {"drawn": done.drawn.violations, "offered": done.offered.violations}
        counts = " and ".join(
            f"{count} time{'s' * (count > 1)} by what is {kind}" for kind, count in kinds.items() if count
        )
        worst = f"was exceeded {counts}, by {summary['worst_over_a']:g} A at worst"
        console.print(f"{summary['passes']} samples: the budget {worst if counts else 'held'}.", soft_wrap=True)
    if summary["violations"]:
        raise typer.Exit(1)


def _print_json(line: Line) -> None:
    print(json.dumps(line, separators=(",", ":")), flush=True)


def _print_text(line: Line) -> None:
    print(cli_live.text(line), flush=True)
