"""The waterfall as a picture: one self-contained SVG without scripts, for light and dark pages."""

from __future__ import annotations

import textwrap
from html import escape

from labyard.waterfall.advice import headline
from labyard.waterfall.model import Kind, Span, Waterfall
from labyard.waterfall.rows import KIND_NAMES, Row, rows, title

WIDTH, MARGIN = 1080, 28
LEFT, RIGHT = 268, WIDTH - MARGIN  # the plot
ROW, BAR = 24, 14
_LETTER = 7.2  # a letter's width at 12 px, wide fonts included: which side of a bar has room?

# Light and dark fills. Work is cool, waiting is warm.
_COLOURS = {
    Kind.POWER: ("#94a3b8", "#64748b"),
    Kind.FIRMWARE: ("#64748b", "#94a3b8"),
    Kind.DHCP: ("#0284c7", "#38bdf8"),
    Kind.TFTP: ("#0d9488", "#2dd4bf"),
    Kind.HTTP: ("#059669", "#34d399"),
    Kind.ISCSI: ("#4f46e5", "#818cf8"),
    Kind.LOADER: ("#c084fc", "#d8b4fe"),
    Kind.KERNEL: ("#9333ea", "#c084fc"),
    Kind.USERLAND: ("#65a30d", "#a3e635"),
    Kind.WAIT: ("#f59e0b", "#fbbf24"),
    Kind.UNEXPLAINED: ("#e11d48", "#fb7185"),
}


def _style() -> str:
    light = "".join(f".{kind}{{fill:{colours[0]}}}" for kind, colours in _COLOURS.items())
    dark = "".join(f".{kind}{{fill:{colours[1]}}}" for kind, colours in _COLOURS.items())
    return f"""
text{{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1e293b}}
.page{{fill:#ffffff}}.band{{fill:#f8fafc}}.grid{{stroke:#e2e8f0}}.mark{{stroke:#64748b;stroke-dasharray:3 3}}
.title{{font-size:18px;font-weight:600}}.quiet{{fill:#64748b;font-size:11px}}.strong{{font-weight:700;fill:#b45309}}
.stripe{{stroke:#ffffff;stroke-opacity:.55;stroke-width:3}}.longest{{fill:none;stroke:#b45309;stroke-width:2}}
.box{{fill:#fffbeb;stroke:#f59e0b}}
{light}
@media (prefers-color-scheme: dark){{
text{{fill:#e2e8f0}}.page{{fill:#0f172a}}.band{{fill:#15203a}}.grid{{stroke:#334155}}.mark{{stroke:#94a3b8}}
.quiet{{fill:#94a3b8}}.strong{{fill:#fbbf24}}.stripe{{stroke:#0f172a}}.longest{{stroke:#fde68a}}
.box{{fill:#2a2314;stroke:#b45309}}
{dark}}}
"""


def _step(total: float) -> float:
    """Seconds between two lines of the grid, so that there are about ten."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
    return next((step for step in steps if total / step <= 12), 600)


class _Picture:
    def __init__(self, waterfall: Waterfall) -> None:
        self._total = max(waterfall.total, 1e-3)
        self.parts: list[str] = []

    def x(self, seconds: float) -> float:
        return LEFT + (RIGHT - LEFT) * min(max(seconds / self._total, 0), 1)

    def text(self, x: float, y: float, said: str, style: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(said)}</text>')

    def bar(self, span: Span, y: float, height: float, left: float, right: float, radius: float = 2) -> None:
        """A span between two x; its hover title says all there is."""
        said = f"{span.name}: {span.seconds:.3f} s, from {span.start:.3f} to {span.end:.3f} s"
        said += f". {span.detail}" if span.detail else ""
        place = f'x="{left:.1f}" y="{y:.1f}" width="{max(right - left, 1.6):.1f}" height="{height}" rx="{radius}"'
        self.parts.append(f'<g><title>{escape(said)}</title><rect {place} class="{span.kind}"/>')
        if span.is_wait:
            self.parts.append(f'<rect {place} fill="url(#stripes)"/>')
        self.parts.append("</g>")


def render(waterfall: Waterfall, machine: str) -> str:
    """The SVG's text."""
    picture, listed = _Picture(waterfall), rows(waterfall)
    picture.text(MARGIN, 38, title(waterfall, machine), "title")
    _overview(picture, waterfall)
    legend_end = _legend(picture, waterfall, 104)
    top = legend_end + 44
    bottom = top + len(listed) * ROW
    _grid(picture, waterfall, listed, top, bottom)
    for number, row in enumerate(listed):
        _row(picture, row, top + number * ROW)
    height = _advice(picture, waterfall, bottom + 40)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title(waterfall, machine), quote=True)}">'
        f"<style>{_style()}</style>"
        '<defs><pattern id="stripes" width="8" height="8" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="8" class="stripe"/></pattern></defs>'
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>'
    )
    return head + "\n".join(picture.parts) + "</svg>\n"


