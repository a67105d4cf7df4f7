"""What the commands of all services share: options, errors, tables, progress."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from labyard.client.http import ClientError

console = Console()

InventoryOption = Annotated[
    Path,
    typer.Option("--inventory", "-i", envvar="LABYARD_INVENTORY", help="Which lab: an inventory's file or folder."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]

NUMBERS = (
    *("Id", "Size", "Boots", "Age", "CPUs", "Memory"),
    *("Requests", "Failed", "Hits", "Misses", "Median", "Worst", "Parked"),
)
COLOURS = {
    "active": "green",
    "ready": "green",
    "running": "green",
    "attached": "green",
    "error": "red",
    "healthy": "green",
    "unhealthy": "red",
    "degraded": "yellow",
    "timeout": "yellow",
    "starting": "cyan",
}


class PlainErrors(TyperGroup):
    """Turns what went wrong into one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            text = escape(str(error))
            Console(stderr=True).print(f"[red]labyard:[/] {text}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """A table, or what to do when there is nothing to show."""
    rows = list(rows)
    if not rows:
        console.print(empty, highlight=False)
        return
    console.print(build(headings, rows))


def build(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    made = Table(header_style="bold")
    for heading in headings:
        made.add_column(heading, justify="right" if heading in NUMBERS else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return made


def state(value: str) -> Text:
    return Text(value, style=COLOURS.get(value, ""))


@contextmanager
def progress(*columns: ProgressColumn, transient: bool = False) -> Iterator[Progress]:
    """On stderr, so that --json stays clean; nothing when that is no terminal. `transient` is gone at its end."""
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=transient, disable=not screen.is_terminal) as bars:
        yield bars


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something is under way, and for how long, where its end cannot be foretold."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with progress(*columns, transient=True) as bars:
        bars.add_task(what, total=None)
        yield


def public_key(text: str) -> str:
    """A public key, given as it is or as a file that has it."""
    file = Path(text).expanduser()
    if " " in text.strip():  # a key has a type and its data, a file of keys rarely has a space in its name
        return text.strip()
    if not file.is_file():
        raise ClientError(f"--ssh-key {text}: neither a public key nor a file with one")
    return file.read_text().strip()
