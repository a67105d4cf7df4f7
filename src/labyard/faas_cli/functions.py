"""`labyard faas list`, `show`, `rm` and `check`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, working
from labyard.faas_cli import show as shown
from labyard.faas_cli.cli_types import NameArgument, NameArguments, client


def list_(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """The functions, their addresses, and how they do.

    [bold]labyard faas list[/]
    """
    api = client(ctx)
    found = api.functions()
    if as_data:
        print_json(found)
    else:
        shown.functions(found, api.stats()["functions"])


def show(ctx: typer.Context, name: NameArgument, as_data: JsonOption = False) -> None:
    """All there is to tell of one function: command, limits in force, parked handlers, counters."""
    found = client(ctx).function(name)
    if as_data:
        print_json(found)
    else:
        shown.function(found)


def rm(ctx: typer.Context, names: NameArguments) -> None:
    """Take functions away. Requests that are under way end as they would.

    [bold]labyard faas rm hello[/]
    """
    api = client(ctx)
    for name in names:
        api.remove(name)
        console.print(f"[bold]{escape(name)}[/] is taken away.", highlight=False)


def check(
    ctx: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    as_data: JsonOption = False,
) -> None:
    """Compare what is registered with the addresses, listeners, images and containers that there are.

    Exits with 1 when something differs that was not mended.

    [bold]labyard faas check --repair[/]
    """
    api = client(ctx)
    with working("looking"):
        found = api.check(repair)
        health = api.health()
    if as_data:
        print_json(found | {"health": health})
    else:
        shown.issues(found)
        if missing := health.get("not_enforced"):
            console.print(f"[yellow]This host cannot enforce these limits: {', '.join(missing)}[/]", highlight=False)
    raise typer.Exit(1 if len(found["issues"]) > len(found.get("repaired", [])) else 0)
