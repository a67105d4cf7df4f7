"""Draws a run. Colours are those of Okabe and Ito, which all eyes tell apart; nothing is told by colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite, nan
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labyard.evse.plot.run import Run, Spans, Trace

DRAWN, OFFERED, BUDGET = "#E69F00", "#0072B2", "#000000"
OVER, LOST, SILENT = "#D55E00", "#56B4E9", "#999999"
INCH_WIDE, INCH_SUM, INCH_LANE, INCH_CHARGER = 10.0, 2.6, 0.22, 1.15
MOST_POINTS = 1500  # of a trace: more than a picture has pixels
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    # Text stays text, and the same run gives the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "labyard",
}
KINDS = (".svg", ".png")


def save(run: Run, path: Path, title: str) -> None:
    """`path` ends in one of KINDS. OSError: it cannot be written."""
    with matplotlib.rc_context(STYLE):
        date = {"Date": None} if path.suffix == ".svg" else None
        _figure(run, title).savefig(path, dpi=140, metadata=date)


def _figure(run: Run, title: str) -> Figure:
    """The sum against the budget, what was out of order below it, then a panel for each charger."""
    count = len(run.chargers)
    columns = 1 if count <= 4 else 2 if count <= 8 else 4
    rows = ceil(count / columns)
    lanes = _lanes(run)
    heights = [INCH_SUM, *([INCH_LANE * len(lanes) + 0.1] if lanes else []), *[INCH_CHARGER] * rows]
    figure = Figure(figsize=(INCH_WIDE, sum(heights) + 1.0), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    unit, seconds = _unit(run.times[-1] - run.times[0])
    times = [(now - run.times[0]) / seconds for now in run.times]

    whole = figure.add_subplot(grid[0, :])
    _sum(whole, run, times, _scaled(run, run.violation, seconds))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    whole.set_title(_in_words(run), loc="left", fontsize=9)
    figure.legend(*whole.get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
    if lanes:
        _draw_lanes(figure.add_subplot(grid[1, :], sharex=whole), run, lanes, seconds)

    top = max([1.0, *(amps for one in run.chargers.values() for amps in (*one.offered, *one.drawn) if isfinite(amps))])
    for index, (name, trace) in enumerate(run.chargers.items()):
        row, column = divmod(index, columns)
        panel = figure.add_subplot(grid[len(heights) - rows + row, column], sharex=whole)
        _charger(panel, trace, times, run, seconds)
        panel.set_title(name, loc="left", fontsize=9, pad=3)
        panel.set_ylim(0, top * 1.1)
        panel.tick_params(labelbottom=index + columns >= count, labelleft=column == 0)
        if column == 0:
            panel.set_ylabel("A")
        if index + columns >= count:
            panel.set_xlabel(f"time, {unit}")
    whole.tick_params(labelbottom=False)
    whole.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 3, 5, 10]))
    whole.set_xlim(times[0], times[-1])
    return figure


def _sum(axes: Axes, run: Run, times: Sequence[float], violations: Spans) -> None:
    _current(axes, times, run.drawn, run.offered)
    axes.plot(*_steps(times, run.budget), drawstyle="steps-post", color=BUDGET, linestyle="--", label="budget")
    for begin, end in violations:
        axes.axvspan(begin, end, facecolor="none", edgecolor=OVER, hatch="////", linewidth=0.8)
    most = max(amps for amps in (*run.drawn, *run.offered, *run.budget, 1.0) if isfinite(amps))
    axes.set_ylim(0, most * 1.12)
    axes.set_ylabel("sum, A")


def _charger(axes: Axes, trace: Trace, times: Sequence[float], run: Run, seconds: float) -> None:
    _current(axes, times, trace.drawn, trace.offered)
    for flags, colour, hatch, what in (
        (trace.fault, OVER, "////", "fault"),
        (trace.failsafe, LOST, "\\\\\\\\", "failsafe"),
        (trace.silent, SILENT, "xxxx", "silent"),
    ):
        spans = _scaled(run, flags, seconds)
        for begin, end in spans:
            axes.axvspan(begin, end, facecolor="none", edgecolor=colour, hatch=hatch, linewidth=0.8)
        for begin, _ in spans[:1]:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            place = axes.get_xaxis_transform()
            axes.text(begin, 0.97, f" {what}", transform=place, fontsize=8, va="top", clip_on=True, bbox=box)


def _current(axes: Axes, times: Sequence[float], drawn: Sequence[float], offered: Sequence[float]) -> None:
    moments, amps = _steps(times, drawn)
    axes.fill_between(moments, amps, step="post", color=DRAWN, alpha=0.55, linewidth=0, label="drawn")
    axes.plot(*_steps(times, offered), drawstyle="steps-post", color=OFFERED, linewidth=1.3, label="offered")


Lane = tuple[str, list[bool], str, str]


def _lanes(run: Run) -> list[Lane]:
    """What happened that is out of order: name, when, colour, hatch."""
    lanes = [
        ("over budget", run.violation, OVER, "////"),
        ("members lost", run.failsafe, LOST, "\\\\\\\\"),
        ("controller silent", run.silent, SILENT, "xxxx"),
    ]
    return [lane for lane in lanes if any(lane[1])]


def _draw_lanes(axes: Axes, run: Run, lanes: Sequence[Lane], seconds: float) -> None:
    for row, (_, flags, colour, hatch) in enumerate(lanes):
        bars = [(begin, end - begin) for begin, end in _scaled(run, flags, seconds)]
        axes.broken_barh(bars, (row - 0.35, 0.7), facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0)
        # A short one must be seen, too.
        axes.plot([begin for begin, _ in bars], [row] * len(bars), "|", color=colour, markersize=9, markeredgewidth=1.5)
    axes.set_yticks(range(len(lanes)), [lane[0] for lane in lanes])
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelbottom=False, left=False)


def _in_words(run: Run) -> str:
    count = len(run.spans(run.violation))
    most = max(run.drawn)
    what = f"exceeded {count} time{'s' * (count != 1)}" if count else "never exceeded"
    known = any(isfinite(amps) for amps in run.budget)
    return f"{len(run.chargers)} chargers, at most {most:.1f} A drawn; " + (f"budget {what}" if known else "no budget")


def _scaled(run: Run, flags: list[bool], seconds: float) -> Spans:
    start = run.times[0]
    return [((begin - start) / seconds, (end - start) / seconds) for begin, end in run.spans(flags)]


def _unit(length: float) -> tuple[str, float]:
    """A unit of time that suits a run of `length` seconds, and its seconds."""
    return ("s", 1.0) if length <= 300 else ("min", 60.0) if length <= 3 * 3600 else ("h", 3600.0)


def _steps(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """What is needed to draw the same steps; of too many, the highest of each group."""
    kept = [
        (now, value)
        for index, (now, value) in enumerate(zip(times, values, strict=True))
        if index in (0, len(values) - 1) or not _same(value, values[index - 1])
    ]
    if len(kept) > MOST_POINTS:
        size = ceil(len(kept) / MOST_POINTS)
        groups = [kept[index : index + size] for index in range(0, len(kept), size)]
        kept = [(group[0][0], max((value for _, value in group if isfinite(value)), default=nan)) for group in groups]
    return [now for now, _ in kept], [value for _, value in kept]


def _same(one: float, other: float) -> bool:
    return one == other or not (isfinite(one) or isfinite(other))
