"""The main rows as a picture: bars, drawn as SVG by hand, legible on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import attrs

from benchmarks.measure import Drawing, Results
from benchmarks.report import Report

WIDTH: Final = 880
MARGIN: Final = 28
LABEL_WIDTH: Final = 276
VALUE_WIDTH: Final = 100
BAR_HEIGHT: Final = 16
BAR_STEP: Final = 23
TITLE_HEIGHT: Final = 30
PANEL_GAP: Final = 24
MIN_BAR: Final = 2.0

#: On its own card, so that the text is legible whatever page it stands on.
STYLE: Final = """
.card { fill: #ffffff; stroke: #d0d7de; }
.head { fill: #1f2328; font-size: 19px; font-weight: 600; }
.title { fill: #1f2328; font-size: 15px; font-weight: 600; }
.text { fill: #1f2328; font-size: 13px; }
.small { fill: #59636e; font-size: 12px; }
.ours { fill: #0969da; }
.theirs { fill: #afb8c1; }
.strong { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; stroke: #3d444d; }
  .head, .title, .text { fill: #f0f6fc; }
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
            bars.append(Bar(label, spread.median, drawing.metric.show(spread.median), kind))
    if not bars:
        return None
    bars.sort(key=lambda bar: bar.value, reverse=drawing.metric.more_is_better)
    return Panel(drawing.title, f"{'longer' if drawing.metric.more_is_better else 'shorter'} is better", bars)


def draw(report: Report) -> str:
    """Return the picture."""
    drawn = [panel_of(results, drawing) for results in report.results for drawing in results.group.drawings]
    panels = [panel for panel in drawn if panel is not None]
    caption = report.conditions[0]
    height = MARGIN + 44 + sum(panel.height + PANEL_GAP for panel in panels) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'role="img" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>smtplite beside others</title><style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
        f'<text class="head" x="{MARGIN}" y="{MARGIN + 14}">smtplite beside others</text>',
    ]
    y = MARGIN + 44
    for panel in panels:
        parts += _panel(panel, y)
        y += panel.height + PANEL_GAP
    parts.append(f'<text class="small" x="{MARGIN}" y="{height - 16}">{escape(caption)}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, y: int) -> list[str]:
    room = WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH
    longest = max(bar.value for bar in panel.bars) or 1.0
    parts = [
        f'<text class="title" x="{MARGIN}" y="{y + 16}">{escape(panel.title)}</text>',
        f'<text class="small" x="{WIDTH - MARGIN}" y="{y + 16}" text-anchor="end">{escape(panel.remark)}</text>',
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
