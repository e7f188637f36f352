"""What is said: messages, the server that they meet, and what becomes of them if nothing goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import attrs

from smtplite.testing.config import ServerConfig, ServerExtensions, ServerQuirks
from smtplite.testing.script import ScriptedReply

from .client import PASSWORD, USERNAME, MessageSpec, Options

__all__ = ["CONVERSATIONS", "Conversation"]

#: What the server says to a recipient whose local part is the key, followed by a digit.
_TO_RECIPIENTS = {
    "no": ("RCPT", "550 5.1.1 no such user", None),
    "later": ("RCPT", "450 4.2.1 not now", None),
    "many": ("RCPT", "452 4.5.3 too many recipients", 1),
    "bye": ("RCPT", "421 4.3.2 closing", None),
    "full": ("END_OF_DATA", "452 4.2.2 mailbox full", None),
    "gone": ("END_OF_DATA", "550 5.2.1 mailbox disabled", None),
}
#: What it says to a command of a message whose reverse-path has the key as local part.
_TO_SENDERS = {
    "nomail": ("MAIL", "550 5.7.1 not you"),
    "latermail": ("MAIL", "451 4.3.0 not now"),
    "byemail": ("MAIL", "421 4.3.2 closing"),
    "nodata": ("DATA", "554 5.5.0 no"),
    "byedata": ("DATA", "421 4.3.2 closing"),
    "nochunk": ("BDAT", "554 5.6.0 no"),
    "bigchunk": ("BDAT", "552 5.3.4 too big"),
    "loginchunk": ("BDAT", "530 5.7.0 authentication required"),
    "noend": ("END_OF_DATA", "554 5.6.0 no"),
    "laterend": ("END_OF_DATA", "451 4.3.0 not now"),
    "byeend": ("END_OF_DATA", "421 4.3.2 closing"),
}


def _rules(messages: tuple[MessageSpec, ...]) -> Iterator[ScriptedReply]:
    for number, message in enumerate(messages, 1):
        if message.sender in _TO_SENDERS:
            verb, reply = _TO_SENDERS[message.sender]
            yield ScriptedReply(verb, reply, sender=f"{message.sender}@{number}.example")
        elif message.sender == "stopped":
            sender = f"stopped@{number}.example"
            yield ScriptedReply("CONTENT", "552 5.3.4 enough", sender=sender, after_bytes=40, close=True)
        for name in message.to:
            if name[:-1] in _TO_RECIPIENTS:
                verb, reply, times = _TO_RECIPIENTS[name[:-1]]
                yield ScriptedReply(verb, reply, to=f"{name}@{number}.example", times=times)


@attrs.frozen(kw_only=True)
class Conversation:
    """Some messages to one server.

    Attributes:
        name: for people.
        messages: numbered from 1.
        expected: for each message, the outcome of each recipient if nothing is cut: their initials, A R N U.
        config: of the server, with its rules.
        options: of the client.
        is_stream: whether the messages are given to a connection together (`send_many`), or each once the one before it
            is done (`send`).
        has_handshake: whether faults befall the handshake, too.
        depends_on_arrival: whether what the server says depends on what arrives together.
        connections: how many it takes if nothing is cut.
    """

    name: str
    messages: tuple[MessageSpec, ...]
    expected: tuple[str, ...]
    config: ServerConfig
    options: Options
    is_stream: bool = False
    has_handshake: bool = False
    depends_on_arrival: bool = False
    connections: int = 1

    def __str__(self) -> str:
        return self.name


def _conversation(
    name: str,
    expected: str,
    *messages: MessageSpec,
    extensions: dict[str, Any] | None = None,
    quirks: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    lmtp: bool = False,
    pipelining: bool = True,
    chunking: bool = False,
    in_flight: int = 4,
    starttls: bool = False,
    auth: str | None = None,
    **others: Any,
) -> Conversation:
    offered: dict[str, Any] = {
        "pipelining": True,
        "chunking": chunking,
        "eight_bit_mime": False,
        "smtputf8": False,
        "size": 4096 if chunking else None,
        "dsn": False,
        "help": False,
        "starttls": starttls,
    }
    return Conversation(
        name=name,
        messages=messages or (MessageSpec(),),
        expected=tuple(expected.split()),
        config=ServerConfig(
            name="mx.example",
            numbered=True,
            lmtp=lmtp,
            extensions=ServerExtensions(**{**offered, **(extensions or {})}),
            quirks=ServerQuirks(**(quirks or {})),
            users={} if auth is None else {USERNAME: PASSWORD},
            mechanisms=None if auth is None else (auth,),
            auth_in_clear=not starttls,
            auth_nonce="neither-random",
            replies=tuple(_rules(messages or (MessageSpec(),))),
            **(config or {}),
        ),
        options=Options(
            lmtp=lmtp, pipelining=pipelining, chunking=chunking, in_flight=in_flight, starttls=starttls, auth=auth
        ),
        **others,
    )


def _to(*names: str, **others: Any) -> MessageSpec:
    return MessageSpec(to=names, **others)


def _from(sender: str, *names: str, **others: Any) -> MessageSpec:
    return MessageSpec(sender=sender, to=names or ("ok1",), **others)


def _matrix(count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every combination of recipients that are accepted and refused."""
    for kinds in product(("ok", "no"), repeat=count):
        initials = "".join("A" if kind == "ok" else "R" for kind in kinds)
        yield initials, tuple(f"{kind}{number}" for number, kind in enumerate(kinds, 1))


