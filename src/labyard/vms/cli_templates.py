"""`labyard vms templates`: how many CPUs and how much memory VMs get."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json
from labyard.vms import cli_show
from labyard.vms.cli_types import client

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def templates(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """The templates; and: create, delete. A template never changes.

    [bold]labyard vms templates[/]
    """
    if ctx.invoked_subcommand:
        return
    found = client(ctx).templates()
    if as_data:
        print_json(found)
    else:
        cli_show.templates(found)


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="1 to 128 characters, no '/'.")],
    cpus: Annotated[int, typer.Option(min=1, max=255, help="How many CPUs.")] = 1,
    memory: Annotated[int, typer.Option(min=1, max=1048576, help="MiB of memory.")] = 512,
    as_data: JsonOption = False,
) -> None:
    """Make a template.

    [bold]labyard vms templates create medium --cpus 2 --memory 1024[/]
    """
    made = client(ctx).create_template(name, cpus, memory)
    if as_data:
        print_json(made)
    else:
        console.print(f"[bold]{escape(name)}[/] is made: {cli_show.sizes(made)}.", highlight=False)


@app.command()
def delete(ctx: typer.Context, templates: Annotated[list[str], typer.Argument(help="Names of templates.")]) -> None:
    """Delete templates. One that a VM was made from stays; delete the VM first."""
    for name in templates:
        client(ctx).delete_template(name)
        console.print(f"[bold]{escape(name)}[/] is deleted.", highlight=False)
