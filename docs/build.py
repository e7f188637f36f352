"""Regenerates the generated parts of the documentation from the code, in place; and builds it for a browser.

``python docs/build.py`` writes; ``python docs/build.py --check`` writes nothing, names each page that is out of date
and exits 1 if there is one. ``python docs/build.py html`` builds docs/_build/html with Sphinx, every warning an error;
it needs ``pip install -e '.[docs]'``. ``python docs/build.py measure`` installs each extra into an empty folder, and
writes docs/dependencies.json, from which two tables are made. A generated part stands between two comments::

    <!-- generated: NAME -->
    ...
    <!-- end generated -->

NAME is a key of PARTS. Everything outside of such parts is written by hand and left alone.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs

import smtplite.message
import smtplite.message.composing
import smtplite.message.content
import smtplite.message.prepared
import smtplite.message.wire
import smtplite.net.stream
import smtplite.protocol
from smtplite import MessageError, Reply, SMTPError, Timeouts
from smtplite.message.addresses import forward_path, mailboxes_of
from smtplite.protocol import (
    REPLY_CODES,
    RULES,
    AuthCancel,
    Command,
    EndOfData,
    ForwardPath,
    Rule,
    State,
)
from smtplite.protocol.codes import ENHANCED_STATUS_CODES
from smtplite.protocol.parameters import KNOWN_PARAMETERS
from smtplite.protocol.state import AFTER, RESERVED_CODES, Occasion

DOCS: Final = Path(__file__).resolve().parent

#: The reply codes that Benjamin Roux, "Le protocole SMTP" (2007), lists.
ARTICLE_CODES: Final = (
    *(211, 214, 220, 221, 250, 251, 354, 421, 450, 451, 452),
    *(500, 501, 502, 503, 504, 550, 551, 552, 553, 554),
)

#: The pages beside this folder.
BESIDE: Final = ("README.md", "CONTRIBUTING.md")

#: Where the table ADDRESSES stands: accepted and refused addresses.
ADDRESS_TABLE: Final = DOCS.parent / "tests" / "protocol" / "test_paths.py"
#: Where the tables of the house stand: which room may import which, and in which order modules stand in a room.
LAYERS: Final = DOCS.parent / "tests" / "test_layers.py"
#: The package whose rooms they are.
PACKAGE: Final = DOCS.parent / "smtplite"
#: Where the tables NAMED, FIELDS and REFUSED stand: what is read of names and of address fields.
FIELD_TABLE: Final = DOCS.parent / "tests" / "message" / "test_addresses.py"
#: Where the table TROUBLES stands: what a route does when a relay fails.
TROUBLE_TABLE: Final = DOCS.parent / "tests" / "routes" / "test_troubles.py"
#: Where the tables of `smtplite.compat.aiosmtplib` stand: what differs from aiosmtplib, and each of its names.
COMPAT_TABLE: Final = DOCS.parent / "tests" / "compat" / "differences.py"
#: A longer address is shown without its middle.
MAX_LITERAL_CHARACTERS: Final = 72

_PART: Final = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end>^<!-- end generated -->$)", re.DOTALL | re.MULTILINE
)
_BEGIN: Final = "<!-- generated:"


# Markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def code(text: str) -> str:
    """Return the text as a code span, whatever backticks it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _prose(text: str) -> str:
    """Return text of a docstring or a comment as Markdown, without the numbers of our internal rules."""
    text = re.sub(r" ?\((?:rules? )?R\d[^()]*\)", "", text)
    # Angle brackets would vanish as HTML.
    return re.sub(r"<([^<>`]*)>", r"&lt;\1&gt;", text)


def first_line(documented: object) -> str:
    """Return the first line of a docstring."""
    return _prose((inspect.getdoc(documented) or "").partition("\n")[0])


