"""`labyard vms …`: virtual machines by hand, over the VM manager's HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer

from labyard.client.commands import InventoryOption, JsonOption, PlainErrors, print_json, working
from labyard.client.http import ClientError
from labyard.lab import DEFAULT_INVENTORY
from labyard.vms import cli_console, cli_disks, cli_metadata, cli_screenshot, cli_show, cli_templates, cli_vms
from labyard.vms.answers import Check
from labyard.vms.cli_types import client
from labyard.vms.cli_where import Where

app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Make virtual machines, start and stop them, and give them disks while they run.

    [bold]labyard vms templates create small --cpus 1 --memory 512[/]

    [bold]labyard vms create web-1 small --start[/]

    [bold]labyard vms console web-1 --follow[/]

    [bold]labyard vms disks create 5 --label data --attach web-1[/]

    [bold]labyard vms delete web-1[/]

    Where the service is and its token come from the inventory (vms_http_port, vms_api_token). Elsewhere:
    LABYARD_VMS_URL, LABYARD_VMS_TOKEN, or the options below.""",
)
app.add_typer(cli_templates.app, name="templates")
app.command(name="list")(cli_vms.list_)
app.command()(cli_vms.show)
app.command()(cli_vms.create)
app.command()(cli_vms.start)
app.command()(cli_vms.stop)
app.command()(cli_vms.restart)
app.command()(cli_vms.delete)
app.command()(cli_console.console)
app.command()(cli_screenshot.screenshot)
app.add_typer(cli_disks.app, name="disks")
app.add_typer(cli_metadata.app, name="metadata")


@app.callback()
def connect(
    ctx: typer.Context,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    url: Annotated[str, typer.Option(envvar="LABYARD_VMS_URL", help="Where the service is, as http://HOST:8000.")] = "",
    token: Annotated[
        str, typer.Option(envvar="LABYARD_VMS_TOKEN", help="Its token. Others see it here; better in the environment.")
    ] = "",
) -> None:
    ctx.obj = Where(inventory, url, token)


@app.command()
def network(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """The lab network of the VMs, and who has which address."""
    api = client(ctx)
    config = api.network()
    leases = api.leases() if "subnet" in config else []
    if as_data:
        print_json({"config": config, "leases": leases})
    else:
        cli_show.network(config, leases)


@app.command()
def check(
    ctx: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Correct records, and start machines that should run. Removes nothing.")
    ] = False,
    as_data: JsonOption = False,
) -> None:
    """Have the observer compare the database with QEMU and the disk files now. Exits with 1 when it differs.

    [bold]labyard vms check[/]

    [bold]labyard vms check --repair[/]
    """
    with working("looking"):
        api = client(ctx)
        mended = api.repair() if repair else None
        found: Check = mended or api.check()
    if as_data:
        print_json(found)
    else:
        if mended:
            cli_show.mended(mended["repaired"])
        cli_show.check(found)
    if found["error"] or (found["status"] != "ok" and not found["issues"]):
        raise ClientError(f"the observer could not look: {found['error'] or 'it did not say why'}")
    raise typer.Exit(1 if found["issues"] else 0)


@app.command()
def status(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """Is the service well, and libvirt, QEMU and the network? Exits with 1 when something is not."""
    api = client(ctx)
    health = api.health()
    well = health["status"] == "ok"
    if as_data:
        print_json({"url": api.url, "health": health, "observer": api.observer() if well else None})
    else:
        cli_show.status(health, api.url)
        if well:
            cli_show.observed(api.observer())
    raise typer.Exit(0 if well else 1)
