"""`labyard faas deploy`."""

from __future__ import annotations

import shlex
import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from labyard.client.commands import JsonOption, console, print_json, progress
from labyard.faas_cli import show
from labyard.faas_cli.archive import Archive, archive_of
from labyard.faas_cli.cli_types import client
from labyard.faas_cli.client import Client, Document

LIMITS = "Limits of each request; without, the host's"


def deploy(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_', '-'; at most 63.")],
    image: Annotated[
        str,
        typer.Argument(metavar="IMAGE", help="An archive (docker save, OCI layout), an image of Docker here, or -."),
    ],
    memory: Annotated[str, typer.Option(help="Such as 256M.", rich_help_panel=LIMITS)] = "",
    cpu: Annotated[str, typer.Option(help="Cores, such as 0.5.", rich_help_panel=LIMITS)] = "",
    pids: Annotated[str, typer.Option(help="Processes and threads.", rich_help_panel=LIMITS)] = "",
    tmp: Annotated[str, typer.Option(help="What fits into /tmp, such as 16M.", rich_help_panel=LIMITS)] = "",
    timeout: Annotated[str, typer.Option(help="Seconds from the connection to its end.", rich_help_panel=LIMITS)] = "",
    concurrency: Annotated[str, typer.Option(help="Requests at once; more wait.", rich_help_panel=LIMITS)] = "",
    warm: Annotated[str, typer.Option(help="Handlers that are started ahead; 0: none.", rich_help_panel=LIMITS)] = "",
    as_data: JsonOption = False,
) -> None:
    """Make a function of an image, or its next version. It has an address of its own, which it keeps.

    [bold]labyard faas deploy hello image.tar[/]

    [bold]labyard faas deploy hello my-handler:latest --memory 64M --warm 2[/]

    [bold]docker save my-handler | ssh build labyard faas deploy hello -[/]

    A request runs the image's command in a container of its own. It connects to /control.sock, is handed the client's
    connection, answers and ends: docs/faas.md has one in ten lines. When a deploy fails, the version before goes on.
    """
    given = {
        "memory": memory,
        "cpu": cpu,
        "pids": pids,
        "tmp": tmp,
        "timeout": timeout,
        "concurrency": concurrency,
        "warm": warm,
    }
    limits = {limit: value for limit, value in given.items() if value}
    api, archive = client(ctx), archive_of(image)
    began = time.monotonic()
    deployed = _send(api, name, archive, limits)
    if as_data:
        print_json(deployed)
    else:
        _tell(deployed, archive.sent, time.monotonic() - began)


def _send(api: Client, name: str, archive: Archive, limits: dict[str, str]) -> Document:
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with progress(*columns, transient=True) as bars:
        task = bars.add_task("upload", total=archive.about)

        def report(sent: int) -> None:
            over = archive.about is not None and sent >= archive.about
            bars.update(task, completed=sent, description="unpack" if over else "upload")

        archive.report = report
        return api.deploy(name, archive, limits)


def _tell(deployed: Document, sent: int, seconds: float) -> None:
    name = escape(deployed["name"])
    console.print(f"[green]✔[/] [bold]{name}[/] answers at {deployed['ip']}", highlight=False)
    what = "the same content was there already" if deployed["reused"] else "unpacked"
    console.print(f"  command  {escape(shlex.join(deployed['cmd']))}", highlight=False, soft_wrap=True)
    console.print(f"  image    {show.size(sent)} in {seconds:.1f} s, {what}", highlight=False)
    if missing := deployed.get("not_enforced"):
        console.print(f"  [yellow]limits   this host cannot enforce: {', '.join(missing)}[/]", highlight=False)
    console.print(f"Ask it: labyard faas invoke {shlex.quote(deployed['name'])}", highlight=False, soft_wrap=True)
