"""`labyard vms console`: what a VM writes on its serial port."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Annotated

import typer
from rich.console import Console

from labyard.client.commands import JsonOption, print_json
from labyard.vms.cli_types import VmArgument, client

# Control sequences of a terminal (ECMA-48): CSI, OSC, other escapes, and control characters but tab and line feed.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,256}\x1b?|[ -/]*)?\Z")


class Plain:
    """Takes the control sequences of a guest out of a text that comes in pieces: what it writes must not move the
    cursor, or worse, in the terminal of the person who reads it."""

    def __init__(self) -> None:
        self._begun = ""

    def __call__(self, piece: str) -> str:
        text = self._begun + piece
        begun = _BEGUN.search(text)
        self._begun = begun[0] if begun else ""
        return _CONTROL.sub("", text[: len(text) - len(self._begun)])


def console(
    ctx: typer.Context,
    vm: VmArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and show more as it comes. Ctrl-C ends it.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="As the guest wrote it, with what moves the cursor.")] = False,
    as_data: JsonOption = False,
) -> None:
    """What a VM has written on its console: the last 50 KiB, earlier boots included.

    [bold]labyard vms console web-1 --follow[/]

    An image must have console=ttyS0 on its kernel's command line, or the kernel is silent here.
    """
    api = client(ctx)
    if follow:
        if as_data:
            raise typer.BadParameter("--json is for what there is; leave out --follow")
        plain = Plain()
        for piece in api.follow(vm):
            sys.stdout.write(piece if raw else plain(piece))
            sys.stdout.flush()
    found = api.console(vm)
    if as_data:
        print_json(found)
        return
    text = found["console"] if raw else Plain()(found["console"])
    sys.stdout.write(text + ("\n" if text and not text.endswith("\n") else ""))
    if not text:
        why = found["message"] or f"Nothing yet; wait for more: labyard vms console {shlex.quote(vm)} --follow"
        Console(stderr=True).print(why, highlight=False, markup=False, soft_wrap=True)
