"""`labyard faas logs` and `stats`: what became of requests."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from labyard.client.commands import JsonOption, console, print_json
from labyard.faas_cli import show, times
from labyard.faas_cli.cli_types import NameArgument, client
from labyard.faas_cli.client import Document

MOST = 1000  # requests that are looked at
SHOWN = 100  # in a picture of times
PAUSE = 0.5  # s between two looks


def logs(
    ctx: typer.Context,
    name: NameArgument,
    last: Annotated[int, typer.Option(min=1, max=MOST, help="How many of the last.")] = 20,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show more as they come.")] = False,
    as_data: JsonOption = False,
) -> None:
    """The last requests, the newest at the end: when, what came of it, how long, and what the handler wrote.

    [bold]labyard faas logs hello --failed[/]

    [bold]labyard faas logs hello --follow[/]

    With --json the newest comes first; with --follow, too, one object a line as they come.
    """
    api = client(ctx)

    def look(limit: int) -> list[Document]:
        return [record for record in api.logs(name, limit) if not failed or record["result"] != "ok"]

    records = look(MOST if failed else last)[:last]
    if as_data and not follow:
        print_json(records)
        return
    _tell(records[::-1], as_data)
    if not records and not follow:
        what = "failed" if failed else "came yet"
        console.print(f"No request of {name} {what}. Send one: labyard faas invoke {name}", highlight=False)
    seen = {record["id"] for record in records}
    while follow:
        time.sleep(PAUSE)
        new = [record for record in look(MOST) if record["id"] not in seen]
        _tell(new[::-1], as_data)
        seen |= {record["id"] for record in new}


def _tell(records: list[Document], as_data: bool) -> None:
    if not as_data:
        show.requests(records)
        return
    for record in records:
        print(json.dumps(record), flush=True)


def stats(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Only this function, with a picture of its times.")] = "",
    as_data: JsonOption = False,
) -> None:
    """How many requests, how they ended, how long they took, and how many found a parked handler.

    [bold]labyard faas stats[/]

    [bold]labyard faas stats hello[/]
    """
    api = client(ctx)
    if name:
        found = api.function(name)
        if as_data:
            print_json({"name": name, "pool": found["pool"]} | found["stats"])
        else:
            show.statistics(found, api.logs(name, SHOWN))
        return
    every = api.stats()
    if as_data:
        print_json(every)
    else:
        show.stats(every, {one: times.line(api.logs(one, times.LINE)) for one in every["functions"]})
