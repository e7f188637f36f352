"""Pictures of dialogues, in which round trips can be counted; and the colours of all pictures."""

from __future__ import annotations

import html
from typing import Final

import attrs

#: The page's own colours where the picture is part of a page; else colours for the theme of whoever looks.
STYLE: Final = (
    "svg.drawn{--ink:var(--color-foreground-primary,#1d293d);--quiet:var(--color-foreground-secondary,#45556c);"
    "--paper:var(--color-background-primary,#ffffff);--accent:var(--color-brand-primary,#0369a1)}"
    "@media(prefers-color-scheme:dark){svg.drawn{--ink:var(--color-foreground-primary,#e2e8f0);"
    "--quiet:var(--color-foreground-secondary,#a3b1c2);--paper:var(--color-background-primary,#131416);"
    "--accent:var(--color-brand-primary,#7dd3fc)}}"
    "svg.drawn text{fill:var(--ink)}svg.drawn .quiet{fill:var(--quiet)}svg.drawn .accent{fill:var(--accent)}"
    "svg.drawn .paper{fill:var(--paper)}svg.drawn .line{stroke:var(--quiet);stroke-width:1.4;fill:none}"
    "svg.drawn .head{fill:var(--quiet)}"
    "svg.drawn .halo{stroke:var(--paper);stroke-width:5;paint-order:stroke}"
)


@attrs.frozen
class Flow:
    """A dialogue, drawn: what each side writes at once, in turns.

    Attributes:
        title: what the picture shows.
        turns: the lines that one side writes at once; the client's and the server's in turn, the client's first.
    """

    title: str
    turns: tuple[tuple[str, ...], ...]


_CONTENT: Final = ("(the content)", ".")
#: The pictures of docs/explanation/round-trips.md: NAME -> what NAME.svg shows.
FLOWS: Final[dict[str, Flow]] = {
    "one-at-a-time": Flow(
        "One command at a time: five round trips for two recipients",
        (
            ("MAIL FROM:<ada@example.org>",),
            ("250 sender ok",),
            ("RCPT TO:<grace@example.net>",),
            ("250 recipient ok",),
            ("RCPT TO:<alan@example.net>",),
            ("250 recipient ok",),
            ("DATA",),
            ("354 go on",),
            _CONTENT,
            ("250 queued",),
        ),
    ),
    "pipelining": Flow(
        "PIPELINING: the envelope and DATA in one write, the content in the next: two round trips",
        (
            ("MAIL FROM:<ada@example.org>", "RCPT TO:<grace@example.net>", "RCPT TO:<alan@example.net>", "DATA"),
            ("250 sender ok", "250 recipient ok", "250 recipient ok", "354 go on"),
            _CONTENT,
            ("250 queued",),
        ),
    ),
    "stream": Flow(
        "A stream: the end of one message and the envelope of the next, in one write: one round trip a message",
        (
            ("(the content of message 1)", ".", "(message 2:) MAIL, RCPT, DATA"),
            ("250 queued", "250, 250, 354"),
            ("(the content of message 2)", ".", "(message 3:) MAIL, RCPT, DATA"),
            ("250 queued", "250, 250, 354"),
        ),
    ),
    "chunking": Flow(
        "chunking=True: the envelopes and the content of 32 messages in one write, one round trip for all of them",
        (
            (
                "MAIL, RCPT, BDAT 900 LAST",
                "(the content of message 1)",
                "RSET, MAIL, RCPT, BDAT 800 LAST",
                "(the content of message 2)",
                "(... 32 messages)",
            ),
            ("250, 250, 250", "250, 250, 250, 250", "(... for each message)"),
        ),
    ),
    "refusal": Flow(
        "One recipient of a group is refused; the message is still sent to the other, in two round trips",
        (
            ("MAIL FROM:<ada@example.org>", "RCPT TO:<grace@example.net>", "RCPT TO:<nobody@example.net>", "DATA"),
            ("250 sender ok", "250 recipient ok", "550 no such user here", "354 go on"),
            _CONTENT,
            ("250 queued",),
        ),
    ),
    "opening": Flow(
        "A connection costs three round trips before the first message",
        (
            ("(connect)",),
            ("(connected)",),
            ("(wait)",),
            ("220 mx.example ESMTP",),
            ("EHLO client.example",),
            ("250 PIPELINING, SIZE, ...",),
        ),
    ),
}
_FLOW_WIDTH: Final = 380
_CLIENT_X, _SERVER_X = 22, 358
_LINE_HEIGHT: Final = 17
_SLANT: Final = 16


def flow(name: str) -> str:
    """Return a picture of a dialogue in SVG: time goes down, and each round trip has its number."""
    drawn = FLOWS[name]
    parts = [
        f'<text x="{_CLIENT_X - 14}" y="18" font-weight="bold">client</text>'
        f'<text x="{_SERVER_X + 14}" y="18" font-weight="bold" text-anchor="end">server</text>'
    ]
    y, trips = 30, 0
    for number, lines in enumerate(drawn.turns):
        is_client = number % 2 == 0
        side = f'x="{_CLIENT_X + 16}"' if is_client else f'x="{_SERVER_X - 16}" text-anchor="end"'
        for line in lines:
            y += _LINE_HEIGHT
            is_said = not line.startswith("(")
            kind = 'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"' if is_said else 'class="quiet"'
            parts.append(f'<text {side} y="{y}" {kind}>{html.escape(line)}</text>')
        y += 8
        start, end = (_CLIENT_X, _SERVER_X - 1) if is_client else (_SERVER_X, _CLIENT_X + 11)
        parts.append(f'<path class="line" d="M{start} {y}L{end} {y + _SLANT}" marker-end="url(#{name}-head)"/>')
        y += _SLANT
        if not is_client:
            trips += 1
            parts.append(
                f'<circle class="accent" cx="{_CLIENT_X}" cy="{y}" r="11"/>'
                f'<text class="paper" x="{_CLIENT_X}" y="{y}" text-anchor="middle" dominant-baseline="central"'
                f' font-weight="bold">{trips}</text>'
            )
            y += 4
    height = y + 16
    lifelines = "".join(f'<path class="line" d="M{x} 26V{height - 2}"/>' for x in (_CLIENT_X, _SERVER_X))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawn flow" role="img" width="{_FLOW_WIDTH}" height="{height}"'
        f' viewBox="0 0 {_FLOW_WIDTH} {height}" font-family="system-ui,sans-serif" font-size="13">'
        f"<title>{html.escape(drawn.title)}</title><style>{STYLE}</style>"
        f'<defs><marker id="{name}-head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
        f' orient="auto"><path class="head" d="M0 0L10 5L0 10z"/></marker></defs>'
        f"{lifelines}{''.join(parts)}</svg>\n"
    )
