"""`labyard desktops servers screenshot`: what a real RDP client sees of a desktop."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from labyard.client.commands import working
from labyard.client.http import ClientError
from labyard.client.picture import PictureOption, check_output, deliver
from labyard.desktops.cli_types import ServerArgument, client


def screenshot(
    ctx: typer.Context,
    server: ServerArgument,
    output: PictureOption = None,
    at: Annotated[str, typer.Option(metavar="HOST", help="Where this machine reaches it, if not where it says.")] = "",
) -> None:
    """Log in with a FreeRDP client of this machine, and keep what it sees. Without a file it is drawn here.

    It needs xfreerdp and Xvfb: apt-get install freerdp2-x11 xvfb. Who works on the desktop sees the client come and go.

    [bold]labyard desktops servers screenshot demo -o demo.png[/]
    """
    # Here, since the other commands do without these libraries.
    from labyard.desktops.picture import picture_of
    from labyard.desktops.recorder.errors import NoPicture

    check_output(output)
    api = client(ctx)
    found = api.server(server)
    if found["status"] != "running":
        how = f"labyard desktops servers start {shlex.quote(server)}"
        raise ClientError(f"{server} is {found['status']}, and shows nothing; start it: {how}")
    access = api.of_server(found["server_id"], "credentials") | {"host": at or ctx.obj.reach(found)}
    try:
        with working("logging in"):
            picture = picture_of(access, found["configuration"])
    except NoPicture as error:
        how = f"labyard desktops servers test {shlex.quote(server)}"
        raise ClientError(f"no picture of {server}: {error}; whether it answers: {how}") from error
    deliver(picture, output, server)
