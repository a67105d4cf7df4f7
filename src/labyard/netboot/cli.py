"""`labyard netboot …`: diskless boots by hand, over the service's HTTP API."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from labyard.client.commands import InventoryOption, JsonOption, PlainErrors, console, print_json
from labyard.client.http import ClientError
from labyard.lab import DEFAULT_INVENTORY
from labyard.netboot import cli_boot, cli_images, cli_machines, cli_show
from labyard.netboot.answers import Session
from labyard.netboot.cli_types import MachineArgument, client
from labyard.netboot.cli_where import Where
from labyard.netboot.client import Client
from labyard.netboot.names import dhcp_label

app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Give diskless machines a disk over the network, and take it away again.

    Register a machine and an image once, then start and stop sessions:

    [bold]labyard netboot machines add ws1 --mac 52:54:00:77:00:09 --address 10.77.1.9[/]

    [bold]labyard netboot images add disk.qcow2 --name debian[/]

    [bold]labyard netboot start ws1 debian --wait[/]

    [bold]labyard netboot sessions --watch[/]

    [bold]labyard netboot stop ws1[/]

    Where the service is and the admin's password come from the inventory. Elsewhere: LABYARD_NETBOOT_URL,
    LABYARD_NETBOOT_USER, LABYARD_NETBOOT_PASSWORD, or the options below.""",
)
app.add_typer(cli_machines.app, name="machines")
app.add_typer(cli_images.app, name="images")
app.command()(cli_boot.start)
app.command()(cli_boot.stop)


@app.callback()
def connect(
    ctx: typer.Context,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    url: Annotated[
        str, typer.Option(envvar="LABYARD_NETBOOT_URL", help="Where the service is, as http://HOST:8000.")
    ] = "",
    user: Annotated[str, typer.Option(envvar="LABYARD_NETBOOT_USER", help="Who to log in as.")] = "admin",
    password_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file with the password in its first line."),
    ] = None,
    password: Annotated[str, typer.Option(envvar="LABYARD_NETBOOT_PASSWORD", hidden=True)] = "",
) -> None:
    if password_file:
        password = (password_file.read_text().splitlines() or [""])[0]
    ctx.obj = Where(inventory, url, user, password)


