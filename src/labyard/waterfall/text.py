"""The waterfall in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from labyard.waterfall.advice import headline
from labyard.waterfall.model import Kind, Span, Waterfall
from labyard.waterfall.rows import rows, title

_STYLES = {
    Kind.POWER: "bright_black",
    Kind.FIRMWARE: "white",
    Kind.DHCP: "cyan",
    Kind.TFTP: "bright_cyan",
    Kind.HTTP: "green",
    Kind.ISCSI: "blue",
    Kind.LOADER: "magenta",
    Kind.KERNEL: "bright_magenta",
    Kind.USERLAND: "bright_green",
    Kind.WAIT: "yellow",
    Kind.UNEXPLAINED: "red",
}
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def _bar(spans: list[Span], total: float, width: int) -> str:
    """One character for each piece of time, as full as the spans fill it; never empty where there is a span."""
    cells = [0.0] * width
    for span in spans:
        first, last = span.start / total * width, span.end / total * width
        for cell in range(int(first), min(width, int(last) + 1)):
            cells[cell] += max(0.0, min(last, cell + 1) - max(first, cell))
        cells[min(width - 1, int(first))] += 0.01
    return "".join("·" if cell == 0 else _EIGHTHS[max(1, min(8, round(cell * 8)))] for cell in cells)


def render(waterfall: Waterfall, machine: str, width: int = 100) -> RenderableType:
    """The rows with their bars, and the longest wait with what removes it. `width` is the terminal's, in columns."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    names = 24 if width < 100 else 31
    bars = max(12, min(60, width - names - 48))
    table.add_column("", no_wrap=True, min_width=names, max_width=names, overflow="ellipsis")
    table.add_column("at", justify="right", no_wrap=True, min_width=6)
    table.add_column(f"0{f'{waterfall.total:.1f} s':>{bars - 1}}", no_wrap=True, min_width=bars)
    table.add_column("", no_wrap=True)
    for row in rows(waterfall):
        style = _STYLES[row.kind]
        weight = " bold" if row.longest_wait else ""
        table.add_row(
            Text(row.name, style=style + weight if row.spans[0].is_wait else ""),
            Text(f"{row.spans[0].start:.2f}", style="dim"),
            Text(_bar(row.spans, max(waterfall.total, 1e-9), bars), style=style),
            Text(row.figure + (" ◀ longest" if row.longest_wait else ""), style=style + weight if weight else ""),
        )
    parts: list[RenderableType] = [Text(title(waterfall, machine), style="bold"), Text(""), table, Text("")]
    parts.append(Panel(Text(headline(waterfall)), border_style="yellow", width=min(width, 110)))
    events = [f"{mark.name} {mark.at:.2f} s" for mark in waterfall.marks if mark.source != "console"]
    if events:
        parts.append(Text("Events: " + ", ".join(events), style="dim"))
    parts += [Text(note, style="yellow") for note in waterfall.notes]
    return Group(*parts)