def attributes(cls: type) -> dict[str, str]:
    """Return attribute -> what the "Attributes:" section of the class's docstring says of it."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: _prose(" ".join(text.split())) for name, text in found}


# Reply codes


#: For each class, the property of Reply whose docstring says what it means.
_CLASSES: Final = {2: "is_positive", 3: "is_intermediate", 4: "is_transient", 5: "is_permanent"}


def _class(digit: int) -> tuple[str, str]:
    """Return a class, such as "2yz", and its meaning."""
    name, _, meaning = first_line(getattr(Reply, _CLASSES[digit])).partition(": ")
    return name, meaning.rstrip(".")


def reply_classes() -> str:
    """Return the table of the classes: what each first digit means."""
    rows = ((*_class(digit), code(f"reply.{name}")) for digit, name in _CLASSES.items())
    return table(("Class", "Meaning", "Property that is True"), rows)


def _code_rows(codes: Iterable[int]) -> Iterable[Sequence[str]]:
    return ((str(number), _prose(REPLY_CODES[number]), ": ".join(_class(number // 100))) for number in codes)


def reply_codes() -> str:
    """Return the table of all codes that the code knows by name."""
    return table(("Code", "Meaning", "Class"), _code_rows(sorted(REPLY_CODES)))


def enhanced_codes() -> str:
    """Return a table of the enhanced status codes without their class, and what each means."""
    rows = [(code(f"X.{subject}.{detail}"), text) for (subject, detail), text in ENHANCED_STATUS_CODES.items()]
    return table(("Code", "Meaning"), rows)


def parameters() -> str:
    """Return a table of the parameters that are known, and who sets each."""
    rows = [
        (code(known.keyword), known.extension, known.commands, _setter(known.set_by), known.meaning, known.rfc)
        for known in KNOWN_PARAMETERS
    ]
    return table(("Parameter", "Extension", "Of", "Set by", "Meaning", "Defined in"), rows)


def _setter(set_by: str) -> str:
    return set_by if set_by in ("the client", "never") else code(set_by)


def article_codes() -> str:
    """Return the table of the article's codes."""
    return table(("Code", "Meaning", "Class"), _code_rows(ARTICLE_CODES))


# States


def states() -> str:
    """Return the table of the states."""
    return table(("State", "What it means"), ((code(state.name), state.value) for state in State))


def rules() -> str:
    """Return the table of RULES."""
    return table(
        (
            *("Command", "Verb", "Legal in", "After success", "After failure", "Ends its group", "Requires"),
            *("Expected replies", "Timeout"),
        ),
        (_rule_row(command, rule) for command, rule in RULES.items()),
    )


def _rule_row(command: type[Command], rule: Rule) -> Sequence[str]:
    success = _state(rule.after_success)
    if rule.while_owed is not rule.after_success:
        success += f"; {_state(rule.while_owed)} until its reply comes"
    expected = ", ".join(f"{digit}yz" for digit in sorted(rule.expected))
    if rule.code is not None:
        expected += f"; of 2yz only {rule.code}"
    return (
        code(command.__name__),
        code(rule.verb),
        ", ".join(code(state.name) for state in State if state in rule.legal_in) or "never sent; its reply comes first",
        success,
        _state(rule.after_failure),
        "yes" if rule.ends_group else "in LMTP" if rule.ends_lmtp_group else "no",
        code(rule.requires) if rule.requires is not None else "",
        expected,
        code(rule.timeout),
    )


def occasions() -> str:
    """Return the table of AFTER."""
    return table(("What happens", "After it"), ((_prose(each.value), code(AFTER[each].name)) for each in Occasion))


def _state(state: State | None) -> str:
    return "unchanged" if state is None else code(state.name)


@attrs.frozen(order=True)
class Edge:
    """One transition of the diagram, before edges that join the same two states are drawn as one."""

    source: str
    target: str
    label: str


def edges() -> list[Edge]:
    """Return every transition of RULES, and those of AFTER that do not lead from every state."""
    found = []
    for command, rule in RULES.items():
        verb = _label(command, rule)
        for state in [state for state in State if state in rule.legal_in] or [State.GREETING]:
            success = rule.after_success or state
            if rule.while_owed is not rule.after_success and rule.while_owed is not None:
                found.append(Edge(state.name, rule.while_owed.name, verb))
                found.append(Edge(rule.while_owed.name, success.name, f"{verb} accepted"))
                if rule.after_failure is not None:
                    found.append(Edge(rule.while_owed.name, rule.after_failure.name, f"{verb} refused"))
                continue
            found.append(Edge(state.name, success.name, verb))
            is_refusable = not rule.expected.isdisjoint({4, 5})  # else a refusal breaks the protocol
            if is_refusable and rule.after_failure is not None and rule.after_failure is not success:
                found.append(Edge(state.name, rule.after_failure.name, f"{verb} refused"))
            if rule.after_challenge is not None:
                found.append(Edge(state.name, rule.after_challenge.name, f"{verb} answered 334"))
    for source, occasion in ((State.TLS, Occasion.TLS_ESTABLISHED), (State.CLOSING, Occasion.END_OF_OCTETS)):
        found.append(Edge(source.name, AFTER[occasion].name, occasion.value))
    return list(dict.fromkeys(found))


def _label(command: type[Command], rule: Rule) -> str:
    # A lone dot or asterisk could not be seen beside an arrow.
    return {EndOfData: "end of data (.)", AuthCancel: "cancel (*)"}.get(command, rule.verb)


