"""`labyard vms metadata`: what a guest is told by cloud-init's seed and by the metadata server."""

from __future__ import annotations

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, public_key
from labyard.vms import cli_show
from labyard.vms.cli_types import HostnameOption, SshKeyOption, UserDataOption, VmArgument, client
from labyard.vms.cli_vms import guest

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="What a guest is told: host name, SSH keys, user-data; show, set, clear.",
)


@app.command()
def show(ctx: typer.Context, vm: VmArgument, as_data: JsonOption = False) -> None:
    """What the guest of a VM is told."""
    found = client(ctx).metadata(vm)
    if as_data:
        print_json(found)
    else:
        cli_show.metadata(found)


@app.command(name="set")
def set_(
    ctx: typer.Context,
    vm: VmArgument,
    hostname: HostnameOption = None,
    ssh_key: SshKeyOption = None,
    user_data: UserDataOption = None,
    as_data: JsonOption = False,
) -> None:
    """Tell the guest something; what is not named stays, and an empty text or file clears. cloud-init's seed has it
    from the next start on.

    [bold]labyard vms metadata set web-1 --hostname web-1.lab --ssh-key ~/.ssh/id_ed25519.pub[/]

    [bold]labyard vms metadata set web-1 --ssh-key ""[/]
    """
    keys = None if ssh_key is None else [public_key(text) for text in ssh_key if text]
    told = guest(hostname, keys, user_data)
    if not told:
        raise typer.BadParameter("say what to tell; --help lists it")
    found = client(ctx).set_metadata(vm, **told)
    if as_data:
        print_json(found)
    else:
        console.print(f"[bold]{escape(vm)}[/]: {', '.join(told)} set; the next start has it.", highlight=False)


@app.command()
def clear(ctx: typer.Context, vm: VmArgument) -> None:
    """Forget all that the guest of a VM was to be told."""
    client(ctx).clear_metadata(vm)
    console.print(f"[bold]{escape(vm)}[/] has no metadata any more.", highlight=False)
