"""`labyard …`: the person's way in."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from labyard import doctor as doctor_checks
from labyard.client.commands import InventoryOption, JsonOption, console
from labyard.desktops.cli import app as desktops
from labyard.evse.cli import app as evse
from labyard.faas_cli.cli import app as faas
from labyard.inventory import InventoryError
from labyard.lab import DEFAULT_INVENTORY, Lab
from labyard.netboot.cli import app as netboot
from labyard.status import NEXT_STEPS, as_json, lab_status, print_status
from labyard.testing.machines import PoweredMachine
from labyard.testing.vm.cli import app as vm
from labyard.vms.cli import app as vms
from labyard.waterfall.cli import waterfall_command

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Labyard builds infrastructure labs out of real daemons. `make lab` builds one; these commands use it.",
)
MachineArgument = Annotated[str, typer.Argument(help="A machine of the inventory's lab_machines, such as m1.")]


def _fail(message: str) -> typer.Exit:
    Console(stderr=True).print(f"[red]labyard:[/] {message}", highlight=False)
    return typer.Exit(1)


def _load(inventory: Path) -> Lab:
    try:
        return Lab(inventory)
    except InventoryError as error:
        raise _fail(str(error)) from error


def _machine(inventory: Path, name: str) -> PoweredMachine:
    lab = _load(inventory)
    if name not in lab.machines:
        raise _fail(f"unknown machine {name!r}; lab_machines has: {', '.join(lab.machines)}")
    machine = PoweredMachine(lab, lab.machines[name])
    if machine.host.run("true").rc != 0:
        raise _fail(f"lab host {machine.host.name} does not answer; build the lab with: make lab")
    return machine


@app.command()
def status(
    inventory: InventoryOption = DEFAULT_INVENTORY, as_data: JsonOption = False, next_steps: bool = False
) -> None:
    """Show hosts, daemons, addresses and health, asked of the live lab. Exits with 1 when something is not well."""
    found = lab_status(_load(inventory))
    if as_data:
        print(as_json(found))
    else:
        print_status(found, console)
        if not found.healthy:
            console.print("Not all is well: `make lab` mends what it can; the hosts' journals say why.")
        if next_steps:
            console.print(NEXT_STEPS, highlight=False)
    raise typer.Exit(0 if found.healthy else 1)


@app.command()
def doctor(inventory: InventoryOption = DEFAULT_INVENTORY, as_data: JsonOption = False) -> None:
    """Find out what this machine can do, by doing it, before anything is touched."""
    raise typer.Exit(doctor_checks.main(as_data, inventory))


@app.command()
def boot(
    name: MachineArgument,
    inventory: InventoryOption = DEFAULT_INVENTORY,
    seconds: Annotated[float, typer.Option(help="How long to wait for userland.")] = 60,
) -> None:
    """Power a diskless machine on and watch its console until it is in userland, with its disk proven."""
    machine = _machine(inventory, name)
    machine.power_on()
    began = time.monotonic()
    shown = 0
    console.print(f"[bold]{name}[/] is on; its console is {machine.console_file} on {machine.host.name}")
    while time.monotonic() - began < seconds:
        output = machine.console()
        sys.stdout.write(output.plain[shown:])
        sys.stdout.flush()
        shown = len(output.plain)
        if "done" in output.reports:
            console.print(f"\n[bold]{name}[/] done after {time.monotonic() - began:.1f} s: {output.reports['done']}")
            raise typer.Exit(0 if output.reports["done"] == "ok" else 1)
        time.sleep(0.2)
    raise _fail(f"{name} was not done within {seconds:g} s; `labyard status` shows whether its servers are well")


@app.command(name="off")
def power_off(name: MachineArgument, inventory: InventoryOption = DEFAULT_INVENTORY) -> None:
    """Switch a diskless machine off."""
    _machine(inventory, name).power_off()


@app.command(name="console")
def show_console(name: MachineArgument, inventory: InventoryOption = DEFAULT_INVENTORY) -> None:
    """Print what a machine has written on its serial console since its last power-on."""
    print(_machine(inventory, name).console().plain)


app.command(name="waterfall")(waterfall_command)
app.add_typer(netboot, name="netboot")
app.add_typer(vms, name="vms")
app.add_typer(vm, name="vm")
app.add_typer(evse, name="evse")
app.add_typer(faas, name="faas")
app.add_typer(desktops, name="desktops")


if __name__ == "__main__":
    app()