def _data() -> Iterator[Conversation]:
    yield _conversation("pipelined, one message", "A", has_handshake=True)
    for count in (2, 3):
        for initials, names in _matrix(count):
            yield _conversation(f"pipelined, {initials}", initials, _to(*names))
    empty = {"takes_empty_envelopes": True}
    yield _conversation("pipelined, a lone dot", "R A", _to("no1"), _to("ok1"), quirks=empty)
    yield _conversation("pipelined, a lone dot for two", "RR", _to("no1", "later2"), quirks=empty)
    refused = (_from("nomail", "ok1", "ok2"), _from("nodata"), _from("noend", "ok1", "no2"), _to("no1"), _to("ok1"))
    yield _conversation("pipelined, refused at each place", "RR R RR R A", *refused)
    yield _conversation(
        "pipelined, deferred at each place",
        "R R R A",
        *(_from("latermail"), _from("laterend"), _to("later1"), _to("ok1")),
    )
    for place, expected in (("byemail", "N"), ("byedata", "N"), ("byeend", "R")):
        yield _conversation(f"pipelined, {place}", f"{expected} A", _from(place), _to("ok1"), connections=2)
    yield _conversation("pipelined, 421 to the second recipient", "NN A", _to("ok1", "bye2"), _to("ok1"), connections=2)
    yield _conversation("pipelined, content in pieces", "AR", _to("ok1", "no2", pieces=4))
    yield _conversation(
        "pipelined, content refused in its middle",
        "R A",
        _from("stopped", pieces=4),
        _to("ok1"),
        connections=2,
        depends_on_arrival=True,
    )
    yield _conversation(
        "pipelined, a source that is read once", "A A", *(_to("ok1", pieces=3, is_repeatable=False),) * 2
    )
    for initials, names in _matrix(2):
        outcome = "AA" if initials == "AA" else initials.replace("A", "N")
        yield _conversation(f"pipelined, require_all, {initials}", outcome, _to(*names, require_all=True))
    yield _conversation("pipelined, one after the other", "A AR A", _to("ok1"), _to("ok1", "no2"), _to("ok1"))
    # Splits
    yield _conversation("pipelined, 452 splits", "AAA", _to("ok1", "many2", "many3"))
    yield _conversation("pipelined, 452 and 550", "ARA A", _to("ok1", "no2", "many3"), _to("ok1"))
    yield _conversation("pipelined, RCPTMAX splits", "AAA", _to("ok1", "ok2", "ok3"), extensions={"rcptmax": 2})
    yield _conversation(
        "pipelined, RCPTMAX splits, one refused", "RAA", _to("no1", "ok2", "ok3"), extensions={"rcptmax": 2}
    )
    yield _conversation(
        "pipelined, one message on each connection",
        "A A",
        _to("ok1"),
        _to("ok1"),
        connections=2,
        extensions={"mailmax": 1},
    )


