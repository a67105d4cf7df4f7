"""`labyard vms screenshot`: what the screen of a VM shows, as a file or in the terminal."""

from __future__ import annotations

import typer

from labyard.client.picture import PictureOption, check_output, deliver
from labyard.vms.cli_types import VmArgument, client


def screenshot(ctx: typer.Context, vm: VmArgument, output: PictureOption = None) -> None:
    """What the screen of a VM that runs shows. Without a file it is drawn here, as wide as the terminal.

    [bold]labyard vms screenshot web-1[/]

    [bold]labyard vms screenshot web-1 -o web-1.png[/]
    """
    check_output(output)
    deliver(client(ctx).screenshot(vm), output, vm)
