"""What the commands of `labyard desktops` share."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from labyard.client.commands import console, table
from labyard.desktops.client import Client, Thing

ServerArgument = Annotated[str, typer.Argument(metavar="SERVER", help="An RDP server: its id, or its name.")]
ServerArguments = Annotated[list[str], typer.Argument(metavar="SERVER...", help="RDP servers: id, or name.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="A node: its name, or its id.")]
NodeArguments = Annotated[list[str], typer.Argument(metavar="NODE...", help="Nodes: name, or id.")]
PootArguments = Annotated[
    list[str], typer.Argument(metavar="POOT...", help="Ids, as `submit` and `history` tell them.")
]
HistoryOption = Annotated[
    str, typer.Option("--history", metavar="DURATION", help="Every sample since then: 90s, 10m, 6h, 2d. At most 30d.")
]

MIB = 2**20
GIB = 2**30


def client(ctx: typer.Context) -> Client:
    """The client of the service that the command line named."""
    found: Client = ctx.obj.client
    return found


def facts(rows: list[tuple[str, Any]]) -> None:
    """What is known of one thing; a line without a value is left out."""
    table(("What", "Value"), [row for row in rows if row[1] not in (None, "", [])], "")


def usage(samples: list[Thing]) -> None:
    """Measured usage, one line for each sample."""
    rows = [
        (
            moment(one["timestamp"]),
            percent(one["cpu_percent"]),
            percent(one["memory_percent"]),
            percent(one["disk_percent"]),
            rate(one["network_in"]),
            rate(one["network_out"]),
            f"{one['source']}, shared" if one["shared"] else one["source"],
        )
        for one in samples
    ]
    headings = ("At", "Processor", "Memory", "Disk", "In", "Out", "Measured by")
    table(headings, rows, "Nothing was measured in that time.")


def alerts(found: Thing) -> None:
    """Those that are on."""
    for one in found["active_alerts"]:
        text = f"[yellow]{one['severity']}[/] since {moment(one['created_at'])}: {escape(one['message'])}"
        console.print(text, highlight=False, soft_wrap=True)


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def rate(value: float | None) -> str:
    return "" if value is None else f"{value / 1000:.1f} kB/s"


def gib(value: int) -> str:
    return f"{value / GIB:.1f} GiB"


def moment(value: str | None) -> str:
    return value[:19].replace("T", " ") if value else ""


def sums(found: Thing) -> list[tuple[str, Any]]:
    """What statistics of nodes have in common."""
    return [
        ("nodes", f"{found['total_nodes']}: {found['active_nodes']} active, {found['inactive_nodes']} not"),
        ("processor cores", found["total_cpu_cores"]),
        ("memory", gib(found["total_memory_bytes"])),
        ("storage", gib(found["total_storage_bytes"])),
    ]
