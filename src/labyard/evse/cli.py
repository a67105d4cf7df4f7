"""`labyard evse …`: charger pairs by hand, over the APIs of their gateways and emulators."""

from __future__ import annotations

from typing import Annotated

import typer

from labyard.client.commands import InventoryOption, PlainErrors
from labyard.evse import cli_car, cli_group, cli_plot, cli_watch
from labyard.evse.cli_where import Where
from labyard.lab import DEFAULT_INVENTORY

app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""See what charger pairs do, play their cars, and watch a group share its supply.

    [bold]labyard evse list[/]

    [bold]labyard evse charge evse1/0 evse1/1[/]

    [bold]labyard evse watch[/]

    [bold]labyard evse record --seconds 300 --output run.jsonl[/]

    [bold]labyard evse plot run.jsonl --output run.svg[/]

    The pairs come from the inventory: those of each host with evse_pair among its lab_roles. Without an inventory:

    [bold]labyard evse --pairs 4 list[/]   (pairs 0 to 3 of this machine, at the usual ports)

    [bold]labyard evse --gateway http://10.0.0.5:8000 --emulator http://10.0.0.5:8080 list[/]""",
)
app.command(name="list")(cli_group.list_)
app.command()(cli_watch.watch)
app.command()(cli_watch.record)
app.command()(cli_plot.plot)
app.command()(cli_car.connect)
app.command()(cli_car.disconnect)
app.command()(cli_car.charge)
app.command()(cli_car.stop)
app.command()(cli_car.soc)
app.command()(cli_car.fault)
app.command()(cli_car.clear)
app.command()(cli_group.budget)
app.command()(cli_group.discover)


@app.callback()
def choose(
    ctx: typer.Context,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    pairs: Annotated[int, typer.Option(min=0, max=64, help="In place of an inventory: this machine's first N.")] = 0,
    gateway: Annotated[list[str] | None, typer.Option(metavar="URL", help="In place of an inventory.")] = None,
    emulator: Annotated[list[str] | None, typer.Option(metavar="URL", help="One for each --gateway.")] = None,
    user: Annotated[
        str,
        typer.Option(
            envvar="LABYARD_EVSE_USER",
            metavar="NAME:PASSWORD",
            help="For gateways that ask. Others see it here; better in the environment.",
        ),
    ] = "",
) -> None:
    ctx.obj = Where(inventory, pairs, gateway or (), emulator or (), user)