def _overview(picture: _Picture, waterfall: Waterfall) -> None:
    """The whole boot in one bar, across the page."""
    scale = (RIGHT - MARGIN) / max(waterfall.total, 1e-3)
    for span in waterfall.spans:
        left, right = MARGIN + span.start * scale, MARGIN + span.end * scale
        picture.bar(span, 54, 26, left, right, radius=0)
        if right - left > 90:
            picture.text((left + right) / 2, 92, f"{span.seconds:.1f} s", "quiet", "middle")


def _legend(picture: _Picture, waterfall: Waterfall, y: float) -> float:
    """Each kind with its sum; returns the y of its last line."""
    x: float = MARGIN
    for kind, name in KIND_NAMES.items():
        spans = [span for span in waterfall.spans if span.kind is kind]
        if not spans:
            continue
        said = f"{name} {sum(span.seconds for span in spans):.2f} s"
        if x + 28 + len(said) * _LETTER > RIGHT:
            x, y = MARGIN, y + 20
        picture.parts.append(f'<rect x="{x:.1f}" y="{y}" width="11" height="11" rx="2" class="{kind}"/>')
        if spans[0].is_wait:
            picture.parts.append(f'<rect x="{x:.1f}" y="{y}" width="11" height="11" rx="2" fill="url(#stripes)"/>')
        picture.text(x + 16, y + 10, said)
        x += 34 + len(said) * _LETTER
    return y


def _grid(picture: _Picture, waterfall: Waterfall, listed: list[Row], top: float, bottom: float) -> None:
    for number in range(0, len(listed), 2):
        place = f'x="{MARGIN - 8}" y="{top + number * ROW}" width="{RIGHT - MARGIN + 16}" height="{ROW}" rx="3"'
        picture.parts.append(f'<rect class="band" {place}/>')
    step = _step(waterfall.total)
    for tick in range(int(waterfall.total / step) + 1):
        x = picture.x(tick * step)
        picture.parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        picture.text(x, bottom + 16, f"{tick * step:g} s", "quiet", "middle")
    for mark in waterfall.marks:
        if not 0 <= mark.at <= waterfall.total:
            continue
        x = picture.x(mark.at)
        said = f"{mark.name} at {mark.at:.2f} s" + (f" ({mark.source})" if mark.source else "")
        picture.parts.append(f"<g><title>{escape(said)}</title>")
        picture.parts.append(f'<line class="mark" x1="{x:.1f}" y1="{top - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        # Names of events would cover each other; the userland's is the one to read, the others have hover titles.
        if mark.source == "console":
            picture.text(x, top - 12, said.removesuffix(" (console)"), "quiet", "middle")
        else:
            picture.parts.append(f'<circle cx="{x:.1f}" cy="{top - 6}" r="3.5" class="dhcp"/>')
        picture.parts.append("</g>")


def _row(picture: _Picture, row: Row, y: float) -> None:
    style = "strong" if row.longest_wait else ""
    name = row.name if len(row.name) <= 37 else row.name[:36] + "…"
    picture.text(MARGIN, y + 16, name, style)
    inset = (ROW - BAR) / 2
    for span in row.spans:
        picture.bar(span, y + inset, BAR, picture.x(span.start), picture.x(span.end))
    left, right = picture.x(row.spans[0].start), max(picture.x(row.spans[-1].end), picture.x(row.spans[-1].start) + 2)
    if row.longest_wait:
        place = f'x="{left - 2:.1f}" y="{y + inset - 2}" width="{right - left + 4:.1f}" height="{BAR + 4}" rx="4"'
        picture.parts.append(f'<rect class="longest" {place}/>')
    said = row.figure + (", the longest wait" if row.longest_wait else "")
    room = len(said) * _LETTER * (1.15 if row.longest_wait else 1) + 12
    if right + room < RIGHT + 12:
        picture.text(right + 8, y + 16, said, style)
    elif left - LEFT > room:
        picture.text(left - 8, y + 16, said, style, "end")
    else:
        middle = (left + right) / 2
        place = f'x="{middle - room / 2:.1f}" y="{y + inset}" width="{room:.1f}" height="{BAR}"'
        picture.parts.append(f'<rect class="page" {place}/>')
        picture.text(middle, y + 16, said, style, "middle")


def _advice(picture: _Picture, waterfall: Waterfall, y: float) -> float:
    """The box with the longest wait and its cure; returns the height of the picture."""
    lines = textwrap.wrap(headline(waterfall), 150)
    lines += [line for note in waterfall.notes for line in textwrap.wrap(note, 150)]
    height = 20 + len(lines) * 18
    place = f'x="{MARGIN - 8}" y="{y}" width="{RIGHT - MARGIN + 16}" height="{height}" rx="6"'
    picture.parts.append(f'<rect class="box" {place}/>')
    for number, line in enumerate(lines):
        picture.text(MARGIN + 6, y + 23 + number * 18, line)
    return y + height + MARGIN - 4
