"""`labyard faas …`: functions by hand, over the daemon's control API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labyard.client.commands import InventoryOption, PlainErrors
from labyard.client.http import ClientError
from labyard.faas_cli import deploy, functions, history, invoke
from labyard.faas_cli.where import Where
from labyard.lab import DEFAULT_INVENTORY

app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Make functions of container images, ask them, and see what became of each request.

    [bold]labyard faas deploy hello image.tar[/]   (or the name of an image of Docker)

    [bold]labyard faas invoke hello /some/path[/]

    [bold]labyard faas logs hello[/]

    [bold]labyard faas stats[/]

    [bold]labyard faas rm hello[/]

    Where the daemon is and its token come from the inventory: the first host with faas among its lab_roles. Elsewhere:
    LABYARD_FAAS_URL, LABYARD_FAAS_TOKEN or LABYARD_FAAS_TOKEN_FILE, or the options below.""",
)
app.command(name="deploy")(deploy.deploy)
app.command(name="list")(functions.list_)
app.command()(functions.show)
app.command(name="invoke")(invoke.invoke)
app.command()(history.logs)
app.command()(history.stats)
app.command()(functions.rm)
app.command()(functions.check)


@app.callback()
def connect(
    ctx: typer.Context,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    url: Annotated[str, typer.Option(envvar="LABYARD_FAAS_URL", help="Where the daemon is, as http://HOST:8080.")] = "",
    token: Annotated[
        str, typer.Option(envvar="LABYARD_FAAS_TOKEN", help="Its token. Others see it here; better in a file.")
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(envvar="LABYARD_FAAS_TOKEN_FILE", help="A file with its token.")
    ] = None,
) -> None:
    if token_file and not token:
        try:
            token = token_file.read_text().strip()
        except OSError as error:
            raise ClientError(f"{token_file}: {error.strerror}") from error
    ctx.obj = Where(inventory, url, token)