def diagram() -> str:
    """Return the state diagram: commands that share an edge are drawn as one."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for edge in edges():
        grouped.setdefault((edge.source, edge.target), []).append(edge.label)
    lines = ["stateDiagram-v2", "    direction TB", f"    [*] --> {State.GREETING.name}"]
    lines += [f"    {source} --> {target}: {', '.join(labels)}" for (source, target), labels in grouped.items()]
    lines += [
        f"    {State.CLOSED.name} --> [*]",
        f"    note right of {State.CLOSING.name}: from every state, by a 421",
        f"    note right of {State.CLOSED.name}: from every state, by the end of the connection",
    ]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


#: Where each state stands in the picture: the middle of its box.
PLACES: Final[dict[str, tuple[int, int]]] = {
    "GREETING": (250, 60),
    "HELLO": (250, 210),
    "TLS": (180, 480),
    "READY": (430, 350),
    "AUTH": (430, 570),
    "MAIL": (640, 190),
    "RCPT": (860, 350),
    "DATA": (662, 350),
    "CHUNK": (1040, 350),
    "VERDICT": (820, 560),
    "FAILED": (1060, 720),
    "CLOSING": (250, 720),
    "CLOSED": (250, 860),
}
#: How far an arrow swings out to its right, so that it keeps clear of other boxes.
BENDS: Final[dict[tuple[str, str], int]] = {
    ("GREETING", "CLOSING"): 320,
    ("READY", "AUTH"): 140,
    ("AUTH", "READY"): 140,
    ("RCPT", "FAILED"): 50,
    ("MAIL", "FAILED"): -660,
    ("VERDICT", "READY"): 50,
}
#: States whose own arrow hangs below them.
HANGING: Final = frozenset({"AUTH"})
_HALF_WIDTH, _HALF_HEIGHT = 52, 17
#: Labels that say the same in every state: each state has its own, and a caption says so once.
_EVERYWHERE: Final = frozenset({"NOOP", "VRFY", "EXPN", "HELP", "(any other)", "QUIT"})
_RESETS: Final = frozenset({"EHLO", "HELO", "LHLO", "RSET"})


#: The page's own colours where the picture is part of a page; else colours for the theme of whoever looks.
_STYLE: Final = (
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


def picture() -> str:
    """Return the state diagram as a picture in SVG, from the same transitions as `diagram`.

    What leads from many states to one place would cover all else: a caption says it, where the rules allow it.
    """
    grouped: dict[tuple[str, str], list[str]] = {}
    for edge in edges():
        if edge.label in _EVERYWHERE or (edge.label in _RESETS and edge.source != State.HELLO.name):
            continue
        grouped.setdefault((edge.source, edge.target), []).append(edge.label)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" class="drawn states" role="img" width="1180" height="940"'
        ' viewBox="0 0 1180 940" font-family="system-ui,sans-serif" font-size="14">',
        f"<title>The states of a connection, and what leads from one to another</title><style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        '<path class="head" d="M0 0L10 5L0 10z"/></marker></defs>',
    ]
    texts = []
    for (source, target), labels in grouped.items():
        path, (x, y) = _arrow(source, target)
        parts.append(f'<path class="line" d="{path}" marker-end="url(#head)"/>')
        top = y - 8 * (len(labels) - 1)
        for row, label in enumerate(labels):
            texts.append(
                f'<text x="{x:.0f}" y="{top + 16 * row:.0f}" text-anchor="middle" dominant-baseline="middle"'
                f' class="halo">{label}</text>'
            )
    parts += texts
    for state in State:
        x, y = PLACES[state.name]
        parts.append(
            f'<rect x="{x - _HALF_WIDTH}" y="{y - _HALF_HEIGHT}" width="{2 * _HALF_WIDTH}" height="{2 * _HALF_HEIGHT}"'
            f' rx="8" class="accent"/><text class="paper" x="{x}" y="{y}" text-anchor="middle"'
            f' dominant-baseline="central" font-weight="bold">{state.name}</text>'
        )
    resets = _states_of({"RSET"}, State.READY)
    quits = _states_of({"QUIT"}, State.CLOSING)
    stays = sorted({edge.label for edge in edges() if edge.label in _EVERYWHERE and edge.source == edge.target})
    for row, caption in enumerate(
        (
            f"Not drawn: RSET, EHLO, HELO or LHLO leads back to READY from {resets}.",
            f"QUIT leads to CLOSING from {quits}.",
            f"{', '.join(stays)} leave the state as it is.",
            "From every state, a 421 leads to CLOSING, and the end of the connection leads to CLOSED.",
        )
    ):
        parts.append(f'<text class="quiet" x="330" y="{820 + 24 * row}">{caption}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _states_of(labels: Iterable[str], target: State) -> str:
    found = dict.fromkeys(edge.source for edge in edges() if edge.label in labels and edge.target == target.name)
    return ", ".join(found)


def _arrow(source: str, target: str) -> tuple[str, tuple[float, float]]:
    """Return the path of an arrow, and where its label stands."""
    (x1, y1), (x2, y2) = PLACES[source], PLACES[target]
    if source == target:
        sign = 1 if source in HANGING else -1
        begin, out = y1 + sign * _HALF_HEIGHT, y1 + sign * (_HALF_HEIGHT + 52)
        return f"M{x1 - 22} {begin}C{x1 - 50} {out} {x1 + 50} {out} {x1 + 22} {begin}", (x1, out)
    dx, dy = x2 - x1, y2 - y1
    length = (dx * dx + dy * dy) ** 0.5
    bend = BENDS.get((source, target), 0)
    middle = ((x1 + x2) / 2 - dy / length * bend, (y1 + y2) / 2 + dx / length * bend)
    (ax, ay), (bx, by) = _edge_of(source, middle), _edge_of(target, middle)
    label = ((ax + bx) / 4 + middle[0] / 2, (ay + by) / 4 + middle[1] / 2)
    return f"M{ax:.0f} {ay:.0f}Q{middle[0]:.0f} {middle[1]:.0f} {bx:.0f} {by:.0f}", label


def _edge_of(state: str, towards: tuple[float, float]) -> tuple[float, float]:
    """Return where a line from a state's middle leaves its box."""
    x, y = PLACES[state]
    dx, dy = towards[0] - x, towards[1] - y
    scale = min(_HALF_WIDTH / abs(dx) if dx else 1e9, _HALF_HEIGHT / abs(dy) if dy else 1e9)
    return x + dx * scale, y + dy * scale


