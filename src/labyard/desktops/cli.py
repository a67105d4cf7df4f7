"""`labyard desktops …`: remote desktops and their recordings by hand, over the service's HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer

from labyard.client.commands import InventoryOption, JsonOption, PlainErrors, console, print_json, state, table
from labyard.desktops import cli_access, cli_nodes, cli_pools, cli_poot, cli_servers, cli_sessions
from labyard.desktops.cli_where import Where
from labyard.lab import DEFAULT_INVENTORY

app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Make remote desktops, record them, prove the recordings, and play them.

    [bold]labyard desktops servers create demo --start[/]

    [bold]labyard desktops record Demo --seconds 10[/]

    [bold]labyard desktops verify sess-0123456789abcdef[/]

    [bold]labyard desktops export sess-0123456789abcdef -o demo.mp4[/]

    [bold]labyard desktops nodes list[/]

    Where the service is and a token come from the lab's host. Elsewhere: LABYARD_DESKTOPS_URL and
    LABYARD_DESKTOPS_TOKEN, which `login` prints; or the options below.""",
)
for command in (
    cli_sessions.sessions,
    cli_sessions.show,
    cli_sessions.record,
    cli_sessions.start,
    cli_sessions.stop,
    cli_sessions.pause,
    cli_sessions.resume,
    cli_sessions.verify,
    cli_sessions.export,
    cli_sessions.delete,
):
    app.command()(command)
app.add_typer(cli_servers.app, name="servers")
app.add_typer(cli_nodes.app, name="nodes")
app.add_typer(cli_pools.app, name="pools")
app.add_typer(cli_poot.app, name="poot")
app.command()(cli_access.login)
app.command()(cli_access.logout)
app.command()(cli_access.token)


@app.callback()
def connect(
    ctx: typer.Context,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    url: Annotated[
        str, typer.Option(envvar="LABYARD_DESKTOPS_URL", help="Where the service is, as https://HOST:8443.")
    ] = "",
    token: Annotated[
        str,
        typer.Option(envvar="LABYARD_DESKTOPS_TOKEN", help="Its token. Others see it here; better in the environment."),
    ] = "",
) -> None:
    ctx.obj = Where(inventory, url, token)


@app.command()
def status(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """Is the service well, and what it stands on? Exits with 1 when something is not."""
    api = ctx.obj.stranger
    found = api.ready()
    if as_data:
        print_json({"url": api.url, **found})
    else:
        rows = [
            (
                name,
                state(one["status"]),
                one.get("detail"),
                f"{one['latency_ms']:.0f} ms" if "latency_ms" in one else "",
            )
            for name, one in found["checks"].items()
        ]
        table(("Part", "Health", "What", "Answered after"), rows, "")
        console.print(f"desktops at {api.url} is {found['status']}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found["status"] == "ready" else 1)
