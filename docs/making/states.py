"""The states of a connection: tables, and two pictures of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from making.flows import STYLE
from making.markdown import code, prose, table
from smtplite.protocol import RULES, AuthCancel, Command, EndOfData, Rule, State
from smtplite.protocol.state import AFTER, Occasion


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
    return table(("What happens", "After it"), ((prose(each.value), code(AFTER[each].name)) for each in Occasion))


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
        f"<title>The states of a connection, and what leads from one to another</title><style>{STYLE}</style>",
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
