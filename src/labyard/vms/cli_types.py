"""Arguments and options that the commands of `labyard vms` share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from labyard.vms.client import Client

VmArgument = Annotated[str, typer.Argument(metavar="VM", help="A VM's name.")]
VmArguments = Annotated[list[str], typer.Argument(metavar="VM...", help="Names of VMs.")]
DiskArgument = Annotated[
    str, typer.Argument(metavar="DISK", help="A disk: its id, the first characters of it, or its label.")
]
DiskArguments = Annotated[
    list[str], typer.Argument(metavar="DISK...", help="Disks: id, the first characters of it, or label.")
]
HostnameOption = Annotated[str | None, typer.Option(help="The guest's host name; without one it is the VM's name.")]
SshKeyOption = Annotated[list[str] | None, typer.Option(help="A public key, or its file. May be repeated.")]
UserDataOption = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A file for cloud-init.")]


class State(StrEnum):
    """What VMs can be asked for by (contract section 4.2)."""

    RUNNING = "running"
    STOPPED = "stopped"
    ERROR = "error"
    PAUSED = "paused"


def client(ctx: typer.Context) -> Client:
    """The client of the service that the command line named."""
    found: Client = ctx.obj.client
    return found
