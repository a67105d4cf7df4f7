"""`labyard vms list`, `show`, `create`, `start`, `stop`, `restart` and `delete`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, public_key, working
from labyard.client.http import ClientError
from labyard.vms import cli_show
from labyard.vms.cli_types import (
    HostnameOption,
    SshKeyOption,
    State,
    UserDataOption,
    VmArgument,
    VmArguments,
    client,
)
from labyard.vms.client import Client


def list_(
    ctx: typer.Context,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    as_data: JsonOption = False,
) -> None:
    """The VMs, with state and address.

    [bold]labyard vms list --state running[/]
    """
    found = client(ctx).vms(state.value if state else "")
    if as_data:
        print_json(found)
    else:
        cli_show.vms(found, f"No VM is {state}." if state else "No VM. Make one: labyard vms create NAME TEMPLATE")


def show(ctx: typer.Context, vm: VmArgument, as_data: JsonOption = False) -> None:
    """All there is to tell of one VM: addresses, UUID for Redfish, disks."""
    api = client(ctx)
    found = api.vm(vm)
    disks = [disk for disk in api.disks() if disk["vm_id"] == found["id"]]
    if as_data:
        print_json(found | {"disks": disks})
    else:
        cli_show.vm(found, api.metadata(vm), disks)


def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_', '-'; at most 63.")],
    template: Annotated[str, typer.Argument(help="A template: how many CPUs and how much memory.")],
    hostname: HostnameOption = None,
    ssh_key: SshKeyOption = None,
    user_data: UserDataOption = None,
    start_: Annotated[bool, typer.Option("--start", help="Start it, too.")] = False,
    as_data: JsonOption = False,
) -> None:
    """Make a VM from a template.

    [bold]labyard vms create web-1 small --start[/]

    [bold]labyard vms create web-2 small --ssh-key ~/.ssh/id_ed25519.pub --user-data web.yml[/]
    """
    api = client(ctx)
    keys = [public_key(text) for text in ssh_key or []]
    told = guest(hostname, keys if ssh_key else None, user_data)
    with working(f"making {name}"):
        api.create_vm(name, template)
    if told:
        try:
            api.set_metadata(name, **told)
        except ClientError as error:
            how = f"mend it and go on: labyard vms metadata set {shlex.quote(name)}"
            raise ClientError(f"{name} is made, but its metadata is refused: {error}; {how}") from error
    if not as_data:
        console.print(f"[bold]{escape(name)}[/] is made from {escape(template)}.", highlight=False)
    if start_:
        _start(api, name, quietly=as_data)
    if as_data:
        print_json(api.vm(name))


def guest(hostname: str | None, keys: list[str] | None, user_data: Path | None) -> dict[str, str]:
    """What was given to tell the guest, as the service takes it."""
    given = {
        "hostname": hostname,
        "ssh_keys": None if keys is None else "\n".join(keys),
        "user_data": None if user_data is None else user_data.read_text(),
    }
    return {name: value for name, value in given.items() if value is not None}


def start(ctx: typer.Context, vms: VmArguments) -> None:
    """Start VMs, one after the other.

    [bold]labyard vms start web-1 web-2[/]
    """
    for name in vms:
        _start(client(ctx), name)


def stop(
    ctx: typer.Context,
    vms: VmArguments,
    force: Annotated[bool, typer.Option("--force", help="Pull the plug: do not ask the guest.")] = False,
) -> None:
    """Stop VMs. The guest is asked; one that does not go in time is switched off.

    [bold]labyard vms stop web-1 --force[/]
    """
    for name in vms:
        with working(f"stopping {name}"):
            client(ctx).stop(name, force)
        console.print(f"[bold]{escape(name)}[/] is stopped.", highlight=False)


def restart(ctx: typer.Context, vms: VmArguments) -> None:
    """Stop VMs that run, and start them. Also the way out when a VM is in error, or is not what its state says."""
    api = client(ctx)
    for name in vms:
        with working(f"restarting {name}"):
            api.restart(name)
        _tell_running(api, name)


def delete(ctx: typer.Context, vms: VmArguments) -> None:
    """Delete VMs with their root disks, running or not. Their data disks stay, without their labels.

    [bold]labyard vms delete web-1[/]
    """
    api = client(ctx)
    for name in vms:
        freed = [disk["id"] for disk in api.disks() if disk["vm_id"] == name]
        with working(f"deleting {name}"):
            api.delete_vm(name)
        console.print(f"[bold]{escape(name)}[/] is deleted.", highlight=False)
        if freed:
            console.print(f"Its disks are free: {', '.join(freed)}", highlight=False, soft_wrap=True)


def _start(api: Client, name: str, quietly: bool = False) -> None:
    with working(f"starting {name}"):
        api.start(name)
    if not quietly:
        _tell_running(api, name)


def _tell_running(api: Client, name: str) -> None:
    address = api.vm(name)["local_ip"]
    where = f"at {address}" if address else "without an address of the lab"
    how = f"its console: labyard vms console {shlex.quote(name)} --follow"
    console.print(f"[bold]{escape(name)}[/] is running {where}; {how}", highlight=False, soft_wrap=True)
