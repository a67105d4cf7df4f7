"""`labyard evse list`, `budget` and `discover`: all pairs together."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from rich.text import Text

from labyard.client.commands import JsonOption, console, print_json, table, working
from labyard.client.http import ClientError
from labyard.evse import cli_show
from labyard.evse.cli_types import ControllerOption, where
from labyard.evse.client import Gateway
from labyard.evse.survey import Reading, group_of, groups, survey

LOOK_SECONDS = 0.25  # between two looks
TAKE_SECONDS = 3.0  # that a controller may take until it works with another budget


def list_(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """All pairs: what they do, who is in which group and why it gets what it gets, and what is wrong.

    Exits with 1 when one is not well.

    [bold]labyard evse list[/]

    [bold]labyard evse list --json | jq '.[] | select(.trouble != "")'[/]
    """
    with working("asking"):
        readings = survey(where(ctx).pairs)
    found = groups(readings)
    if as_data:
        print_json([cli_show.document(reading, found) for reading in readings])
    else:
        cli_show.pairs(readings, found)
    raise typer.Exit(1 if any(reading.trouble for reading in readings) else 0)


def budget(
    ctx: typer.Context,
    amps: Annotated[float, typer.Argument(min=0, metavar="AMPS", help="What the group may draw; 0 allocates nothing.")],
    controller: ControllerOption = "",
) -> None:
    """Tell a group's controller what the group may draw, until the inventory's budget is applied again.

    [bold]labyard evse budget 24[/]
    """
    group = group_of(survey(where(ctx).pairs), controller)
    if group is None:
        raise ClientError("no pair that answers is a group's controller: labyard evse list")
    pair, config = group.controller.pair, group.controller.config
    factor = config["loadsharing_safety_factor"]
    with Gateway(pair.gateway, pair.credentials) as gateway:
        gateway.configure(loadsharing_group_max_current=amps)
        issues = _issues(gateway, amps * factor)
    was = config["loadsharing_group_max_current"]
    share = "" if factor == 1 else f", of which {factor:.0%} are used: {amps * factor:g} A"
    console.print(f"[bold]{pair.name}[/] has {amps:g} A for its group now{share}; it had {was:g} A.", highlight=False)
    for issue in issues:
        console.print(Text(issue, style="yellow"), soft_wrap=True)


def _issues(gateway: Gateway, budget: float) -> list[str]:
    """What the controller says of its settings, once it has taken the budget (A). The firmware says nothing."""
    end = time.monotonic() + TAKE_SECONDS
    while True:
        group = gateway.group()
        if "budget" not in group or abs(group["budget"] - budget) < 0.01 or time.monotonic() >= end:
            return list(group.get("config_issues", []))
        time.sleep(LOOK_SECONDS)


def discover(
    ctx: typer.Context,
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait until each has found all others.")] = 5,
    as_data: JsonOption = False,
) -> None:
    """Have all gateways look for each other by mDNS now, and show who finds whom. Exits with 1 when one is not found.

    [bold]labyard evse discover[/]
    """
    readings = [one for one in survey(where(ctx).pairs) if one.device_id]
    if not readings:
        raise ClientError("no gateway answers: labyard evse list")
    names = {one.device_id: one.pair.name for one in readings}
    end = time.monotonic() + seconds
    with working("looking for each other"), ThreadPoolExecutor(len(readings)) as pool:
        found = list(pool.map(lambda one: _found(one, set(names), end), readings))
    rows = [_row(reading, online, names) for reading, online in zip(readings, found, strict=True)]
    if as_data:
        print_json(rows)
    else:
        cells = [
            (
                *(row["pair"], row["name"], f"{len(row['finds'])} of {len(readings) - 1}"),
                Text(", ".join(row["misses"]), style="red"),
            )
            for row in rows
        ]
        table(("Pair", "Name", "Finds", "Does not find"), cells, "")
        others = sorted({host for row in rows for host in row["others"]})
        if others:
            console.print(f"Found beside these pairs: {', '.join(others)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if any(row["misses"] for row in rows) else 0)


def _found(reading: Reading, wanted: set[str], end: float) -> dict[str, str]:
    """Hosts by the id of what the gateway has found, once it has found all that are wanted, or at the end."""
    with Gateway(reading.pair.gateway, reading.pair.credentials) as gateway:
        gateway.discover()
        while True:
            online = {str(peer["id"]): str(peer["host"]) for peer in gateway.peers() if peer["online"]}
            if wanted <= {*online, reading.device_id} or time.monotonic() >= end:
                return online
            time.sleep(LOOK_SECONDS)


def _row(reading: Reading, online: dict[str, str], names: dict[str, str]) -> dict[str, Any]:
    others = {id: name for id, name in names.items() if id != reading.device_id}
    return {
        "pair": reading.pair.name,
        "name": str(reading.config.get("hostname", "")),
        "finds": [name for id, name in others.items() if id in online],
        "misses": [name for id, name in others.items() if id not in online],
        "others": sorted(host for id, host in online.items() if id not in names),
    }
