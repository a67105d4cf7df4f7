"""Arguments and options that the commands of `labyard evse` share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from labyard.evse.cli_where import Where

PairArgument = Annotated[str, typer.Argument(metavar="PAIR", help="HOST/NUMBER, such as evse1/0.")]
PairArguments = Annotated[list[str], typer.Argument(metavar="PAIR...", help="HOST/NUMBER, such as evse1/0 evse1/1.")]
ControllerOption = Annotated[
    str, typer.Option(metavar="PAIR", help="The group's controller, where there are several groups.")
]


class Fault(StrEnum):
    """What an emulator can be told to have (contract section 3)."""

    GFCI = "gfci"
    STUCK_RELAY = "stuck_relay"
    NO_GROUND = "no_ground"
    DIODE_CHECK = "diode_check"
    OVER_TEMP = "over_temp"
    GFI_SELF_TEST = "gfi_self_test"


def where(ctx: typer.Context) -> Where:
    """The pairs that the command line named."""
    found: Where = ctx.obj
    return found