# Round trips


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
        f"<title>{html.escape(drawn.title)}</title><style>{_STYLE}</style>"
        f'<defs><marker id="{name}-head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
        f' orient="auto"><path class="head" d="M0 0L10 5L0 10z"/></marker></defs>'
        f"{lifelines}{''.join(parts)}</svg>\n"
    )


def pictures(docs: Path) -> dict[Path, str]:
    """Return where each generated picture is -> the picture."""
    made = {docs / "explanation" / f"{name}.svg": flow(name) for name in FLOWS}
    return {docs / "reference" / "states.svg": picture(), **made}


def reserved_codes() -> str:
    """Return the table of the codes that are valid only as the reply to some commands."""
    return table(
        ("Code", "Meaning", "Valid as the reply to"),
        (
            (
                str(number),
                _prose(REPLY_CODES[number]),
                ", ".join(code(command.__name__) for command in RULES if command in commands),
            )
            for number, commands in RESERVED_CODES.items()
        ),
    )


# Errors


def _subclasses(cls: type[SMTPError]) -> list[type[SMTPError]]:
    # In the order of their definition; a user's own subclasses are not ours to document.
    return [child for child in cls.__subclasses__() if child.__module__ == SMTPError.__module__]


def _other_bases(cls: type[SMTPError]) -> str:
    others = [base.__name__ for base in cls.__bases__ if base is not Exception and not issubclass(base, SMTPError)]
    return f" ({', '.join(others)})" if others else ""


def error_tree() -> str:
    """Return the exception tree, drawn."""
    lines = []

    def draw(cls: type[SMTPError], lead: str, below: str) -> None:
        lines.append(f"{lead}{cls.__name__}{_other_bases(cls)}")
        children = _subclasses(cls)
        for child in children:
            is_last = child is children[-1]
            draw(child, below + ("└── " if is_last else "├── "), below + ("    " if is_last else "│   "))

    draw(SMTPError, "", "")
    return "```text\n" + "\n".join(lines) + "\n```\n"


def error_table() -> str:
    """Return the table of the exceptions: what each says, and the attributes that it adds."""
    rows = []

    def add(cls: type[SMTPError]) -> None:
        bases = ", ".join(code(base.__name__) for base in cls.__bases__)
        added = "" if cls is SMTPError else ", ".join(map(code, attributes(cls)))
        rows.append((code(cls.__name__), bases, first_line(cls), added))
        for child in _subclasses(cls):
            add(child)

    add(SMTPError)
    return table(("Class", "Bases", "Meaning", "Further attributes"), rows)


def error_attributes() -> str:
    """Return the table of what every error carries."""
    rows = [(code(name), meaning) for name, meaning in attributes(SMTPError).items()]
    rows += [(code(name), first_line(value)) for name, value in vars(SMTPError).items() if isinstance(value, property)]
    return table(("Attribute", "Meaning"), rows)


# Timeouts and limits


def timeouts() -> str:
    """Return the table of the defaults of Timeouts."""
    meanings = attributes(Timeouts)
    return table(
        ("Field", "Default, seconds", "Limits", "For the replies to"),
        (
            (
                code(field.name),
                f"{field.default:g}",
                meanings[field.name],
                ", ".join(code(rule.verb) for rule in RULES.values() if rule.timeout == field.name),
            )
            for field in attrs.fields(Timeouts)
        ),
    )


