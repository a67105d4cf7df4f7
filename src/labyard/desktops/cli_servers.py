"""`labyard desktops servers …`: RDP servers by hand."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, state, table, working
from labyard.client.http import ClientError
from labyard.desktops.cli_screenshot import screenshot
from labyard.desktops.cli_types import (
    HistoryOption,
    ServerArgument,
    ServerArguments,
    alerts,
    client,
    facts,
    moment,
)
from labyard.desktops.cli_types import usage as shown_usage
from labyard.desktops.client import Client, Thing

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""RDP servers: each is a real desktop with limits of its own.

    [bold]labyard desktops servers create demo --start[/]

    [bold]labyard desktops servers credentials demo[/]

    [bold]labyard desktops servers screenshot demo -o demo.png[/]

    [bold]labyard desktops servers delete demo[/]""",
)
app.command()(screenshot)
NOTHING = "No RDP server. Make one: labyard desktops servers create NAME --start"
LoginOption = Annotated[str, typer.Option(help="Try this user, whose password is asked for; else its own account.")]


class Desktop(StrEnum):
    """What a desktop may be (contract 6.2)."""

    XFCE = "xfce"
    GNOME = "gnome"
    KDE = "kde"
    LXDE = "lxde"
    ICEWM = "icewm"


@app.command(name="list")
def list_(
    ctx: typer.Context,
    status: Annotated[str, typer.Option(help="Only those that are running, stopped, error.")] = "",
    user: Annotated[str, typer.Option(help="Only those for this user.")] = "",
    node: Annotated[str, typer.Option(help="Only those on this node: its id.")] = "",
    as_data: JsonOption = False,
) -> None:
    """The RDP servers, with state and address.

    [bold]labyard desktops servers list --status running[/]
    """
    found = client(ctx).servers(status=status, user_id=user, node_id=node)
    if as_data:
        print_json(found)
        return
    rows = [
        (one["server_id"], one["name"], state(one["status"]), _address(one), one["user_id"], one["node_id"])
        for one in found
    ]
    empty = "No RDP server is like that." if status or user or node else NOTHING
    table(("Server", "Name", "Status", "Address", "For", "Node"), rows, empty)


@app.command()
def show(ctx: typer.Context, server: ServerArgument, as_data: JsonOption = False) -> None:
    """All there is to tell of one: limits and who enforces them, its units, who is connected, who records it."""
    api = client(ctx)
    found = api.server(server)
    server_id = found["server_id"]
    units, users, warned = (api.of_server(server_id, what) for what in ("service-status", "sessions", "alerts"))
    if as_data:
        print_json({**found, "service_status": units, "sessions": users, "alerts": warned})
        return
    given = found["configuration"]
    enforced = {name: how for name, how in (found["enforcement"] or {}).items() if name != "reasons"}
    facts(
        [
            ("server", server_id),
            ("name", found["name"]),
            ("about", found["description"]),
            ("status", state(found["status"])),
            ("address", _address(found)),
            ("for", found["user_id"]),
            ("node", found["node_id"]),
            ("desktop", f"{found['desktop_effective'] or 'not started yet'}; asked for: {json.dumps(given)}"),
            ("limits", _limits(found["resources"])),
            ("enforced by", ", ".join(f"{name}: {how}" for name, how in enforced.items())),
            ("units", ", ".join(f"{name} {units[f'{key}_status']}" for name, key in UNITS.items())),
            ("started", moment(found["last_started_at"])),
            ("stopped", moment(found["last_stopped_at"])),
            *(("client", f"{one['peer']} since {moment(one['connected_at'])}") for one in users["connections"]),
            *(("recorded by", f"{one['session_id']} ({one['name']})") for one in users["active_sessions"]),
        ]
    )  # fmt: skip
    alerts(warned)
    if found["restart_required"]:
        console.print(f"Its configuration was changed: labyard desktops servers restart {_word(server)}")


UNITS = {"xrdp": "xrdp", "sesman": "xrdp_sesman", "Xorg": "xorg"}


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is to be called.")],
    user: Annotated[str, typer.Option(help="Whom it is for.")] = "labyard",
    desktop: Annotated[
        Desktop, typer.Option(help="Which desktop. One that its node lacks becomes icewm; `show` says so.")
    ] = Desktop.XFCE,
    resolution: Annotated[str, typer.Option(metavar="WxH", help="640x480 to 7680x4320.")] = "1920x1080",
    color_depth: Annotated[int, typer.Option(help="16, 24 or 32 bits.")] = 24,
    cpu: Annotated[float, typer.Option(min=0.1, max=8, help="Cores.")] = 1.0,
    memory: Annotated[int, typer.Option(min=512, max=16384, help="MiB.")] = 2048,
    disk: Annotated[int, typer.Option(min=1024, max=102400, help="MiB.")] = 10240,
    bandwidth: Annotated[int, typer.Option(min=100, max=10000, help="Mbit/s.")] = 1000,
    about: Annotated[str, typer.Option(help="What it is for.")] = "",
    start_: Annotated[bool, typer.Option("--start", help="Start it, too.")] = False,
    as_data: JsonOption = False,
) -> None:
    """Make an RDP server. It gets a port and an account of its own, and keeps both until it is deleted.

    [bold]labyard desktops servers create demo --cpu 2 --memory 4096 --resolution 1600x900 --start[/]
    """
    api = client(ctx)
    shape = {"desktop_environment": desktop.value, "resolution": resolution, "color_depth": color_depth}
    limits = {"cpu_limit": cpu, "memory_limit": memory, "disk_limit": disk, "network_bandwidth": bandwidth}
    body = {"name": name, "description": about, "user_id": user, "configuration": shape, "resources": limits}
    made = api.create_server(body)
    server_id = made["server_id"]
    if not as_data:
        console.print(f"[bold]{escape(name)}[/] is made: {server_id}, port {made['port']}.", highlight=False)
    if start_:
        try:
            _start(api, made, quietly=as_data)
        except ClientError as error:
            how = f"it is kept; again: labyard desktops servers start {server_id}"
            raise ClientError(f"{name} is made, but does not start: {error}; {how}", error.status) from error
    if as_data:
        print_json(api.server(server_id))