def _lockstep() -> Iterator[Conversation]:
    off = {"pipelining": False}
    yield _conversation("lockstep, one message", "A", extensions=off, has_handshake=True)
    for initials, names in _matrix(2):
        yield _conversation(f"lockstep, {initials}", initials, _to(*names), extensions=off)
    yield _conversation("lockstep, by choice", "AR", _to("ok1", "no2"), pipelining=False)
    yield _conversation(
        "lockstep, refused at each place",
        "RR R RR R A",
        *(_from("nomail", "ok1", "ok2"), _from("nodata"), _from("noend", "ok1", "no2"), _to("no1"), _to("ok1")),
        extensions=off,
    )
    yield _conversation(
        "lockstep, several at once", "A R A", _to("ok1"), _to("no1"), _to("ok1"), extensions=off, is_stream=True
    )
    yield _conversation("lockstep, 452 splits", "AA", _to("ok1", "many2"), extensions=off)
    yield _conversation("lockstep, require_all", "RN", _to("no1", "ok2", require_all=True), extensions=off)


def _windows() -> Iterator[Conversation]:
    ok = _to("ok1")
    yield _conversation("window of DATA", "A A A", ok, ok, ok, is_stream=True)
    # From the fourth on, the commands of a message are written at once, and made if something befalls it.
    yield _conversation(
        "window of DATA, many messages", "A A A AA A A", ok, ok, ok, _to("ok1", "ok2"), ok, ok, is_stream=True
    )
    for place, outcome in (("nomail", "R"), ("nodata", "R"), ("noend", "R"), ("no1", "R"), ("some", "AR")):
        one = {"no1": _to("no1"), "some": _to("ok1", "no2")}.get(place) or _from(place)
        yield _conversation(
            f"window of DATA, many messages, {place}", f"A A A A {outcome} A A", *(ok,) * 4, one, ok, ok, is_stream=True
        )
    yield _conversation(
        "window of DATA, some refused", "A AR RR A", *(ok, _to("ok1", "no2"), _to("no1", "no2"), ok), is_stream=True
    )
    yield _conversation("window of DATA, MAIL refused", "A R A", ok, _from("nomail"), ok, is_stream=True)
    yield _conversation("window of DATA, DATA refused", "A R A", ok, _from("nodata"), ok, is_stream=True)
    yield _conversation(
        "window of DATA, end of data refused", "R R A", _from("noend"), _from("laterend"), ok, is_stream=True
    )
    yield _conversation(
        "window of DATA, lone dot", "A R A", ok, _to("no1"), ok, is_stream=True, quirks={"takes_empty_envelopes": True}
    )
    yield _conversation(
        "window of DATA, require_all", "A NR A", ok, _to("ok1", "no2", require_all=True), ok, is_stream=True
    )
    yield _conversation("window of DATA, 452 splits", "AA A", _to("ok1", "many2"), ok, is_stream=True)
    yield _conversation(
        "window of DATA, in pieces", "A A A", _to("ok1", pieces=3), _to("ok1", pieces=3), ok, is_stream=True
    )
    yield _conversation(
        "window of DATA, ignored behind the dot",
        "A AA A",
        ok,
        _to("ok1", "ok2"),
        ok,
        is_stream=True,
        quirks={"refuses_after_dot": "after"},
        depends_on_arrival=True,
    )
    yield _conversation(
        "window of DATA, two on a connection",
        "A A A A",
        ok,
        ok,
        ok,
        ok,
        is_stream=True,
        quirks={"max_messages": 2},
        connections=2,
    )
    yield _conversation(
        "window of DATA, closed unasked",
        "A A A",
        ok,
        ok,
        ok,
        is_stream=True,
        quirks={"max_messages": 2, "closes_unasked": True},
        connections=2,
    )
    yield _conversation(
        "window of DATA, a source that is read once", "A A", *(_to("ok1", is_repeatable=False),) * 2, is_stream=True
    )