def limits() -> str:
    """Return the table of the constants MAX_*, and what stands beside each in its module."""
    names = [found.name for found in pkgutil.iter_modules(smtplite.protocol.__path__, "smtplite.protocol.")]
    modules = [
        *map(importlib.import_module, names),
        smtplite.message.wire,
        smtplite.message.content,
        smtplite.message.prepared,
        smtplite.message.composing,
        smtplite.net.stream,
    ]
    rows = (
        (code(name), f"{getattr(module, name):,}", _unit(name), remark, code(module.__name__))
        for module in modules
        for name, remark in _constants(module)
    )
    return table(("Constant", "Value", "Unit", "What it limits", "Module"), rows)


def _unit(name: str) -> str:
    return name.rpartition("_")[2].lower()


def _constants(module: ModuleType) -> list[tuple[str, str]]:
    """Return the module's public MAX_* and the comment after each, or above it and those that follow on."""
    found = []
    comment: list[str] = []
    is_above = False  # whether the line before was a comment too
    for line in inspect.getsource(module).splitlines():
        if line.startswith("#"):
            comment = [*(comment if is_above else []), line.lstrip("#:").strip()]
            is_above = True
            continue
        is_above = False
        match = re.match(r"(MAX_\w+)(?:: \S+)? = [^#]*(?:# ?(.*))?", line)
        if match is None:
            comment = []
            continue
        found.append((match[1], _prose(match[2] or " ".join(comment))))
    return found


# Addresses

_Row = tuple[str, bytes | None, str]


def _tables(module: Path, names: str) -> dict[str, Any]:
    """Return the constants of a test module whose names match, without loading the tests and what they need."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    constants: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and re.fullmatch(names, target.id):
                constants.append(node)
    found: dict[str, Any] = {}
    exec(compile(ast.Module(constants, type_ignores=[]), module, "exec"), found)  # noqa: S102 (our own tests)
    return found


def _addresses() -> list[_Row]:
    rows: list[_Row] = _tables(ADDRESS_TABLE, "ADDRESSES|_[A-Z0-9_]+")["ADDRESSES"]
    return rows


def _literal(text: str) -> str:
    """Return the text as a Python literal, which shows what cannot be seen; a long one without its middle."""
    literal = repr(text)
    if len(literal) > MAX_LITERAL_CHARACTERS:
        literal = f"{literal[:30]} ... {literal[-20:]}"
    return code(literal)


def accepted_addresses() -> str:
    """Return the table of addresses that are accepted, each with the path that the code makes of it."""
    rows = []
    for address, wire, reason in _addresses():
        if wire is None:
            continue
        path = ForwardPath.parse(address)
        if path.wire != wire:
            raise ValueError(f"{address!r} is sent as {path.wire!r}, and {ADDRESS_TABLE.name} says {wire!r}")
        shown = wire.decode()
        if len(shown) > MAX_LITERAL_CHARACTERS:
            shown = f"{shown[:30]} ... {shown[-20:]}"
        rows.append((_literal(address), code(shown), "yes" if path.needs_smtputf8 else "", _prose(reason)))
    return table(("Address, as a Python literal", "Path as it is sent", "Needs SMTPUTF8", "Remark"), rows)


def refused_addresses() -> str:
    """Return the table of addresses that are refused; the code is asked, too."""
    rows = []
    for address, wire, reason in _addresses():
        if wire is not None:
            continue
        try:
            path = ForwardPath.parse(address)
        except MessageError:
            rows.append((_literal(address), _prose(reason)))
        else:
            raise ValueError(f"{address[:80]!r} is sent as {path.wire[:80]!r}, and {ADDRESS_TABLE.name} refuses it")
    return table(("Address, as a Python literal", "Why it is refused"), rows)


def named_addresses() -> str:
    """Return the table of what is read off an address that is passed with a name."""
    rows = []
    for given, address in _tables(FIELD_TABLE, "NAMED")["NAMED"]:
        path = forward_path(given)
        if path.wire != f"<{address}>".encode():
            raise ValueError(f"{given!r} is sent as {path.wire!r}, and {FIELD_TABLE.name} says {address!r}")
        rows.append((_literal(given), code(path.wire.decode())))
    return table(("Address, as a Python literal", "Path as it is sent"), rows)


def read_fields() -> str:
    """Return the table of address fields that are read, each with what the code reads."""
    rows = []
    for text, expected in _tables(FIELD_TABLE, "FIELDS")["FIELDS"]:
        read = [(mailbox.display_name, mailbox.addr_spec) for mailbox in mailboxes_of(text)]
        if read != expected:
            raise ValueError(f"{text!r} is read as {read!r}, and {FIELD_TABLE.name} says {expected!r}")
        shown = ", ".join(f"{_literal(name)} {code(address)}" if name else code(address) for name, address in read)
        rows.append((_literal(text), shown or "nobody"))
    return table(("Value of the field, as a Python literal", "Names and addresses"), rows)


def refused_fields() -> str:
    """Return the table of address fields that are refused, each with what the error says."""
    rows = []
    for text, _ in _tables(FIELD_TABLE, "REFUSED")["REFUSED"]:
        try:
            read = mailboxes_of(text, what="it")
        except MessageError as error:
            problem = _SHOWN.sub("", str(error))
            rows.append((_literal(text), _prose(problem)))
        else:
            raise ValueError(f"{text!r} is read as {read!r}, and {FIELD_TABLE.name} refuses it")
    return table(("Value of the field, as a Python literal", "What the error says"), rows)


#: What an error shows of the field, in front of what it says.
_SHOWN: Final = re.compile(r"^it is not a list of addresses: ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"): ")


# Measurements

#: The benchmarks' own page; `python -m benchmarks` writes it.
RESULTS: Final = DOCS / "benchmarks" / "results.md"
_PEERS: Final = ("aiosmtplib", "smtpproto", "smtplib", "nodemailer")


def troubles() -> str:
    """Return the table of what a route does when a relay fails."""
    rows = _tables(TROUBLE_TABLE, "TROUBLES|MOVES|STAYS|COUNTS|AT_ONCE|NOTHING")["TROUBLES"]
    shown = [(what, message, relay) for what, _, message, relay in rows]
    return table(("What happens at a relay", "The message", "The relay"), shown)


def _medians(heading: str) -> dict[str, str]:
    """Return who -> median, of the table below a heading of the benchmarks' page."""
    _, found, section = RESULTS.read_text(encoding="utf-8").partition(f"\n### {heading}\n")
    if not found:
        raise ValueError(f"{RESULTS.name} has no table {heading!r}")
    return dict(re.findall(r"^\| ([^|]+?) \| ([\d.,]+) \|", section.partition("\n### ")[0], re.MULTILINE))


