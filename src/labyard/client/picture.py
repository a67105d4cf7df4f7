"""Pictures of screens: into a file, or drawn in the terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer
from rich.color import Color
from rich.markup import escape
from rich.style import Style
from rich.text import Text

from labyard.client.commands import console
from labyard.client.http import ClientError

HALF = "▀"  # two pixels: the upper one has the text's colour, the lower one the background's

PictureOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE.png", dir_okay=False, help="Write it there, as a PNG.")
]


def check_output(output: Path | None) -> None:
    """BadParameter when there is neither a file nor a terminal for the picture."""
    if output is None and console.color_system is None:
        raise typer.BadParameter("a picture needs a terminal with colours; name a file: -o FILE.png")


def deliver(picture: bytes, output: Path | None, whose: str) -> None:
    """Into the file, or drawn as wide as the terminal. ClientError when the file cannot be written."""
    if output is None:
        console.print(drawn(picture, console.width))
        return
    try:
        output.write_bytes(picture)
    except OSError as error:
        raise ClientError(f"{output} cannot be written: {error.strerror}") from error
    console.print(f"{escape(str(output))} has the screen of [bold]{escape(whose)}[/].", highlight=False, soft_wrap=True)


def drawn(picture: bytes, width: int) -> Text:
    """A picture in half blocks, at most `width` characters wide."""
    from PIL import Image  # here, since the other commands do without

    with Image.open(io.BytesIO(picture)) as image:
        columns = min(width, image.width)
        rows = max(1, round(image.height * columns / image.width / 2))
        small = image.convert("RGB").resize((columns, 2 * rows), Image.Resampling.BOX).tobytes()
    pixels = [Color.from_rgb(*small[at : at + 3]) for at in range(0, len(small), 3)]
    text = Text(no_wrap=True)
    for row in range(rows):
        text.append("\n" if row else "")
        upper = pixels[2 * row * columns :][:columns]
        lower = pixels[(2 * row + 1) * columns :][:columns]
        for above, below in zip(upper, lower, strict=True):
            text.append(HALF, Style(color=above, bgcolor=below))
    return text