def _chunks() -> Iterator[Conversation]:
    ok = _to("ok1")
    large = _to("ok1", "ok2", pieces=4)
    yield _conversation("chunks, the proof", "A", chunking=True, has_handshake=True)
    for initials, names in _matrix(2):
        yield _conversation(f"chunks, the proof with {initials}", initials, _to(*names), chunking=True)
        yield _conversation(f"chunks, one chunk, {initials}", f"A {initials}", ok, _to(*names), chunking=True)
        outcome = "AA" if initials == "AA" else initials.replace("A", "N")
        yield _conversation(
            f"chunks, require_all, {initials}", f"A {outcome}", ok, _to(*names, require_all=True), chunking=True
        )
    yield _conversation("chunks, large at once", "AA", large, chunking=True)
    yield _conversation("chunks, large", "A AA A", ok, large, ok, chunking=True)
    yield _conversation("chunks, large, one refused", "A RA", ok, _to("no1", "ok2", pieces=4), chunking=True)
    yield _conversation(
        "chunks, a large one refused",
        "A R A",
        ok,
        _from("nochunk", pieces=4),
        ok,
        chunking=True,
        depends_on_arrival=True,
    )
    yield _conversation("chunks, behind a rest", "A AR", ok, _to("ok1", "no2", has_rested=True), chunking=True)
    yield _conversation(
        "chunks, refused at each place",
        "A R R R RR A",
        *(ok, _from("nomail"), _from("nochunk"), _from("noend"), _to("no1", "no2"), ok),
        chunking=True,
    )
    yield _conversation(
        "chunks, SIZE not offered, large", "A A", ok, _to("ok1", pieces=4), chunking=True, extensions={"size": None}
    )
    yield _conversation("chunks, 452 splits", "A AA", ok, _to("ok1", "many2"), chunking=True)
    yield _conversation(
        "chunks, RCPTMAX splits", "AAA A", _to("ok1", "ok2", "ok3"), ok, chunking=True, extensions={"rcptmax": 2}
    )
    # Servers that read a refused chunk as commands, or never answer
    executes = {"executes_refused_chunks": True}
    yield _conversation("chunks, executed by the server", "A A", ok, ok, chunking=True, quirks=executes, connections=2)
    yield _conversation(
        "chunks, 530 and executed",
        "A A",
        ok,
        _from("loginchunk"),
        chunking=True,
        quirks={"executes_refused_chunks": {530}},
        connections=2,
    )
    yield _conversation(
        "chunks, 552 and executed",
        "A R",
        ok,
        _from("bigchunk"),
        chunking=True,
        quirks={"executes_refused_chunks": {552}},
        depends_on_arrival=True,
    )
    yield _conversation("chunks, no answer", "A", ok, chunking=True, quirks={"hangs_on_bdat": True}, connections=2)


