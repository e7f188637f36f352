"""The main rows as a picture: bars, drawn as SVG by hand, legible on a phone, on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import attrs

from benchmarks.measure import Drawing, Results
from benchmarks.report import Report

#: Little more than a phone has: whatever scales it down leaves it legible.
WIDTH: Final = 440
MARGIN: Final = 16
LABEL_WIDTH: Final = 174
VALUE_WIDTH: Final = 70
BAR_HEIGHT: Final = 16
BAR_STEP: Final = 24
TITLE_HEIGHT: Final = 46
PANEL_GAP: Final = 22
CAPTION_HEIGHT: Final = 18
MIN_BAR: Final = 2.0

#: On its own card, so that the text is legible whatever page it stands on.
STYLE: Final = """
.card { fill: #ffffff; stroke: #d0d7de; }
.title { fill: #1f2328; font-size: 16px; font-weight: 600; }
.text { fill: #1f2328; font-size: 14px; }
.small { fill: #59636e; font-size: 13px; }
.ours { fill: #0969da; }
.theirs { fill: #afb8c1; }
.strong { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; stroke: #3d444d; }
  .title, .text { fill: #f0f6fc; }
  .small { fill: #9198a1; }
  .ours { fill: #4493f8; }
  .theirs { fill: #656c76; }
}
"""


@attrs.frozen
class Bar:
    """One bar: what it says, how long it is, and its class in STYLE."""

    label: str
    value: float
    shown: str
    kind: str


@attrs.frozen
class Panel:
    """Bars of one unit, longest wins or shortest wins."""

    title: str
    remark: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return TITLE_HEIGHT + BAR_STEP * len(self.bars)


def panel_of(results: Results, drawing: Drawing) -> Panel | None:
    """Return the panel of the runs that were measured, the best on top; None if none was."""
    bars = []
    for label, run in drawing.runs.items():
        spread = results.spread(run, drawing.metric)
        if spread is not None:
            kind = "ours" if label.startswith("smtplite") else "theirs"
            bars.append(Bar(label, spread.median, drawing.metric.show(spread.median, unit=False), kind))
    if not bars:
        return None
    bars.sort(key=lambda bar: bar.value, reverse=drawing.metric.more_is_better)
    better = "longer" if drawing.metric.more_is_better else "shorter"
    return Panel(drawing.title, f"{drawing.unit}: {better} is better", bars)


def draw(report: Report) -> str:
    """Return the picture."""
    drawings = [(drawing, results) for results in report.results for drawing in results.group.drawings]
    drawings.sort(key=lambda pair: pair[0].place)
    drawn = [panel_of(results, drawing) for drawing, results in drawings]
    panels = [panel for panel in drawn if panel is not None]
    caption = f"{report.date:%Y-%m-%d}, {report.python}, one core" + (", a quick run: rough" if report.is_quick else "")
    height = MARGIN + sum(panel.height + PANEL_GAP for panel in panels) + CAPTION_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'role="img" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>smtplite beside others</title><style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
    ]
    y = MARGIN
    for panel in panels:
        parts += _panel(panel, y)
        y += panel.height + PANEL_GAP
    parts.append(f'<text class="small" x="{MARGIN}" y="{height - 14}">{escape(caption)}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, y: int) -> list[str]:
    room = WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH
    longest = max(bar.value for bar in panel.bars) or 1.0
    parts = [
        f'<text class="title" x="{MARGIN}" y="{y + 16}">{escape(panel.title)}</text>',
        f'<text class="small" x="{MARGIN}" y="{y + 34}">{escape(panel.remark)}</text>',
    ]
    for number, bar in enumerate(panel.bars):
        top = y + TITLE_HEIGHT + number * BAR_STEP
        base = top + BAR_HEIGHT - 3.5
        left = MARGIN + LABEL_WIDTH
        length = max(bar.value / longest * room, MIN_BAR)
        strong = " strong" if bar.kind == "ours" else ""
        parts += [
            f'<text class="text{strong}" x="{left - 10}" y="{base}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{bar.kind}" x="{left}" y="{top}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
            f'<text class="text{strong}" x="{left + length + 8:.1f}" y="{base}">{escape(bar.shown)}</text>',
        ]
    return parts
