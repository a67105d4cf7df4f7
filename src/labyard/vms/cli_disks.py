"""`labyard vms disks`: data disks, which VMs get and lose while they run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, working
from labyard.client.http import ClientError
from labyard.vms import cli_show
from labyard.vms.cli_types import DiskArgument, DiskArguments, VmArgument, client
from labyard.vms.client import Client

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def disks(ctx: typer.Context, as_data: JsonOption = False) -> None:
    """The data disks; and: create, attach, detach, delete.

    [bold]labyard vms disks[/]
    """
    if ctx.invoked_subcommand:
        return
    found = client(ctx).disks()
    if as_data:
        print_json(found)
    else:
        cli_show.disks(found)


@app.command()
def create(
    ctx: typer.Context,
    size: Annotated[int, typer.Argument(min=1, max=16384, help="GiB.")],
    label: Annotated[str | None, typer.Option(help="What to call it; the guest does not see it.")] = None,
    vm: Annotated[str, typer.Option("--attach", metavar="VM", help="Attach it to this VM, which runs.")] = "",
    as_data: JsonOption = False,
) -> None:
    """Make an empty disk.

    [bold]labyard vms disks create 5 --label data --attach web-1[/]
    """
    api = client(ctx)
    with working(f"making a disk of {size} GiB"):
        made = api.create_disk(size, label)
    if not as_data:
        called = f" with the label [bold]{escape(label)}[/]" if label else ""
        console.print(f"Disk [bold]{made['id']}[/] is made{called}.", highlight=False, soft_wrap=True)
    if vm:
        try:
            _attach(api, made["id"], vm, quietly=as_data)
        except ClientError as error:
            raise ClientError(f"{error}. The disk is made: {made['id']}", error.status) from error
    if as_data:
        print_json(api.disk(made["id"]))


@app.command()
def attach(ctx: typer.Context, disk: DiskArgument, vm: VmArgument) -> None:
    """Plug a disk into a VM that runs.

    [bold]labyard vms disks attach data web-1[/]
    """
    api = client(ctx)
    _attach(api, api.disk(disk)["id"], vm)


@app.command()
def detach(ctx: typer.Context, disk: DiskArgument) -> None:
    """Unplug a disk. Unmount it in the guest first. Its content stays, its label does not."""
    api = client(ctx)
    found = api.disk(disk)
    with working(f"unplugging {cli_show.label(found)}"):
        api.detach(found["id"])
    console.print(f"Disk [bold]{found['id']}[/] is free; it has no label any more.", highlight=False)


@app.command()
def delete(ctx: typer.Context, disks: DiskArguments) -> None:
    """Delete disks and what is on them. One that a running VM has must be detached first."""
    api = client(ctx)
    for disk in [api.disk(name) for name in disks]:
        api.delete_disk(disk["id"])
        console.print(f"[bold]{escape(cli_show.label(disk))}[/] is deleted.", highlight=False)


def _attach(api: Client, disk_id: str, vm: str, quietly: bool = False) -> None:
    with working(f"plugging it into {vm}"):
        api.attach(disk_id, vm)
    if not quietly:
        where = api.disk(disk_id)["device_path"]
        seen = f"; the guest has it as {where}" if where else ""
        console.print(f"[bold]{escape(vm)}[/] has the disk{seen}", highlight=False, soft_wrap=True)
