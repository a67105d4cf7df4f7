"""`labyard netboot machines`: which machines there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from labyard.client.commands import JsonOption, console, print_json
from labyard.netboot import cli_show
from labyard.netboot.cli_types import Firmware, MachineArgument, MachineStatus, client

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")

Address = Annotated[str | None, typer.Option(help="Its fixed IPv4 address; without one, DHCP's pool gives one.")]
Description = Annotated[str | None, typer.Option(help="A note of yours.")]
Location = Annotated[str | None, typer.Option(help="Where it stands.")]
Room = Annotated[str | None, typer.Option(help="Its room.")]
Tag = Annotated[str | None, typer.Option(help="Its asset tag.")]
BmcUrl = Annotated[str | None, typer.Option(help="Its system in Redfish, as https://10.0.0.5/redfish/v1/Systems/1.")]
BmcUser = Annotated[str | None, typer.Option(help="Who may use its BMC.")]
# Not the password itself: everybody on this machine can read a command line.
BmcPasswordFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="A file with that user's password in its first line."),
]
BmcVerifyTls = Annotated[
    bool | None,
    typer.Option(
        "--bmc-verify-tls/--no-bmc-verify-tls", help="Whether its certificate is checked.", show_default=False
    ),
]
Host = Annotated[str | None, typer.Option(help="Its host name.")]


@app.callback()
def machines(
    ctx: typer.Context,
    search: Annotated[str, typer.Option(help="Part of name, MAC, host name, location or asset tag.")] = "",
    as_data: JsonOption = False,
) -> None:
    """The registered machines, newest first; and: add, set, rm.

    [bold]labyard netboot machines --search ws[/]
    """
    if ctx.invoked_subcommand:
        return
    found = client(ctx).machines(search)
    if as_data:
        print_json(found)
    elif search and not found:
        console.print("No machine has that in it.")
    else:
        cli_show.machines(found)


@app.command()
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Letters, digits, space, '.', '_', '-'.")],
    mac: Annotated[str, typer.Option(help="12 hex digits, bare or with ':' or '-'.")],
    address: Address = None,
    firmware: Annotated[Firmware, typer.Option(help="What it boots with.")] = Firmware.UEFI,
    hostname: Host = None,
    description: Description = None,
    location: Location = None,
    room: Room = None,
    asset_tag: Tag = None,
    bmc_url: BmcUrl = None,
    bmc_username: BmcUser = None,
    bmc_password_file: BmcPasswordFile = None,
    bmc_verify_tls: BmcVerifyTls = None,
    as_data: JsonOption = False,
) -> None:
    """Register a machine.

    [bold]labyard netboot machines add ws1 --mac 52:54:00:77:00:09 --address 10.77.1.9 --firmware bios[/]

    With its BMC, so that `start --power cycle` can switch it on:

    [bold]labyard netboot machines add ws2 --mac 52:54:00:77:00:0a --bmc-url https://10.0.0.5 --bmc-username admin
    --bmc-password-file secret[/]
    """
    given = {"name": name, "mac_address": mac, "ip_address": address, "boot_mode": firmware.value}
    notes = {"hostname": hostname, "description": description, "location": location, "room": room}
    bmc = _bmc(bmc_url, bmc_username, bmc_password_file, bmc_verify_tls)
    made = client(ctx).add_machine(**given, **notes, asset_tag=asset_tag, **bmc)
    if as_data:
        print_json(made)
    else:
        console.print(f"[bold]{made['name']}[/] is machine {made['id']}.", highlight=False)


@app.command(name="set")
def set_(
    ctx: typer.Context,
    machine: MachineArgument,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    mac: Annotated[str | None, typer.Option(help="Another hardware address.")] = None,
    address: Address = None,
    firmware: Annotated[Firmware | None, typer.Option(help="What it boots with.")] = None,
    status: Annotated[MachineStatus | None, typer.Option(help="Only an active machine can get a session.")] = None,
    hostname: Host = None,
    description: Description = None,
    location: Location = None,
    room: Room = None,
    asset_tag: Tag = None,
    bmc_url: BmcUrl = None,
    bmc_username: BmcUser = None,
    bmc_password_file: BmcPasswordFile = None,
    bmc_verify_tls: BmcVerifyTls = None,
) -> None:
    """Change a machine; what is not named stays, and an empty text clears.

    [bold]labyard netboot machines set ws1 --status maintenance --room "Lab 2"[/]

    [bold]labyard netboot machines set ws1 --address ""[/]
    """
    given: dict[str, Any] = {
        "name": name,
        "mac_address": mac,
        "ip_address": address,
        "boot_mode": firmware.value if firmware else None,
        "status": status.value if status else None,
        "hostname": hostname,
        "description": description,
        "location": location,
        "room": room,
        "asset_tag": asset_tag,
    }
    changes = {field: value or None for field, value in given.items() if value is not None}
    changes |= _bmc(bmc_url, bmc_username, bmc_password_file, bmc_verify_tls)
    if not changes:
        raise typer.BadParameter("say what to change; --help lists it")
    api = client(ctx)
    changed = api.set_machine(api.machine(machine)["id"], **changes)
    console.print(f"[bold]{changed['name']}[/] is changed.", highlight=False)


@app.command()
def rm(ctx: typer.Context, machines: Annotated[list[str], typer.Argument(help="Machines, by name or id.")]) -> None:
    """Remove machines. One with a live session stays; stop that first."""
    api = client(ctx)
    for machine in [api.machine(name) for name in machines]:
        api.remove_machine(machine["id"])
        console.print(f"[bold]{machine['name']}[/] is removed.", highlight=False)


def _bmc(url: str | None, username: str | None, password_file: Path | None, verify_tls: bool | None) -> dict[str, Any]:
    """The fields that were named; an empty text clears."""
    texts = {"bmc_url": url, "bmc_username": username}
    given: dict[str, Any] = {field: value or None for field, value in texts.items() if value is not None}
    if password_file is not None:
        given["bmc_password"] = (password_file.read_text().splitlines() or [""])[0]
    if verify_tls is not None:
        given["bmc_verify_tls"] = verify_tls
    return given
