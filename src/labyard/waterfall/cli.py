"""`labyard waterfall`: boot a machine and show where the seconds went."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from labyard.inventory import InventoryError
from labyard.lab import DEFAULT_INVENTORY, Lab
from labyard.testing.machines import PoweredMachine
from labyard.waterfall import svg, text
from labyard.waterfall.capture import CaptureError
from labyard.waterfall.recording import RecordingError, events_of, fetch


def _fail(message: str) -> typer.Exit:
    Console(stderr=True).print(f"[red]labyard:[/] {message}", highlight=False)
    return typer.Exit(1)


def _machine(inventory: Path, name: str) -> PoweredMachine:
    try:
        lab = Lab(inventory)
    except InventoryError as error:
        raise _fail(str(error)) from error
    if name not in lab.machines:
        raise _fail(f"unknown machine {name!r}; lab_machines has: {', '.join(lab.machines)}")
    machine = PoweredMachine(lab, lab.machines[name])
    if machine.host.run("true").rc != 0:
        raise _fail(f"lab host {machine.host.name} does not answer; build the lab with: make lab")
    return machine


def waterfall_command(
    name: Annotated[str, typer.Argument(help="A machine of the inventory's lab_machines, such as m1.")],
    inventory: Annotated[
        Path,
        typer.Option("--inventory", "-i", envvar="LABYARD_INVENTORY", help="Which lab: an inventory's file or folder."),
    ] = DEFAULT_INVENTORY,
    picture: Annotated[Path | None, typer.Option("--svg", help="Write the picture to this file, too.")] = None,
    as_data: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    boot: Annotated[bool, typer.Option("--boot/--no-boot", help="Boot it now, or show the boot it had last.")] = True,
    events: Annotated[
        Path | None,
        typer.Option(help="Boot events to mark: what the netboot service answers to GET /sessions/ID/events."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to wait until the boot is done.")] = 60,
) -> None:
    """Boot a diskless machine and show where the seconds went, what it waited for longest, and what removes that.

    Exits with 1 when the boot did not come to its end; what there is of it is shown all the same.
    """
    machine = _machine(inventory, name)
    if boot:
        machine.power_on()
        deadline = time.monotonic() + seconds
        with Console(stderr=True).status(f"{name} boots"):
            while time.monotonic() < deadline and "done" not in machine.console().reports:
                time.sleep(0.3)
    try:
        marked = events_of(events.read_text()) if events else None
        found = fetch(machine).waterfall(marked)
    except (RecordingError, CaptureError, ValueError, OSError) as error:
        raise _fail(str(error)) from error
    if as_data:
        print(found.to_json())
    else:
        console = Console()
        console.print(text.render(found, name, console.width), highlight=False)
    if picture:
        picture.write_text(svg.render(found, name))
        Console(stderr=True).print(f"The picture is in {picture}; a browser shows each bar's figures.", highlight=False)
    raise typer.Exit(0 if found.finished else 1)