def measured() -> str:
    """Return the table of what a message costs, ours beside the peers', as the benchmarks found it."""
    trips = _medians("Round trips a message, counted by the server")
    seconds = _medians("200 messages, round trip 20 ms, 1 connection: seconds in all")
    rows = [
        ("round trips a message", trips["smtplite send"], trips["smtplite send_many"], *(trips[who] for who in _PEERS)),
        ("the same, to 50 recipients", trips["smtplite send, to 50"], "–", *(trips[f"{who}, to 50"] for who in _PEERS)),
        (
            "200 messages at a round trip of 20 ms, 1 connection",
            *(f"{seconds[who]} s" for who in ("smtplite, one send after another", "smtplite", *_PEERS)),
        ),
    ]
    return table(("Cost", "smtplite `send`", "`send_many`", *_PEERS), rows)


def goals() -> str:
    """Return the table of what the benchmarks ask of us, as `python -m benchmarks` judges it."""
    sys.path.insert(0, str(DOCS.parent))  # they are no part of the package
    from benchmarks.rows import GROUPS

    rows = [
        (row.title, " and ".join(goal.in_words(row.metric) for goal in row.goals), code(group.name))
        for group in (make(quick=False) for make in GROUPS.values())
        for row in group.rows
        if row.goals
    ]
    return table(("What", "Goal", "Measured by `--rows`"), rows)


# Programs for aiosmtplib


def compat_differences() -> str:
    """Return the table of what differs from aiosmtplib, as the tests of smtplite.compat hold it."""
    rows: dict[str, Sequence[str]] = _tables(COMPAT_TABLE, "DIFFERENCES")["DIFFERENCES"]
    return table(("What the program meets", "aiosmtplib", "Here", "What to do"), rows.values())


def compat_further() -> str:
    """Return the table of what else differs."""
    rows: list[Sequence[str]] = _tables(COMPAT_TABLE, "FURTHER")["FURTHER"]
    return table(("What the program has", "aiosmtplib", "Here"), rows)


def compat_names() -> str:
    """Return the table of each name of aiosmtplib's."""
    names: dict[str, tuple[str, str]] = _tables(COMPAT_TABLE, "NAMES")["NAMES"]
    return table(("aiosmtplib", "Here", "With `Client`"), ((code(name), *row) for name, row in names.items()))


# Dependencies

#: What is installed: written by `measure`, read by the table.
INSTALLED: Final = DOCS / "dependencies.json"
#: Extras for those who work on smtplite itself.
_FOR_US: Final = frozenset({"docs", "test"})


