"""`labyard evse connect`, `disconnect`, `charge`, `stop`, `soc`, `fault` and `clear`: playing car and charger."""

from __future__ import annotations

from typing import Annotated

import typer

from labyard.client.commands import console
from labyard.evse.cli_types import Fault, PairArgument, PairArguments, where
from labyard.evse.client import Emulator


def connect(ctx: typer.Context, pairs: PairArguments) -> None:
    """Plug a car in. It does not ask for a charge yet.

    [bold]labyard evse connect evse1/0[/]
    """
    for name in pairs:
        with _emulator(ctx, name) as emulator:
            emulator.do("ev/connect")
        _tell(name, "a car is plugged in; have it charge: labyard evse charge " + name)


def disconnect(ctx: typer.Context, pairs: PairArguments) -> None:
    """Pull the plug. The car's session and the charger's tripped faults are over.

    [bold]labyard evse disconnect evse1/0[/]
    """
    for name in pairs:
        with _emulator(ctx, name) as emulator:
            emulator.do("ev/disconnect")
        _tell(name, "no car is plugged in")


def charge(ctx: typer.Context, pairs: PairArguments) -> None:
    """Have the car ask for a charge; where none is plugged in, plug one in first.

    [bold]labyard evse charge evse1/0 evse2/1[/]

    [bold]labyard evse charge evse1/{0..3}[/]   (the shell makes four names of it)
    """
    for name in pairs:
        with _emulator(ctx, name) as emulator:
            if not emulator.status()["ev"]["connected"]:
                emulator.do("ev/connect")
            emulator.do("ev/request_charge")
            car = emulator.status()["ev"]
        full = car["soc"] >= 100
        _tell(name, "the car is full: labyard evse soc " + name + " 50" if full else "the car asks for a charge")


def stop(ctx: typer.Context, pairs: PairArguments) -> None:
    """Have the car stop charging. It stays plugged in.

    [bold]labyard evse stop evse1/0[/]
    """
    for name in pairs:
        with _emulator(ctx, name) as emulator:
            emulator.do("ev/stop_charge")
        _tell(name, "the car asks for no charge")


def soc(
    ctx: typer.Context,
    pair: PairArgument,
    percent: Annotated[float, typer.Argument(min=0, max=100, help="How full the battery is, %.")],
) -> None:
    """Say how full the car's battery is. Above 80 % it takes less and less; full it stops.

    [bold]labyard evse soc evse1/0 79[/]
    """
    with _emulator(ctx, pair) as emulator:
        emulator.do("ev/soc", soc=percent)
    _tell(pair, f"the battery is at {percent:g} %")


def fault(ctx: typer.Context, pair: PairArgument, kind: Annotated[Fault, typer.Argument(help="What breaks.")]) -> None:
    """Break something in the charger. It stops at once, until `clear`.

    [bold]labyard evse fault evse1/0 gfci[/]
    """
    with _emulator(ctx, pair) as emulator:
        emulator.do("errors/trigger", error=kind.value)
    _tell(pair, f"{kind.value} stands; take it away: labyard evse clear {pair}")


def clear(ctx: typer.Context, pairs: PairArguments) -> None:
    """Take all faults of a charger away.

    [bold]labyard evse clear evse1/0[/]
    """
    for name in pairs:
        with _emulator(ctx, name) as emulator:
            emulator.do("errors/clear")
        _tell(name, "no fault stands")


def _emulator(ctx: typer.Context, name: str) -> Emulator:
    return Emulator(where(ctx).pair(name).emulator)


def _tell(name: str, what: str) -> None:
    console.print(f"[bold]{name}[/] {what}", highlight=False, soft_wrap=True)