def _chunk_windows() -> Iterator[Conversation]:
    ok = _to("ok1")
    yield _conversation("window of chunks", "A A A A A A", *(ok,) * 6, chunking=True, is_stream=True)
    yield _conversation(
        "window of chunks, many messages", "A A A A A A A A", *(ok,) * 8, chunking=True, is_stream=True, in_flight=32
    )
    for place in ("nomail", "nochunk", "noend"):
        yield _conversation(
            f"window of chunks, {place}", "A A R A A", ok, ok, _from(place), ok, ok, chunking=True, is_stream=True
        )
    yield _conversation(
        "window of chunks, byemail",
        "A A A N A",
        ok,
        ok,
        ok,
        _from("byemail"),
        ok,
        chunking=True,
        is_stream=True,
        connections=3,
    )
    yield _conversation(
        "window of chunks, some refused",
        "A AR RR A A",
        *(ok, _to("ok1", "no2"), _to("no1", "no2"), ok, ok),
        chunking=True,
        is_stream=True,
    )
    yield _conversation(
        "window of chunks, a large one between",
        "A A A A",
        ok,
        ok,
        _to("ok1", pieces=4),
        ok,
        chunking=True,
        is_stream=True,
    )
    yield _conversation(
        "window of chunks, require_all between",
        "A A NR A",
        ok,
        ok,
        _to("ok1", "no2", require_all=True),
        ok,
        chunking=True,
        is_stream=True,
    )
    yield _conversation(
        "window of chunks, merging server",
        "A A R A A",
        ok,
        ok,
        _from("noend"),
        ok,
        ok,
        chunking=True,
        is_stream=True,
        quirks={"merges_messages": True},
    )
    yield _conversation(
        "window of chunks, 452 splits", "A AA A", ok, _to("ok1", "many2"), ok, chunking=True, is_stream=True
    )
    yield _conversation(
        "window of chunks, three on a connection",
        "A A A A A",
        *(ok,) * 5,
        chunking=True,
        is_stream=True,
        quirks={"max_messages": 3},
        connections=2,
    )
    yield _conversation(
        "window of chunks, MAILMAX",
        "A A A A A",
        *(ok,) * 5,
        chunking=True,
        is_stream=True,
        extensions={"mailmax": 4},
        connections=2,
    )


def _lmtp() -> Iterator[Conversation]:
    yield _conversation("LMTP, one message", "A", lmtp=True, has_handshake=True)
    for initials, names in _matrix(2):
        yield _conversation(f"LMTP, {initials}", initials, _to(*names), lmtp=True)
        yield _conversation(
            f"LMTP, chunks, {initials}", f"A {initials}", _to("ok1"), _to(*names), lmtp=True, chunking=True
        )
    partly = _to("ok1", "full2", "no3", "gone4", "ok5")
    for chunking in (False, True):
        how = "LMTP, chunks" if chunking else "LMTP"
        yield _conversation(f"{how}, taken for some", "ARRRA A", partly, _to("ok1"), lmtp=True, chunking=chunking)
        yield _conversation(
            f"{how}, taken for nobody", "RR A", _to("full1", "gone2"), _to("ok1"), lmtp=True, chunking=chunking
        )
        yield _conversation(
            f"{how}, several at once",
            "AR AA",
            _to("ok1", "full2"),
            _to("ok1", "ok2"),
            lmtp=True,
            chunking=chunking,
            is_stream=True,
        )
        yield _conversation(f"{how}, 452 splits", "AA", _to("ok1", "many2"), lmtp=True, chunking=chunking)
    yield _conversation(
        "LMTP, nobody accepted, 354",
        "R A",
        _to("no1"),
        _to("ok1"),
        lmtp=True,
        quirks={"takes_empty_envelopes": True},
        connections=2,
    )
    yield _conversation(
        "LMTP, chunks, large", "A AR", _to("ok1"), _to("ok1", "gone2", pieces=4), lmtp=True, chunking=True
    )


def _sessions() -> Iterator[Conversation]:
    for mechanism in ("PLAIN", "LOGIN", "SCRAM-SHA-256"):
        yield _conversation(f"AUTH {mechanism}", "A", auth=mechanism, has_handshake=True)
    yield _conversation("STARTTLS, AUTH PLAIN", "A", starttls=True, auth="PLAIN", has_handshake=True)


CONVERSATIONS: tuple[Conversation, ...] = (
    *_data(),
    *_lockstep(),
    *_windows(),
    *_chunks(),
    *_chunk_windows(),
    *_lmtp(),
    *_sessions(),
)
