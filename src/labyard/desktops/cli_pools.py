"""`labyard desktops pools …`: which nodes belong together."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, table
from labyard.desktops.cli_types import client, facts, sums

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Pools of nodes. A node is in exactly one.

    [bold]labyard desktops pools list[/]

    [bold]labyard desktops nodes move rack-1 pool_compute[/]""",
)


@app.command(name="list")
def list_(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """The pools, and how full they are."""
    found = client(ctx).pools()
    if as_data:
        print_json(found)
        return
    rows = [
        (one["pool_id"], one["name"], f"{one['node_count']} of {one['max_nodes']}", one["description"]) for one in found
    ]
    table(("Pool", "Name", "Nodes", "About"), rows, "No pool.")


@app.command()
def show(
    ctx: typer.Context,
    pool: Annotated[str, typer.Argument(metavar="POOL", help="A pool's id, as pool_workers.")],
    as_data: JsonOption = False,
) -> None:
    """What the nodes of a pool have together."""
    api = client(ctx)
    found, total = api.pool(pool), api.pool_statistics(pool)
    if as_data:
        print_json({**found, "statistics": total})
        return
    average = total["average_reputation"]
    facts(
        [
            ("pool", found["pool_id"]),
            ("name", found["name"]),
            ("about", found["description"]),
            ("room for", f"{found['max_nodes'] - found['node_count']} more"),
            *sums(total),
            ("average reputation", None if average is None else f"{average:.1f}"),
        ]
    )


@app.command()
def create(
    ctx: typer.Context,
    pool: Annotated[str, typer.Argument(metavar="POOL", help="Its id: pool_ and letters, digits, '-', '_'.")],
    name: Annotated[str, typer.Option(help="What people call it; without one, its id.")] = "",
    about: Annotated[str, typer.Option(help="What it is for.")] = "",
    max_nodes: Annotated[int, typer.Option(min=1, max=1000, help="How many nodes it takes.")] = 100,
    as_data: JsonOption = False,
) -> None:
    """Make a pool. It needs a token of an administrator.

    [bold]LABYARD_DESKTOPS_TOKEN=$(labyard desktops token --roles admin) labyard desktops pools create pool_gpu[/]
    """
    body = {"pool_id": pool, "name": name or pool, "description": about, "max_nodes": max_nodes}
    made = client(ctx).create_pool(body)
    if as_data:
        print_json(made)
    else:
        console.print(f"[bold]{made['pool_id']}[/] is made.", highlight=False)


@app.command()
def delete(
    ctx: typer.Context, pool: Annotated[str, typer.Argument(metavar="POOL", help="The id of one without nodes.")]
) -> None:
    """Delete an empty pool. It needs a token of an administrator."""
    client(ctx).delete_pool(pool)
    console.print(f"[bold]{escape(pool)}[/] is deleted.", highlight=False)
