"""How long requests took, as pictures of characters: a line of the last ones, and how many took how long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from labyard.faas_cli.client import Document

# The same for all pictures, so that they can be compared: the most of each class, in ms.
LEVELS = (1, 3, 10, 30, 100, 300, 1000)
BARS = "▁▂▃▄▅▆▇█"
CLASSES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
WARM, COLD, FAILED = "green", "cyan", "red"
CELLS = 40  # of the longest bar
LINE = 30  # requests of a line


def milliseconds(value: float | None) -> str:
    """Two digits that mean something; seconds from a second on."""
    if value is None:
        return ""
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.2g} ms" if value < 10 else f"{value:.0f} ms"


def line(records: Sequence[Document]) -> Text:
    """The last requests, given newest first, as a line with the newest at its right end."""
    drawn = Text()
    for record in reversed(records[:LINE]):
        drawn.append(BARS[_class(record, LEVELS)], _style(record))
    return drawn


def histogram(records: Sequence[Document]) -> Table:
    """How many requests took how long; the parked handlers' part first, then cold starts, then failures."""
    names = [f"≤ {milliseconds(most)}" for most in CLASSES] + [f"> {milliseconds(CLASSES[-1])}"]
    styles: list[list[str]] = [[] for _ in names]
    for record in records:
        styles[_class(record, CLASSES)].append(_style(record))
    used = [index for index, found in enumerate(styles) if found]
    most = max((len(found) for found in styles), default=0)
    grid = Table.grid(padding=(0, 1))
    for index in range(min(used, default=0), max(used, default=-1) + 1):
        grid.add_row(Text(names[index], justify="right"), _cells(styles[index], most), Text(str(len(styles[index]))))
    return grid


LEGEND = Text.assemble(("█", WARM), " parked  ", ("█", COLD), " cold  ", ("█", FAILED), " failed")


def _cells(styles: Iterable[str], most: int) -> Text:
    found, bar = list(styles), Text()
    scale = min(1.0, CELLS / most)
    for style in (WARM, COLD, FAILED):
        count = found.count(style)
        bar.append("█" * (max(1, round(count * scale)) if count else 0), style)
    return bar


def _class(record: Document, classes: Sequence[int]) -> int:
    return next((index for index, most in enumerate(classes) if record["ms"] <= most), len(classes))


def _style(record: Document) -> str:
    if record["result"] != "ok":
        return FAILED
    return WARM if record["warm"] else COLD
