"""`labyard netboot images`: what machines boot from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, TaskProgressColumn, TextColumn, TransferSpeedColumn

from labyard.client.commands import JsonOption, console, print_json, progress
from labyard.netboot import cli_show
from labyard.netboot.answers import Image
from labyard.netboot.cli_types import Format, ImageArgument, ImageType, client
from labyard.netboot.client import Client

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")

NameOption = Annotated[str, typer.Option(help="What to call it; else the file's name without its extension.")]
TypeOption = Annotated[ImageType, typer.Option("--type", help="What it is for.")]
Description = Annotated[str | None, typer.Option(help="A note of yours.")]


@app.callback()
def images(
    ctx: typer.Context,
    search: Annotated[str, typer.Option(help="Part of name, description or file name.")] = "",
    as_data: JsonOption = False,
) -> None:
    """The images, newest first; and: add, import, convert, rm.

    [bold]labyard netboot images --search debian[/]
    """
    if ctx.invoked_subcommand:
        return
    found = client(ctx).images(search)
    if as_data:
        print_json(found)
    elif search and not found:
        console.print("No image has that in it.")
    else:
        cli_show.images(found)


@app.command()
def add(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .raw, .qcow2, .vhdx or .vhd file.")],
    name: NameOption = "",
    type_: TypeOption = ImageType.SYSTEM,
    description: Description = None,
    as_data: JsonOption = False,
) -> None:
    """Upload an image and wait until it is checked. Cut off, the same command goes on where it stopped.

    [bold]labyard netboot images add disk.qcow2 --name debian[/]
    """
    api = client(ctx)
    called = name or file.stem
    columns = (TextColumn("{task.description:<8}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with progress(*columns) as bars:
        sending = bars.add_task("upload", total=file.stat().st_size)
        image = api.upload(
            file,
            called,
            description=description,
            image_type=type_.value,
            progress=lambda sent: bars.update(sending, completed=sent),
        )
    _ready(api, image, "check", as_data)


@app.command(name="import")
def import_(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(help="The file's full path on the server, below its IMAGES_DIR.")],
    name: NameOption = "",
    type_: TypeOption = ImageType.SYSTEM,
    description: Description = None,
    as_data: JsonOption = False,
) -> None:
    """Register an image that is on the server already, without copying it. The service never deletes its file."""
    api = client(ctx)
    image = api.import_image(path, name or Path(path).stem, description=description, image_type=type_.value)
    _ready(api, image, "check", as_data)


@app.command()
def convert(
    ctx: typer.Context,
    image: ImageArgument,
    to: Annotated[Format, typer.Option(help="The format to have it in.")] = Format.RAW,
    as_data: JsonOption = False,
) -> None:
    """Convert an image in place. It boots from any format; raw reads fastest."""
    api = client(ctx)
    found = api.image(image)
    api.convert(found["id"], to.value)
    _ready(api, found, "convert", as_data)


@app.command()
def rm(ctx: typer.Context, images: Annotated[list[str], typer.Argument(help="Images, by name or id.")]) -> None:
    """Remove images and their files; the file of an imported one stays. One with a live session on it stays, too."""
    api = client(ctx)
    for image in [api.image(name) for name in images]:
        console.print(api.remove_image(image["id"])["message"] + ".", highlight=False, markup=False)


def _ready(api: Client, image: Image, what: str, as_data: bool) -> None:
    with progress(TextColumn("{task.description:<8}"), BarColumn(), TaskProgressColumn()) as bars:
        task = bars.add_task(what, total=100)
        step: Callable[[int], None] = lambda percent: bars.update(task, completed=percent)  # noqa: E731
        ready = api.ingest(image["id"], step)
    if as_data:
        print_json(ready)
        return
    console.print(
        f"[bold]{ready['name']}[/] is ready: {ready['format']}, {cli_show.size(ready['size_bytes'])} "
        f"(image {ready['id']}).",
        highlight=False,
    )
