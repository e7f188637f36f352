"""Which runs the tests make: everything of the conversations that matter most, a sample of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Final

from .conversations import CONVERSATIONS, Conversation
from .plans import (
    Case,
    chunks_for_nobody,
    cuts,
    edits,
    pairs_of_splits,
    recodes,
    refused_resets,
    splits,
    stalls,
    surplus_421s,
)
from .wire import End

__all__ = ["EXHAUSTIVE_KINDS", "KINDS", "MIN_RUNS", "WHOLE", "cases"]

Kind = Callable[[Conversation], Iterator[Case]]

#: What the tests make at least, all in all.
MIN_RUNS: Final = 50_000

#: What may befall a conversation.
KINDS: Final[dict[str, Kind]] = {
    "replies cut by EOF": partial(cuts, side="replies", end=End.EOF),
    "replies cut by EOF, seen at once": partial(cuts, side="replies", end=End.EOF, is_visible=True),
    "replies cut by EOF, and late": partial(cuts, side="replies", end=End.EOF, is_late=True),
    "replies cut by RST": partial(cuts, side="replies", end=End.RST, is_taken=False),
    "replies cut by RST, what is written is taken": partial(cuts, side="replies", end=End.RST),
    "replies cut by silence": partial(cuts, side="replies", end=End.SILENCE),
    "commands cut by EOF": partial(cuts, side="commands", end=End.EOF),
    "commands cut by EOF, the rest unsent": partial(cuts, side="commands", end=End.EOF, is_taken=False),
    "commands cut by RST": partial(cuts, side="commands", end=End.RST),
    "commands cut by RST, the rest unsent": partial(cuts, side="commands", end=End.RST, is_taken=False),
    "commands cut by silence": partial(cuts, side="commands", end=End.SILENCE),
    "commands cut by silence, the rest unsent": partial(cuts, side="commands", end=End.SILENCE, is_taken=False),
    "replies cut by EOF, and sent again": partial(cuts, side="replies", end=End.EOF, stops=False),
    "commands cut by RST, and sent again": partial(cuts, side="commands", end=End.RST, is_taken=False, stops=False),
    "replies split": splits,
    "writes that wait": stalls,
    "replies recoded": recodes,
    "RSET refused": refused_resets,
    "chunks for nobody taken": chunks_for_nobody,
    "replies edited": edits,
    "a 421 too many": surplus_421s,
}

#: What is beyond the time of a test.
EXHAUSTIVE_KINDS: Final[dict[str, Kind]] = {
    **KINDS,
    "replies cut by silence, the rest unsent": partial(cuts, side="replies", end=End.SILENCE, is_taken=False),
    "replies cut by silence, and late": partial(cuts, side="replies", end=End.SILENCE, is_late=True),
    "commands cut by EOF, replies late": partial(cuts, side="commands", end=End.EOF, is_late=True),
    "commands cut by EOF, and sent again": partial(cuts, side="commands", end=End.EOF, stops=False),
    "replies cut by RST, and sent again": partial(cuts, side="replies", end=End.RST, is_taken=False, stops=False),
    "replies cut by EOF, on each connection": partial(cuts, side="replies", end=End.EOF, stops=False, befalls_all=True),
    "commands cut by RST, on each connection": partial(
        cuts, side="commands", end=End.RST, is_taken=False, stops=False, befalls_all=True
    ),
    "replies split twice": pairs_of_splits,
}

#: The conversations of which every case is run; of the others one in _SAMPLE.
WHOLE: Final = frozenset(
    {
        "pipelined, one message",
        "pipelined, AR",
        "pipelined, RR",
        "pipelined, a lone dot",
        "pipelined, content in pieces",
        "pipelined, content refused in its middle",
        "pipelined, require_all, AR",
        "pipelined, one after the other",
        "pipelined, RCPTMAX splits",
        "lockstep, one message",
        "lockstep, AR",
        "window of DATA",
        "chunks, the proof",
        "chunks, one chunk, AR",
        "LMTP, AR",
        "LMTP, chunks, AR",
        "AUTH LOGIN",
    }
)
_SAMPLE: Final = 29
#: Kinds that differ little from another one: one case in _LIKE_SAMPLE of the conversations in WHOLE.
_LIKE: Final = frozenset({"replies cut by EOF, and late", "replies cut by RST, what is written is taken"})
_LIKE_SAMPLE: Final = 5
#: Kinds of few cases, and single tests: all of them.
_FEW: Final = frozenset({"RSET refused", "chunks for nobody taken", "a 421 too many"})
_ALL_OF: Final = frozenset(
    {
        ("replies cut by EOF, and late", "chunks, a large one refused"),
        ("replies edited", "chunks, a large one refused"),
        ("replies edited", "STARTTLS, AUTH PLAIN"),
        ("replies edited", "AUTH SCRAM-SHA-256"),
        ("replies recoded", "STARTTLS, AUTH PLAIN"),
        ("replies recoded", "AUTH SCRAM-SHA-256"),
        ("replies split", "chunks, 552 and executed"),
    }
)


def cases(kind: str, conversation: Conversation, *, is_whole: bool = False) -> Iterator[Case]:
    """Return what is run.

    Args:
        kind: a key of `EXHAUSTIVE_KINDS`.
        conversation: what is said.
        is_whole: all cases, and not only what there is time for in a test.
    """
    every = 1
    if not (is_whole or kind in _FEW or (kind, conversation.name) in _ALL_OF):
        every = (_LIKE_SAMPLE if kind in _LIKE else 1) if conversation.name in WHOLE else _SAMPLE
    # Each kind begins at another place: together they see more than they would from the same.
    begin = (list(EXHAUSTIVE_KINDS).index(kind) + CONVERSATIONS.index(conversation)) % every
    return islice(EXHAUSTIVE_KINDS[kind](conversation), begin, None, every)