def _requirements() -> dict[str, tuple[str, ...]]:
    """Return extra -> what pyproject.toml asks for; "" is smtplite itself."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: tuple(asked) for name, asked in project["optional-dependencies"].items() if name not in _FOR_US}
    return {"": tuple(project["dependencies"]), **extras}


def measure() -> None:
    """Install each extra into an empty folder, from the package index, and write what came."""
    packages: dict[str, dict[str, object]] = {}
    brought: dict[str, dict[str, list[str]]] = {}
    for extra, asked in _requirements().items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", folder, *asked]
            subprocess.run(command, check=True)  # noqa: S603 (pip, and what pyproject.toml asks for)
            found = {_normal(each.name): each for each in importlib.metadata.distributions(path=[folder])}
            brought[extra] = {"asked": list(asked), "installed": sorted(found)}
            packages |= {name: _measured(each) for name, each in found.items()}
    python = ".".join(platform.python_version_tuple()[:2])
    kept = {
        "python": python,
        "system": platform.system(),
        "extras": brought,
        "packages": dict(sorted(packages.items())),
    }
    INSTALLED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(f"{INSTALLED.name} written: now run python docs/build.py")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _name_of(requirement: str) -> str:
    return _normal(re.split(r"[<>=~!;\[ ]", requirement)[0])


def _measured(found: importlib.metadata.Distribution) -> dict[str, object]:
    files = [Path(str(found.locate_file(file))) for file in found.files or ()]
    fields = found.metadata
    licence = fields["License-Expression"] or fields["License"] or ""
    if not licence or "\n" in licence:
        classifiers = [each for each in fields.get_all("Classifier") or () if each.startswith("License ::")]
        licence = ", ".join(each.rpartition(" :: ")[2] for each in classifiers)
    return {
        "version": found.version,
        "licence": licence,
        "kilobytes": round(sum(file.stat().st_size for file in files if file.exists()) / 1000),
        "compiled": any(file.suffix in (".so", ".pyd") for file in files),
    }


def _size(kilobytes: int) -> str:
    return f"{kilobytes} kB" if kilobytes < 1000 else f"{kilobytes / 1000:.1f} MB"


def dependencies() -> str:
    """Return the table of what each extra installs, as `measure` found it."""
    kept = json.loads(INSTALLED.read_text(encoding="utf-8"))
    packages, base = kept["packages"], set(kept["extras"][""]["installed"])
    rows = []
    for extra, asked in _requirements().items():
        name = code(f"smtplite[{extra}]" if extra else "smtplite")
        if kept["extras"].get(extra, {}).get("asked") != list(asked):
            rows.append((name, ", ".join(code(_name_of(each)) for each in asked), "", "", ""))
            continue
        added = [each for each in kept["extras"][extra]["installed"] if not extra or each not in base]
        size = sum(packages[each]["kilobytes"] for each in added)
        compiled = ", ".join(each for each in added if packages[each]["compiled"])
        rows.append((name, ", ".join(map(code, added)), str(len(added)), _size(size), compiled or "no"))
    return table(("You install", "It adds", "Packages", "On disk", "Compiled code"), rows)


def packages() -> str:
    """Return the table of the packages that the extras bring: version, licence and size, as `measure` found them."""
    kept = json.loads(INSTALLED.read_text(encoding="utf-8"))
    rows = []
    for name, found in kept["packages"].items():
        users = [extra or "smtplite itself" for extra, each in kept["extras"].items() if name in each["installed"]]
        by = users[0] if users[0] == "smtplite itself" else ", ".join(map(code, users))
        link = f"[{name}](https://pypi.org/project/{name}/)"
        rows.append((link, found["version"], found["licence"], _size(found["kilobytes"]), by))
    return table(("Package", "Version measured", "Licence", "On disk", "Brought by"), rows)


def measured_with() -> str:
    """Return the sentence that says where the two tables come from."""
    kept = json.loads(INSTALLED.read_text(encoding="utf-8"))
    return f"Measured with Python {kept['python']} on {kept['system']}, without bytecode. 1 MB is 1,000,000 bytes.\n"


# Examples


def examples() -> str:
    """Return the list of the example projects, by the titles of their pages."""
    pages = [*sorted(DOCS.glob("examples/*.md")), *sorted(DOCS.glob("examples/*/README.md"))]
    titles = {page: page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in pages}
    return "".join(f"- [{title}]({page.relative_to(DOCS).as_posix()})\n" for page, title in titles.items())


# The house


def rooms() -> str:
    """Return the table of the rooms and their modules, from top to bottom, as tests/test_layers.py holds them."""
    house = _tables(LAYERS, "(?!PACKAGE|MODULES)[A-Z]+")
    below, above = house["ARROWS"], house["ABOVE"]
    rows = []
    for room in [*reversed(above), *reversed(below)]:
        if room in above:
            allowed = [*(code(_short(name)) for name in sorted(above[room])), "`client` and all below it"]
        else:
            allowed = [code(_short(name)) for name in reversed(below) if name in below[room]]
        rows.append((f"**{code(_short(room))}**", _summary(_module(room)), ", ".join(allowed) or "nothing of ours"))
        folder = PACKAGE.joinpath(*room.split(".")[1:])
        if room == PACKAGE.name or not folder.is_dir():
            continue
        names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        order = {name: place for place, group in enumerate(house["ORDERS"].get(room, ())) for name in group}
        names.sort(key=lambda name: (-order.get(name, 0), name))
        rows += ((code(f"{_short(room)}.{name}"), _summary(folder / f"{name}.py"), "") for name in names)
    return table(("Room, and its modules", "What it does", "It may import"), rows)


def _short(room: str) -> str:
    return room.removeprefix(f"{PACKAGE.name}.")


def _module(room: str) -> Path:
    path = PACKAGE.joinpath(*room.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _summary(module: Path) -> str:
    """Return the first line of a module's docstring, as Markdown."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    if not docstring:
        raise ValueError(f"{module.name} has no docstring: its first line stands in the map of the rooms")
    return _prose(docstring.partition("\n")[0]).replace("``", "`")