@app.command()
def sessions(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show every change. Ctrl-C ends it.")] = False,
    machine: Annotated[str, typer.Option(help="Only those of this machine.")] = "",
    status: Annotated[str, typer.Option(help="starting, active, stopping, stopped, error or timeout.")] = "",
    last: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    as_data: JsonOption = False,
) -> None:
    """Sessions, newest first, and how far each boot has come.

    [bold]labyard netboot sessions --watch --status active[/]
    """
    api = client(ctx)
    filters: dict[str, Any] = {"limit": last, "status": status}
    if machine:
        filters["machine_id"] = api.machine(machine)["id"]
    if as_data:
        print_json(api.sessions(**filters))
        return
    names = _Names(api)
    found = api.sessions(**filters)
    if not watch:
        if found:
            console.print(cli_show.sessions(found, *names.of(found)))
        else:
            console.print("No session. Start one: labyard netboot start MACHINE IMAGE")
        return
    with Live(cli_show.sessions(found, *names.of(found)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(1)
            found = api.sessions(**filters)
            live.update(cli_show.sessions(found, *names.of(found)), refresh=True)


class _Names:
    """Names of machines and images by id, asked for again only when an id is new."""

    def __init__(self, api: Client) -> None:
        self._api = api
        self._asked: set[tuple[int, int]] = set()
        self._machines: dict[int, str] = {}
        self._images: dict[int, str] = {}

    def of(self, sessions: list[Session]) -> tuple[dict[int, str], dict[int, str]]:
        seen = {(session["machine_id"], session["image_id"]) for session in sessions}
        if not seen <= self._asked:
            self._asked |= seen
            self._machines = {machine["id"]: machine["name"] for machine in self._api.machines()}
            self._images = {image["id"]: image["name"] for image in self._api.images()}
        return self._machines, self._images


@app.command()
def events(
    ctx: typer.Context,
    machine: Annotated[str, typer.Argument(help="Only those of this machine, by name or id.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show more as they come.")] = False,
    last: Annotated[int, typer.Option(min=1, max=1000, help="How many of those that there are.")] = 30,
    as_data: JsonOption = False,
) -> None:
    """What the daemons and the machines told of boots. With --json and --follow, one JSON object a line."""
    api = client(ctx)
    names = {one["id"]: one["name"] for one in api.machines()}
    only = api.machine(machine)["id"] if machine else None
    known = api.events(last, machine_id=only)
    if as_data and not follow:
        print_json(known)
        return
    for event in known:
        _print_event(event, names, as_data)
    if not follow:
        if not known:
            console.print("No event yet. A machine with a session makes some when it is switched on.")
        return
    for new in api.follow(last=known[-1]["id"] if known else None):
        if new is not None and only in (None, new["machine_id"]):
            _print_event(new, names, as_data)


def _print_event(event: Any, names: dict[int, str], as_data: bool) -> None:
    if as_data:
        print(json.dumps(event), flush=True)
    else:
        name = names.get(event["machine_id"], f"machine {event['machine_id']}")
        console.print(cli_show.event_line(event, name), soft_wrap=True)


@app.command()
def script(ctx: typer.Context, machine: MachineArgument) -> None:
    """The iPXE script that the machine gets, secret included for operators: what stands on TFTP."""
    api = client(ctx)
    print(api.script(api.machine(machine)["id"])["script_content"], end="")


@app.command()
def reservations(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Only that of this machine: name, host label or MAC.")] = "",
    as_data: JsonOption = False,
) -> None:
    """What is set in the DHCP server for live sessions, asked of the server itself.

    With a name that has none, it exits with 1: so a script can ask, as with grep in a dhcpd.conf.
    """
    found = client(ctx).reservations()
    if name:
        found = [one for one in found if name.lower() == one["mac_address"].lower() or dhcp_label(name) == one["label"]]
    if as_data:
        print_json(found)
    elif found or not name:
        cli_show.reservations(found)
    if name and not found:
        raise ClientError(f"no reservation is set for {name}; a machine has one while its session lives")


@app.command()
def status(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """Is the service well, and DHCP, TFTP and iSCSI? Exits with 1 when something is not."""
    api = client(ctx)
    found = api.status()
    if as_data:
        print_json({"url": api.url} | found)
    else:
        cli_show.status(found, api.url)
    raise typer.Exit(0 if found["health"]["status"] == "healthy" else 1)


@app.command()
def check(
    ctx: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is found.")] = False,
    as_data: JsonOption = False,
) -> None:
    """Compare what the database wants with what DHCP, TFTP, iSCSI and the disks have. Exits with 1 when it differs."""
    found = client(ctx).check(repair)
    if as_data:
        print_json(found)
    else:
        cli_show.report(found, repair)
    raise typer.Exit(1 if len(found["findings"]) > len(found["repaired"]) else 0)


@app.command()
def passwd(
    ctx: typer.Context,
    new_password_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The new one, in its first line. Else it asks.")
    ] = None,
) -> None:
    """Change your password: 8 characters or more, with 3 of upper case, lower case, digits, others."""
    api = client(ctx)
    if new_password_file:
        new = (new_password_file.read_text().splitlines() or [""])[0]
    else:
        new = typer.prompt("New password", hide_input=True, confirmation_prompt=True)
    api.change_password(new)
    console.print("Changed. The commands find it in LABYARD_NETBOOT_PASSWORD or a --password-file.")
    secret = ctx.obj.secret_file
    if secret is not None:
        console.print(f"For admin they take it from {secret}: write it there.", highlight=False, soft_wrap=True)
