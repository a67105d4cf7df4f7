"""Arguments that the commands of `labyard faas` share."""

from __future__ import annotations

from typing import Annotated

import typer

from labyard.faas_cli.client import Client
from labyard.faas_cli.where import Where

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A function's name.")]
NameArguments = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of functions.")]


def where(ctx: typer.Context) -> Where:
    """What the command line named."""
    found: Where = ctx.obj
    return found


def client(ctx: typer.Context) -> Client:
    return where(ctx).client