#: Every generated part: NAME -> what makes it.
PARTS: Final[dict[str, Callable[[], str]]] = {
    "reply-classes": reply_classes,
    "reply-codes": reply_codes,
    "enhanced-codes": enhanced_codes,
    "parameters": parameters,
    "article-codes": article_codes,
    "states": states,
    "rules": rules,
    "occasions": occasions,
    "state-diagram": diagram,
    "reserved-codes": reserved_codes,
    "error-tree": error_tree,
    "error-table": error_table,
    "error-attributes": error_attributes,
    "timeouts": timeouts,
    "limits": limits,
    "accepted-addresses": accepted_addresses,
    "refused-addresses": refused_addresses,
    "named-addresses": named_addresses,
    "read-fields": read_fields,
    "refused-fields": refused_fields,
    "troubles": troubles,
    "measured": measured,
    "goals": goals,
    "compat-differences": compat_differences,
    "compat-further": compat_further,
    "compat-names": compat_names,
    "dependencies": dependencies,
    "packages": packages,
    "measured-with": measured_with,
    "examples": examples,
    "rooms": rooms,
}


# Pages


def regenerate(page: str) -> str:
    """Return the page with its generated parts made anew.

    Raises:
        ValueError: a part has a name that nothing makes, or no end.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in PARTS:
            raise ValueError(f"nothing makes the generated part {name!r}: name one of {', '.join(PARTS)}")
        return f"{match['begin']}\n{PARTS[name]()}\n{match['end']}"

    made, count = _PART.subn(fill, page)
    if count != page.count(_BEGIN):
        raise ValueError(f"{page.count(_BEGIN) - count} generated parts have no name or no end")
    return made


def outdated(docs: Path = DOCS) -> dict[Path, str]:
    """Return page -> what it should be, for each page that is out of date.

    Raises:
        ValueError: a page cannot be generated; says which and why.
    """
    pages: dict[Path, str] = {}
    names: set[str] = set()
    for path in [*(docs.parent / name for name in BESIDE), *sorted(docs.rglob("*.md"))]:
        if docs / "_build" in path.parents:
            continue
        page = path.read_text(encoding="utf-8")
        try:
            made = regenerate(page)
        except ValueError as error:
            raise ValueError(f"{path.relative_to(docs.parent)}: {error}") from error
        names.update(match["name"] for match in _PART.finditer(page))
        if made != page:
            pages[path] = made
    pages |= {
        place: drawn
        for place, drawn in pictures(docs).items()
        if not place.exists() or place.read_text(encoding="utf-8") != drawn
    }
    missing = [name for name in PARTS if name not in names]
    if missing:
        raise ValueError(f"no page has the generated part {', '.join(missing)}")
    return pages


def build_html(docs: Path = DOCS) -> int:
    """Build docs/_build/html with Sphinx, anew; return the exit status."""
    from sphinx.cmd.build import main as sphinx

    built = docs / "_build"
    status: int = sphinx(
        ["-b", "html", "-W", "--keep-going", "-q", "-E", "-d", str(built / "doctrees"), str(docs), str(built / "html")]
    )
    if not status:
        print(f"built {(built / 'html' / 'index.html').relative_to(docs.parent)}")
    return status


def main(arguments: Sequence[str] | None = None, docs: Path = DOCS) -> int:
    """Write what is out of date, or only say so; return the exit status."""
    parser = argparse.ArgumentParser(description="Regenerates the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    parser.add_argument(
        "what",
        nargs="?",
        choices=("html", "measure"),
        help="html: build the pages for a browser, docs/_build/html;"
        " measure: install each extra, and note what it brings",
    )
    options = parser.parse_args(arguments)
    if options.what == "html":
        return build_html(docs)
    if options.what == "measure":
        measure()
        return 0
    pages = outdated(docs)
    for path, made in pages.items():
        name = path.relative_to(docs.parent).as_posix()
        if options.check:
            print(f"{name} is out of date: run python docs/build.py")
        else:
            path.write_text(made, encoding="utf-8", newline="\n")
            print(f"{name} written")
    if not pages:
        print("docs are up to date")
    return 1 if options.check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
