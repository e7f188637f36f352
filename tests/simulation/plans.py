"""Every fault that may befall a conversation: one case each, and what must hold then."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Literal

import attrs

from smtplite.protocol.commands import (
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    Command,
    Data,
    EndOfData,
    Greeting,
    Mail,
    Quit,
    Rset,
    StartTls,
)

from .client import Heard
from .conversations import Conversation
from .user_agent import EditMaker, Plan, Recode, UserAgent
from .wire import Cut, Edit, End, Side, as_replies

__all__ = [
    "Case",
    "Demand",
    "base_of",
    "chunks_for_nobody",
    "cuts",
    "edits",
    "pairs_of_splits",
    "recodes",
    "refused_resets",
    "splits",
    "stalls",
    "surplus_421s",
]

#: What any reply may be recoded to.
CODES = (220, 250, 251, 334, 354, 421, 450, 550, 571, 999)
#: And what means something special somewhere.
SPECIAL_REPLIES = (
    (451, "4.4.2 timeout"),
    (452, "4.5.3 too many recipients"),
    (500, "5.5.2 not recognized"),
    (502, "5.5.1 not implemented"),
    (503, "5.5.1 bad sequence"),
    (530, "5.7.0 authentication required"),
    (552, "5.3.4 too big"),
)
#: What may come though nobody asked for it.
UNSOLICITED = (
    b"220 mx.example\r\n",
    b"250 2.0.0 surplus\r\n",
    b"250-2.0.0 surplus\r\n250 2.0.0 in two lines\r\n",
    b"354 go on\r\n",
    b"421 4.3.2 closing\r\n",
    b"450 4.0.0 surplus\r\n",
    b"550 5.0.0 surplus\r\n",
    b"999 surplus\r\n",
    b"surplus\r\n",
    b"\r\n",
    b"2",
    b"42",
    b"550-5.0.0 begun",
)

#: What must hold: everything; everything, but that nobody can know what the replies behind a surplus 421 answer; or,
#: where a wrong count cannot be seen (RFC 2920 3.1 allows counting only), I4, I5 and I7, and that the first surplus
#: ends the connection with every verdict that is still open unknown.
Demand = Literal["all", "all but I6", "what counting can tell"]


@attrs.frozen
class Case:
    """One run to be made, and what must hold of it.

    Attributes:
        plan: what befalls the conversation.
        demand: what must hold.
        has_surplus: whether more is said than was asked for; where counting can tell, that ends the connection (R8).
    """

    plan: Plan
    demand: Demand = "all"
    has_surplus: bool = False


#: Of replies that are split twice.
_SHORT_OCTETS = 130

_bases: dict[str, UserAgent] = {}


def base_of(conversation: Conversation) -> UserAgent:
    """Return the run that nothing befalls."""
    base = _bases.get(conversation.name)
    if base is None:
        base = _bases[conversation.name] = UserAgent(conversation).run()
    return base


def forget() -> None:
    """Let go of the runs that nothing befalls."""
    _bases.clear()


def _handshake(conversation: Conversation) -> tuple[int, int]:
    """Return how many octets of replies and of commands to leave alone: the handshake is the same everywhere."""
    return (0, 0) if conversation.has_handshake else base_of(conversation).clients[0].greeted_at


# What keeps the count: everything must hold


def cuts(
    conversation: Conversation,
    side: Side,
    end: End,
    *,
    is_taken: bool = True,
    is_visible: bool = False,
    is_late: bool = False,
    stops: bool = True,
    befalls_all: bool = False,
) -> Iterator[Case]:
    """Cut at every octet.

    Args:
        conversation: what is cut.
        side: see `Cut`.
        end: see `Cut`.
        is_taken: see `Cut`.
        is_visible: see `Cut`; then only behind whole lines, where it makes a difference.
        is_late: see `Plan`.
        stops: whether that is the end of the run; if not, all that may be sent again is.
        befalls_all: see `Plan`.
    """
    base = base_of(conversation)
    begin = _handshake(conversation)[0 if side == "replies" else 1]
    for offset in range(begin, (base.said if side == "replies" else base.taken) + 1):
        if is_visible and not base.clients[0].wire.said[:offset].endswith(b"\n"):
            continue
        cut = Cut(side, offset, end, is_taken=is_taken, is_visible=is_visible)
        yield Case(Plan(cut=cut, is_late=is_late, stops=stops, befalls_all=befalls_all))


def splits(conversation: Conversation) -> Iterator[Case]:
    """Split the replies at every octet, and at many at once."""
    yield Case(Plan(is_late=True))
    for step in (1, 2, 3, 5):
        yield Case(Plan(step=step))
    for offset in range(_handshake(conversation)[0] + 1, base_of(conversation).said):
        yield Case(Plan(splits=(offset,)))


def pairs_of_splits(conversation: Conversation) -> Iterator[Case]:
    """Split the replies at every pair of octets, if the conversation is short."""
    offsets = range(_handshake(conversation)[0] + 1, base_of(conversation).said)
    for pair in combinations(offsets, 2) if len(offsets) < _SHORT_OCTETS else ():
        yield Case(Plan(splits=pair))


def stalls(conversation: Conversation) -> Iterator[Case]:
    """Let a write wait at every octet, and the client read meanwhile."""
    for offset in range(_handshake(conversation)[1] + 1, base_of(conversation).taken):
        yield Case(Plan(stall=offset))


def recodes(conversation: Conversation) -> Iterator[Case]:
    """Let the server say something else in place of each reply, and act accordingly."""
    for recode, verb, has_recipients in _recodes(conversation):
        if not (_is_refused_reset(recode, verb) or _is_for_nobody(recode, verb, has_recipients)):
            yield Case(Plan(recode=recode))


def refused_resets(conversation: Conversation) -> Iterator[Case]:
    """Let the server refuse each RSET, and not do it."""
    for recode, verb, _ in _recodes(conversation):
        if _is_refused_reset(recode, verb):
            yield Case(Plan(recode=recode))


def chunks_for_nobody(conversation: Conversation) -> Iterator[Case]:
    """Let the server say that it took a chunk of which nobody is a recipient."""
    for recode, verb, has_recipients in _recodes(conversation):
        if _is_for_nobody(recode, verb, has_recipients):
            yield Case(Plan(recode=recode))


def _recodes(conversation: Conversation) -> Iterator[tuple[Recode, str, bool]]:
    base = base_of(conversation)
    asked = base.scripts[0].asked[: base.asked]
    begin = 0 if conversation.has_handshake else next(at for at, (verb, _) in enumerate(asked) if verb == "MAIL")
    for at, (verb, has_recipients) in enumerate(asked[begin:], begin):
        for code in CODES:
            yield Recode(at, code), verb, has_recipients
        for code, text in SPECIAL_REPLIES:
            yield Recode(at, code, text), verb, has_recipients
        for code, closes in ((421, False), (250, True), (550, True)):
            yield Recode(at, code, closes=closes), verb, has_recipients


def _is_refused_reset(recode: Recode, verb: str) -> bool:
    return verb == "RSET" and recode.code // 100 != 2


def _is_for_nobody(recode: Recode, verb: str, has_recipients: bool) -> bool:
    return verb == "BDAT" and recode.code // 100 == 2 and not has_recipients


# What may change the count


def edits(conversation: Conversation) -> Iterator[Case]:
    """Truncate, double, delete and swap each reply, and put one that nobody asked for behind it and in front of it."""
    return (case for case in _edits(conversation) if case.demand != "all but I6")


def surplus_421s(conversation: Conversation) -> Iterator[Case]:
    """Put a 421 that nobody asked for among the replies that are owed."""
    return (case for case in _edits(conversation) if case.demand == "all but I6")


def _edits(conversation: Conversation) -> Iterator[Case]:
    base = base_of(conversation)
    client = base.clients[0]
    heard = client.heard
    replies = as_replies(bytes(client.wire.said))
    is_mail = [isinstance(each.command, Mail) for each in heard]
    begin = 0 if conversation.has_handshake else is_mail.index(True)
    end = min(len(heard), len(as_replies(bytes(client.wire.said[: base.said]))))  # what came unasked came last
    for index in range(begin, end):
        yield from _truncations(index, replies[index])
        demand = _demand_instead(heard, index, replies)
        yield Case(Plan(edit=_replaced(index, b""), name=f"reply {index} deleted"), demand)
        yield Case(Plan(edit=_swapped(index), name=f"reply {index} swapped with the next"), demand)
        demand = _demand_behind(heard, index, replies[index])
        yield _surplus(index, replies[index] * 2, f"reply {index} doubled", demand)
        for said in UNSOLICITED:
            demand = _demand_behind(heard, index, said)
            yield _surplus(index, replies[index] + said, f"{said!r} behind reply {index}", demand)
            demand = _demand(heard, index, said)
            yield _surplus(index, said + replies[index], f"{said!r} in front of reply {index}", demand)


def _surplus(index: int, said: bytes, name: str, demand: Demand) -> Case:
    return Case(Plan(edit=_replaced(index, said), name=name), demand, has_surplus=demand != "what counting can tell")


def _truncations(index: int, reply: bytes) -> Iterator[Case]:
    """Cut each line of a reply short; the server meant what it said."""
    lines = reply.splitlines(keepends=True)
    for number, line in enumerate(lines):
        for left in dict.fromkeys((b"", line[:1], line[:2], line[:3], line[:4], line[: len(line) // 2])):
            changed = b"".join((*lines[:number], left + b"\r\n", *lines[number + 1 :]))
            yield Case(Plan(edit=_replaced(index, changed), name=f"line {number} of reply {index} cut to {left!r}"))


def _demand_instead(heard: list[Heard], index: int, replies: list[bytes]) -> Demand:
    """Return what must hold if a reply does not come, or not before the next."""
    # Nothing comes in its place if the server first waits for the client, and the client for it.
    if (not heard[index].owed and not isinstance(heard[index].command, Bdat)) or index + 1 == len(replies):
        return "all"
    if index + 1 == len(heard):  # the base came to an early end: nobody knows what was to come
        return "what counting can tell"
    if replies[index + 1].startswith(b"421"):  # it may answer anything
        return "what counting can tell"
    return _demand(heard, index, replies[index + 1])


def _demand_behind(heard: list[Heard], index: int, said: bytes) -> Demand:
    """Return what must hold if this is said behind a reply."""
    if not heard[index].owed:
        return "all"
    if index + 1 == len(heard):
        return "what counting can tell"
    return _demand(heard, index + 1, said)


def _demand(heard: list[Heard], index: int, said: bytes) -> Demand:
    """Return what must hold if this is said first in the place of a reply."""
    if not said.endswith(b"\n") and any(b"%d" % each.reply.code == said[:3] for each in heard):
        return "what counting can tell"  # the beginning of one reply, and the end of another
    if said.startswith(b"421"):
        # It may be the answer to anything, a verdict too: then it is one, for all that counting can tell.
        is_verdict_owed = any(isinstance(each.command, (BdatLast, EndOfData)) for each in _pending(heard, index))
        return "what counting can tell" if is_verdict_owed else "all but I6"
    return "all" if _is_out_of_class(heard[index].command, said) else "what counting can tell"


def _pending(heard: list[Heard], index: int) -> list[Heard]:
    """Return what is answered by a reply and by those that are owed behind it."""
    return heard[index : index + heard[index].owed + 1]


def _is_out_of_class(command: Command, said: bytes) -> bool:
    """Return True if no server that counts as we do says this to that command (R4, R5)."""
    if not said.endswith(b"\n") or re.match(rb"[2-5][0-9][0-9]", said) is None:
        return True
    code = int(said[:3])
    answered: dict[int, tuple[type[Command], ...]] = {
        220: (Greeting, StartTls),
        221: (Quit,),
        235: (Auth, AuthResponse, AuthCancel),
        334: (Auth, AuthResponse, AuthCancel),
        354: (Data,),
    }
    if code in answered:
        return not isinstance(command, answered[code])
    if isinstance(command, Rset):
        return code >= 300
    if code < 300:
        return isinstance(command, (Data, Auth, AuthResponse, AuthCancel, StartTls))
    return code < 400


def _replaced(index: int, said: bytes) -> EditMaker:
    return lambda: lambda number, reply: said if number == index else reply


def _swapped(index: int) -> EditMaker:
    def make() -> Edit:
        held = b""

        def edit(number: int, reply: bytes) -> bytes:
            nonlocal held
            if number == index:
                held = reply
                return b""
            said, held = reply + held, b""
            return said

        return edit

    return make
