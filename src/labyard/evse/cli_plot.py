"""`labyard evse plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labyard.client.commands import console, working
from labyard.client.http import ClientError
from labyard.evse.plot.run import RunError, read


def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="What record, or labyard-evse-sim --series, wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="A .svg or .png; default: RUN.svg.")
    ] = None,
    title: Annotated[str, typer.Option(help="Above the picture; default: the name of RUN.")] = "",
) -> None:
    """Draw a recorded run: offered and drawn current of each charger over time, and the sum against the budget.

    [bold]labyard evse plot run.jsonl --output run.svg[/]

    [bold]labyard-evse-sim --series day.jsonl && labyard evse plot day.jsonl --output day.png[/]
    """
    picture = output or run.with_suffix(".svg")
    try:
        # Here, since it takes longer to load than most commands take.
        from labyard.evse.plot.picture import KINDS, save
    except ImportError as error:
        raise ClientError(f"a picture takes matplotlib ({error}); install it with: make bootstrap") from error
    if picture.suffix not in KINDS:
        raise ClientError(f"--output {picture}: must end in {' or '.join(KINDS)}")
    try:
        found = read(run)
        with working("drawing"):
            save(found, picture, title or run.stem)
    except RunError as error:
        raise ClientError(str(error)) from error
    except OSError as error:
        raise ClientError(f"{picture}: {error.strerror or error}") from error
    console.print(f"The picture is in {picture}.", highlight=False, soft_wrap=True)
