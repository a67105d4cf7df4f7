"""`labyard netboot start` and `stop`, and the wait for a machine's userland."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from labyard.client.commands import JsonOption, console, print_json, public_key
from labyard.client.http import ClientError
from labyard.netboot import cli_show
from labyard.netboot.answers import Session
from labyard.netboot.cli_types import (
    ImageArgument,
    MachineArgument,
    Method,
    StartPower,
    StopPower,
    Transport,
    client,
)
from labyard.netboot.client import Client


def start(
    ctx: typer.Context,
    machine: MachineArgument,
    image: ImageArgument,
    method: Annotated[Method, typer.Option(help="What the machine does with the disk.")] = Method.SANBOOT,
    transport: Annotated[Transport, typer.Option(help="How script, kernel and initrd travel.")] = Transport.TFTP,
    power: Annotated[
        StartPower, typer.Option(help="cycle: switch the machine off and on by its BMC, once all is ready.")
    ] = StartPower.NONE,
    ssh_key: Annotated[
        list[str] | None, typer.Option(help="A public key, or its file, for cloud-init. May be repeated.")
    ] = None,
    user_data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A cloud-config for cloud-init.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="A note of yours.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the boot as it comes, until userland.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to wait.")] = 300,
    as_data: JsonOption = False,
) -> None:
    """Start a session: from then on the machine boots from the image.

    [bold]labyard netboot start ws1 debian --wait[/]

    [bold]labyard netboot start ws1 debian --power cycle --wait[/]

    [bold]labyard netboot start ws1 debian --method iscsi_root --transport http --ssh-key ~/.ssh/id_ed25519.pub[/]

    With --wait: what each daemon saw of the machine, with the seconds since the start. Exits with 1 when it failed or
    did not come to userland in time; the session stays.
    """
    api = client(ctx)
    given = {
        "boot_method": method.value,
        "transport": transport.value,
        "power": power.value,
        "ssh_keys": [public_key(text) for text in ssh_key or []],
        "user_data": user_data.read_text() if user_data else None,
        "description": description,
    }
    found = api.machine(machine)
    started = api.start(found["id"], api.image(image)["id"], **given)
    session = started["session"]
    if as_data and not wait:
        print_json(started)
        return
    if not as_data:
        how = f"Switch it on; a machine of the lab with: labyard boot {shlex.quote(found['name'])}"
        console.print(
            f"[bold]{found['name']}[/] boots from {escape(image)} from now on (session {session['id']}). "
            + ("It was switched on." if session["power_cycled"] else how),
            highlight=False,
            soft_wrap=True,
        )
    if wait:
        ended = _wait(api, session, seconds, quietly=as_data)
        if as_data:
            print_json(started | {"session": ended})


def _wait(api: Client, session: Session, seconds: float, quietly: bool) -> Session:
    deadline = time.monotonic() + seconds
    for event in api.follow(session["id"], 0, quiet=min(2.0, seconds)):
        if event is not None and not quietly:
            console.print(cli_show.wait_line(event, session["started_at"]))
        if event is not None and event["type"] == "boot_success":
            return api.session(session["id"])
        if event is not None and event["type"] == "boot_failed":
            raise ClientError(
                f"the machine tells that it could not boot ({event['message'] or 'no reason given'}); its console says "
                "more, `labyard netboot check` compares the daemons with what they should have"
            )
        if event is None and (now := api.session(session["id"]))["status"] not in ("starting", "active"):
            raise ClientError(f"session {now['id']} is {now['status']}: {now['error_message'] or 'somebody ended it'}")
        if time.monotonic() > deadline:
            break
    reached = api.session(session["id"])["boot_phase"]
    raise ClientError(
        f"no userland within {seconds:g} s; the boot came as far as: {reached}. docs/netboot.md says what that means"
    )


def stop(
    ctx: typer.Context,
    machine: MachineArgument,
    keep_overlay: Annotated[bool, typer.Option(help="Keep what the machine wrote, below OVERLAY_DIR/kept.")] = False,
    power: Annotated[
        StopPower, typer.Option(help="off: switch the machine off by its BMC before its disk goes.")
    ] = StopPower.NONE,
) -> None:
    """End a machine's session: its reservation, script, disk and what it wrote go. A running machine loses its disk.

    [bold]labyard netboot stop ws1 --power off[/]

    Exits with 1 when the machine could not be switched off; its disk is gone all the same.
    """
    api = client(ctx)
    found = api.machine(machine)
    stopped = api.stop(api.live_session(found)["id"], keep_overlay, power.value)
    off = "is off and " if stopped.get("powered_off") else ""
    console.print(f"[bold]{found['name']}[/] {off}has no disk any more.", highlight=False)
    if trouble := stopped.get("power_error"):
        raise ClientError(f"{found['name']} was not switched off: {trouble}")