@app.command()
def start(ctx: typer.Context, servers: ServerArguments) -> None:
    """Start RDP servers, one after the other. Each is up when a client can connect.

    [bold]labyard desktops servers start demo[/]
    """
    api = client(ctx)
    for name in servers:
        _start(api, api.server(name))


@app.command()
def stop(ctx: typer.Context, servers: ServerArguments) -> None:
    """Stop RDP servers and all that runs on their desktops. One that is recorded is refused: stop its session first."""
    _each(ctx, servers, "stop", "stopping", "is stopped")


@app.command()
def restart(ctx: typer.Context, servers: ServerArguments) -> None:
    """Stop RDP servers and start them: a changed configuration counts from then on."""
    _each(ctx, servers, "restart", "restarting", "is running")


@app.command()
def delete(ctx: typer.Context, servers: ServerArguments) -> None:
    """Delete RDP servers, running or not, with their accounts, homes and ports.

    [bold]labyard desktops servers delete demo[/]
    """
    api = client(ctx)
    for name in servers:
        found = api.server(name)
        with working(f"deleting {name}"):
            api.delete_server(found["server_id"])
        console.print(f"[bold]{escape(name)}[/] is deleted.", highlight=False)


@app.command()
def test(ctx: typer.Context, server: ServerArgument, user: LoginOption = "", as_data: JsonOption = False) -> None:
    """Negotiate and log in for real. Exits with 1 when that does not work.

    [bold]labyard desktops servers test demo[/]
    """
    api = client(ctx)
    found = api.server(server)
    password = typer.prompt("Password", hide_input=True, err=True) if user else ""
    with working(f"trying {server}"):
        seen = api.test_server(found["server_id"], user, password)
    well = seen["connection_available"] and seen["login"]["succeeded"]
    if as_data:
        print_json(seen)
        raise typer.Exit(0 if well else 1)
    login, tls = seen["login"], seen["tls"] or {}
    facts(
        [
            ("port", "open" if seen["port_open"] else "closed"),
            ("protocol", seen["protocol"]),
            ("TLS", f"{tls['version']}, {tls['cipher']}" if tls else None),
            ("certificate", tls.get("certificate_sha256")),
            ("login", "good" if login["succeeded"] else "refused" if login["attempted"] else "not tried"),
            ("why", login["reason"]),
            ("answered after", None if seen["latency_ms"] is None else f"{seen['latency_ms']:.0f} ms"),
        ]
    )
    if found["status"] != "running":
        console.print(f"It is {found['status']}: labyard desktops servers start {_word(server)}", highlight=False)
    raise typer.Exit(0 if well else 1)


@app.command()
def usage(ctx: typer.Context, server: ServerArgument, history: HistoryOption = "", as_data: JsonOption = False) -> None:
    """What it uses: processor in percent of one core, memory and disk in percent of its limits.

    [bold]labyard desktops servers usage demo --history 10m[/]
    """
    api = client(ctx)
    server_id = api.server(server)["server_id"]
    if history:
        samples = api.of_server(server_id, "usage/history", duration=history)["usage_history"]
    else:
        samples = [api.of_server(server_id, "usage")]
    if as_data:
        print_json(samples if history else samples[0])
        return
    shown_usage(samples)
    alerts(api.of_server(server_id, "alerts"))


@app.command()
def credentials(ctx: typer.Context, server: ServerArgument, as_data: JsonOption = False) -> None:
    """Who may log in, and how to connect. Reading them is on the service's audit log."""
    api = client(ctx)
    there = api.server(server)
    found = api.of_server(there["server_id"], "credentials")
    if as_data:
        print_json(found)
        return
    facts(
        [
            ("host", found["host"]),
            ("port", found["port"]),
            ("user", found["username"]),
            ("password", found["password"]),
            ("certificate, SHA-256", found["certificate_sha256"]),
        ]
    )
    how = f"xfreerdp /v:{ctx.obj.reach(there)}:{found['port']} /u:{found['username']} /sec:tls"
    console.print(f"{how}   (it asks for the password)", highlight=False, soft_wrap=True)


def _start(api: Client, server: Thing, quietly: bool = False) -> None:
    with working(f"starting {server['name']}: session manager, desktop, first RDP negotiation"):
        api.turn_server(server["server_id"], "start")
    if quietly:
        return
    how = f"log in: labyard desktops servers credentials {_word(server['server_id'])}"
    text = f"[bold]{escape(server['name'])}[/] is running at {_address(server)}; {how}"
    console.print(text, highlight=False, soft_wrap=True)


def _each(ctx: typer.Context, servers: list[str], verb: str, doing: str, done: str) -> None:
    api = client(ctx)
    for name in servers:
        found = api.server(name)
        with working(f"{doing} {name}"):
            api.turn_server(found["server_id"], verb)
        console.print(f"[bold]{escape(name)}[/] {done}.", highlight=False)


def _address(server: Thing) -> str:
    return f"{server['host']}:{server['port']}"


def _limits(given: Thing) -> str:
    cores, memory, disk = (given[f"{name}_limit"] for name in ("cpu", "memory", "disk"))
    return f"{cores:g} cores, {memory} MiB, {disk} MiB of disk, {given['network_bandwidth']} Mbit/s"


def _word(text: str) -> str:
    return escape(shlex.quote(text))
