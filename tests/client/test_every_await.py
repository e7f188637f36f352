"""Cancel, fail or time out at every await of a conversation, then send another message through the same client.

Whatever happens: the outcome is what the server knows to be true (rules R1 to R4, R9 to R11, R24; I1 to I5), the second
message arrives, once and as it is, and no octet of the first one is on its connection. No slot of the pool is lost
(I8), nothing waits where no time may pass (I7), no reply answers another command (I6).

The streams are those of `fault_stream`; the server's mailbox is the oracle. A conversation more is one more entry in
`CONVERSATIONS`. ``SMTPLITE_EVERY_AWAIT=1 pytest --exhaustive`` has each of them meet every kind of fault.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from typing import Any, Final, Literal

import anyio
import anyio.lowlevel
import attrs
import pytest

import smtplite
from smtplite import Client, Content, Deliveries, Outgoing, Receipt, SMTPError, Timeouts, sasl
from smtplite.protocol.commands import Vrfy
from smtplite.protocol.reply import Reply
from smtplite.protocol.window import Window
from smtplite.sending.session import Session
from smtplite.testing import (
    ReceivedMessage,
    ScriptedReply,
    ServerConfig,
    ServerExtensions,
    ServerQuirks,
    client_context,
)
from smtplite.trace import (
    ConnectionClosed,
    ConnectionOpened,
    FlightSent,
    MessageFinished,
    ReplyReceived,
    TraceEvent,
)

from .fault_stream import (
    FIRST,
    HOLDS,
    WORLD,
    Backend,
    Broken,
    Fault,
    Kind,
    Wire,
    World,
    acting,
    connect_tcp,
    run,
)

#: Which stream the client gets: our own kind; one of `connect=`; one of `connect=` that can abort and be asked.
Floor = Literal["own", "foreign", "talkative"]
Kindness = Literal["accepted", "refused at RCPT", "refused at the end", "refused", "not sent"]

#: Set this for every kind of fault in every conversation: some minutes.
IS_THOROUGH: Final = bool(os.environ.get("SMTPLITE_EVERY_AWAIT"))

#: Longer than all that may happen in one run, as the clock of the run goes.
FOR_EVER: Final = 1e6
#: What one wait may take at most: Timeouts.end_of_data; closing comes on top.
LONGEST_SECONDS: Final = 600 + 10
#: What a farewell may take: Timeouts.quit.
LONGEST_FAREWELL_SECONDS: Final = 5.5

_VERDICT: Final = re.compile(
    rb"^[245][0-9][0-9] [^\r\n]*?(?:queued as (Q[0-9]+)|VERDICT on (\w+))\b[^\r\n]*\r\n", re.MULTILINE
)

OWN: Final[tuple[Floor, ...]] = ("own",)
FOREIGN: Final[tuple[Floor, ...]] = ("own", "foreign")
#: Only what can be asked can tell that a connection just died: else a chunk is handed over in vain.
ASKABLE: Final[tuple[Floor, ...]] = ("own", "talkative")
EVERY: Final[tuple[Floor, ...]] = ("own", "foreign", "talkative")


# What is sent


@attrs.frozen
class Message:
    """A message of which every line says whose it is."""

    name: str
    recipients: tuple[str, ...]
    content: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, name: str, *recipients: str, size: int = 0) -> Message:
        head = f"From: {name}@sender.example\r\nMessage-ID: <{name}@sender.example>\r\n\r\n"
        line = f"{name}: {'x' * 900}\r\n" if size else f".{name}:\r\n"
        body = line * (2 + size // len(line))
        return cls(name, recipients or (f"{name}@recipient.example",), f"{head}{body}{name}: end\r\n".encode())

    @property
    def sender(self) -> str:
        return f"{self.name}@sender.example"

    @property
    def message_id(self) -> str:
        return f"<{self.name}@sender.example>"

    def is_in(self, octets: bytes | bytearray) -> bool:
        """Say whether anything of this message is among the octets; not by a word that base64 might have."""
        return f"{self.name}@".encode() in octets or f"{self.name}:".encode() in octets

    def times_handed_over(self, octets: bytes | bytearray) -> int:
        """Return how often the last octet of this message, and of its end of data, is among the octets."""
        last = f"{self.name}: end\r\n".encode()
        times = 0
        position = octets.find(last)
        while position >= 0:
            is_chunk = octets.rfind(b"BDAT ", 0, position) > octets.rfind(b"DATA\r\n", 0, position)
            position += len(last)
            times += int(is_chunk or octets.startswith(b".\r\n", position))
            position = octets.find(last, position)
        return times

    def tries(self, octets: bytes) -> bool:
        """Say whether a transaction of this message was begun."""
        return f"MAIL FROM:<{self.sender}>".encode() in octets


ONE = Message.of("one")
THREE = Message.of("one", "a@recipient.example", "b@recipient.example", "c@recipient.example")
LARGE = Message.of("one", size=200_000)  # more than one write, in several pieces
VERY_LARGE = Message.of("one", size=300_000)  # more than one chunk
BEFORE = Message.of("before")
HOLDER = Message.of("holder")
WAITER = Message.of("waiter")
SECOND = Message.of("second")
FOUR = (ONE, Message.of("three"), Message.of("four"), Message.of("five"))
FIVE = (*FOUR, Message.of("six"))


async def send(case: Case, message: Message, content: Any = None, **options: Any) -> None:
    """Send a message; note what the caller was told, unless it was cancelled."""
    if content is None:
        content = message.content
    try:
        case.told[message.name] = await case.client.send(
            content, sender=message.sender, recipients=message.recipients, **options
        )
    except SMTPError as error:
        case.told[message.name] = error
    except Broken:  # of the source of its content
        case.told[message.name] = None


# What happens


async def _send_all(case: Case) -> None:
    for message in case.conversation.messages:
        await send(case, message, case.content_of(message), **case.conversation.send_options)


async def _send_all_at_once(case: Case) -> None:
    async with anyio.create_task_group() as tasks:
        for message in case.conversation.messages:
            tasks.start_soon(send, case, message)


async def _send_many(case: Case) -> None:
    messages = {message.name: message for message in case.conversation.messages}
    items = [
        Outgoing(case.content_of(message), message.sender, recipients=message.recipients, tag=message.name)
        for message in messages.values()
    ]
    deliveries: Deliveries | None = None
    try:
        async with case.client.send_many(items, **case.conversation.send_options) as deliveries:
            async for delivery in deliveries:
                case.note(delivery)
    except SMTPError as error:  # no connection could be opened
        case.loop_error = error
    finally:
        for delivery in () if deliveries is None else deliveries.rest:
            case.note(delivery)


async def _check(case: Case) -> None:
    try:
        info = await case.client.check()
    except SMTPError as error:
        case.told["check"] = error
    else:
        assert info.greeting.startswith("mail.example.com")


async def _close(case: Case) -> None:
    await case.client.aclose()


async def _look_up(case: Case) -> None:
    try:
        async with case.client.session() as session:
            assert (await session.command(Vrfy("one"))).code == 252
    except SMTPError as error:
        case.told["check"] = error


async def _pieces(case: Case, message: Message) -> AsyncIterator[bytes]:
    for begun in range(0, len(message.content), 50_000):
        await case.world.at("source", None)
        yield message.content[begun : begun + 50_000]


def _stream(case: Case, message: Message) -> Content:
    return Content.from_stream(_pieces(case, message))


def _sized_stream(case: Case, message: Message) -> Content:
    return Content.from_stream(_pieces(case, message), len(message.content))


@attrs.frozen(kw_only=True)
class Conversation:
    """What FIRST does, with whom, and how it ends if nothing goes wrong."""

    name: str
    act: Callable[[Case], Awaitable[None]] = _send_all
    messages: tuple[Message, ...] = (ONE,)
    #: By recipient, of all messages; those who are not named are accepted.
    expected: dict[str, Kindness] = attrs.field(factory=dict)
    config: ServerConfig = attrs.field(factory=ServerConfig)
    replies: tuple[ScriptedReply, ...] = ()
    options: dict[str, Any] = attrs.field(factory=dict)
    send_options: dict[str, Any] = attrs.field(factory=dict)
    #: What is sent in place of a message's octets; it may come in pieces, each after a wait that is numbered, too.
    stream: Callable[[Case, Message], Content] | None = None
    tls: Literal["none", "starttls", "implicit"] = "none"
    max_connections: int = 1
    most_read: int = 65_536
    is_quick: bool = False
    #: Commands and replies are not traced, so that messages may go whole.
    is_whole: bool = False
    #: Sent before FIRST begins, so that it finds an idle connection.
    has_prelude: bool = False
    #: What becomes of the idle connection meanwhile.
    meanwhile: Callable[[World], None] | None = None
    have_taken: Callable[[Wire], None] | None = None
    #: Another task sends, and has to wait for the connection that FIRST uses.
    has_waiter: bool = False
    #: Another task sends, and FIRST has to wait for the connection.
    has_holder: bool = False
    #: FIRST closes the client.
    closes_client: bool = False
    #: A 421 may make certain what would be unknown.
    has_421: bool = False
    #: How many recipients each verdict is for; None: all of them in SMTP, one in LMTP.
    batches: tuple[int, ...] | None = None
    #: The server lies, so that only what it took is known, not what it said.
    is_server_odd: bool = False
    floors: tuple[Floor, ...] = OWN
    #: Whether it meets every kind of fault, and not only those that differ most.
    is_core: bool = False
    without: tuple[Kind, ...] = ()

    def expected_for(self, recipient: str) -> Kindness:
        return self.expected.get(recipient, "accepted")


def scripted(verb: str, reply: str | bytes, **options: Any) -> ScriptedReply:
    """Say this to FIRST's message alone."""
    return ScriptedReply(verb, reply, sender=ONE.sender, **options)


def _dies_unseen(world: World) -> None:
    (wire,) = world.wires
    wire.end()
    wire.served.outgoing.clear()
    wire.is_secretly_dead = True


def _refuses_much(*, close: bool) -> Callable[[Wire], None]:
    """Make a server that says no in the middle of large content."""

    def have_taken(wire: Wire) -> None:
        # Once, when about a third of the content was read
        if sum(len(octets) for actor, octets in wire.taken if actor == FIRST) > 90_000 and not wire.notes:
            wire.notes.append("refused")
            wire.say(b"552 5.3.4 VERDICT on one: too much\r\n", close=close)

    return have_taken


LOCKSTEP = ServerConfig(extensions=ServerExtensions.none())
USERS = {"me": "secret"}
IN_CLEAR: dict[str, Any] = {"username": "me", "password": "secret", "allow_insecure_auth": True}


#: The handshake is long, and these tell nothing of it that the others do not.
NOT_IN_HANDSHAKE: Final = (Kind.CANCEL_LATE, Kind.RESET, Kind.CLOSE_CLIENT)


def _auth(mechanism: str) -> ServerConfig:
    return ServerConfig(users=USERS, mechanisms=(mechanism,), auth_in_clear=True, require_auth=True)


A, B, C = THREE.recipients
(ME,) = ONE.recipients
CHUNKING: dict[str, Any] = {"chunking": True}
LIMITED: dict[str, Any] = {"timeout": 500}  # for waits that are nobody's but the caller's
PATIENT: dict[str, Any] = {"timeouts": Timeouts(pool=FOR_EVER)}
ONE_EACH: dict[str, Any] = {"max_messages_per_connection": 1}
REFUSALS = (
    scripted("RCPT", "550 5.1.1 no", to=A),
    ScriptedReply("MAIL", "550 5.7.1 no", sender=FOUR[1].sender),
    ScriptedReply("END_OF_DATA", "554 5.7.1 VERDICT on four: spam", sender=FOUR[2].sender),
)
REFUSED: dict[str, Kindness] = {
    A: "refused at RCPT",
    FOUR[1].recipients[0]: "refused",
    FOUR[2].recipients[0]: "refused at the end",
}

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation(name="pipelining", is_core=True, floors=EVERY),
    Conversation(name="lockstep by the client", options={"pipelining": False}, floors=FOREIGN),
    Conversation(name="lockstep by the server", config=LOCKSTEP),
    Conversation(name="replies in pieces", most_read=24),
    Conversation(name="several messages", messages=(ONE, Message.of("three"))),
    # Refusals
    Conversation(
        name="some recipients refused",
        is_core=True,
        messages=(THREE,),
        replies=(scripted("RCPT", "550 5.1.1 no", to=A), scripted("RCPT", "450 4.2.0 later", to=C)),
        expected={A: "refused at RCPT", C: "refused at RCPT"},
        floors=FOREIGN,
    ),
    Conversation(name="require_all", messages=(THREE,), send_options={"require_all": True}, floors=FOREIGN),
    Conversation(
        name="require_all, one refused",
        messages=(THREE,),
        send_options={"require_all": True},
        replies=(scripted("RCPT", "550 5.1.1 no", to=B),),
        expected={A: "not sent", B: "refused at RCPT", C: "not sent"},
    ),
    Conversation(
        name="all refused, and the lone dot",
        messages=(THREE,),
        replies=(scripted("RCPT", "550 5.1.1 no"), scripted("DATA", "354 go on")),
        expected=dict.fromkeys(THREE.recipients, "refused at RCPT"),
        floors=FOREIGN,
    ),
    Conversation(
        name="all refused, in lockstep",
        config=LOCKSTEP,
        replies=(scripted("RCPT", "550 5.1.1 no"),),
        expected={ME: "refused at RCPT"},
    ),
    Conversation(name="MAIL refused", replies=(scripted("MAIL", "550 no"),), expected={ME: "refused"}),
    Conversation(name="DATA refused", replies=(scripted("DATA", "451 4.3.0 no"),), expected={ME: "refused"}),
    Conversation(
        name="refused at the end",
        replies=(scripted("END_OF_DATA", "554 5.7.1 VERDICT on one: spam"),),
        expected={ME: "refused at the end"},
        floors=FOREIGN,
    ),
    Conversation(
        name="421 to the end of data",
        replies=(scripted("END_OF_DATA", "421 4.3.0 VERDICT on one: closing"),),
        expected={ME: "refused at the end"},
        has_421=True,
    ),
    Conversation(
        name="421 to MAIL",
        replies=(scripted("MAIL", "421 4.3.0 closing"),),
        expected={ME: "not sent"},
        has_421=True,
    ),
    # LMTP
    Conversation(
        name="LMTP",
        is_core=True,
        messages=(THREE,),
        config=ServerConfig(lmtp=True),
        replies=(
            scripted("RCPT", "550 5.1.1 no", to=A),
            scripted("END_OF_DATA", "452 4.2.2 VERDICT on one: full", to=B),
        ),
        options={"lmtp": True},
        expected={A: "refused at RCPT", B: "refused at the end"},
        floors=EVERY,
    ),
    Conversation(
        name="LMTP, verdicts in pieces",
        messages=(THREE,),
        config=ServerConfig(lmtp=True),
        replies=(scripted("END_OF_DATA", "452 4.2.2 VERDICT on one: full", to=B),),
        options={"lmtp": True, "pipelining": False},
        expected={B: "refused at the end"},
        most_read=40,
    ),
    # AUTH and TLS
    Conversation(name="AUTH PLAIN", without=NOT_IN_HANDSHAKE, config=_auth("PLAIN"), options=IN_CLEAR, floors=FOREIGN),
    Conversation(name="AUTH LOGIN", without=NOT_IN_HANDSHAKE, config=_auth("LOGIN"), options=IN_CLEAR),
    Conversation(name="AUTH SCRAM-SHA-256", without=NOT_IN_HANDSHAKE, config=_auth("SCRAM-SHA-256"), options=IN_CLEAR),
    Conversation(
        name="the first mechanism will not do",
        without=NOT_IN_HANDSHAKE,
        config=attrs.evolve(_auth("LOGIN"), mechanisms=("PLAIN", "LOGIN")),
        options={
            "auth": (sasl.Plain("me", "secret"), sasl.Login("me", "secret")),
            "allow_insecure_auth": True,
        },
        replies=(ScriptedReply("AUTH", "504 5.5.4 not this one", times=1),),
    ),
    Conversation(name="implicit TLS", without=NOT_IN_HANDSHAKE, tls="implicit", floors=FOREIGN),
    Conversation(
        name="STARTTLS and AUTH",
        without=NOT_IN_HANDSHAKE,
        tls="starttls",
        config=ServerConfig(users=USERS, require_auth=True, require_tls=True, mechanisms=("PLAIN",)),
        options={"username": "me", "password": "secret"},
    ),
    # Much to write
    Conversation(name="large content", messages=(LARGE,), floors=FOREIGN),
    Conversation(
        name="large content, refused in the middle",
        messages=(LARGE,),
        have_taken=_refuses_much(close=False),
        replies=(scripted("END_OF_DATA", b"", performs=False),),  # that was the verdict
        expected={ME: "refused"},
        floors=FOREIGN,
    ),
    Conversation(
        name="large content, refused in the middle by a server that closes",
        messages=(LARGE,),
        have_taken=_refuses_much(close=True),
        expected={ME: "refused"},
    ),
    # An idle connection
    Conversation(name="on an idle connection", has_prelude=True, floors=EVERY),
    Conversation(
        name="on an idle connection that died unseen",
        is_core=True,
        has_prelude=True,
        meanwhile=_dies_unseen,
        floors=EVERY,
    ),
    Conversation(
        name="on an idle connection that died for all to see",
        has_prelude=True,
        meanwhile=lambda world: world.wires[0].end(),
    ),
    Conversation(
        name="on an idle connection that says 421",
        has_prelude=True,
        meanwhile=lambda world: world.wires[0].say(b"421 4.4.2 idle for too long\r\n", close=True),
    ),
    Conversation(
        name="on an idle connection that answers MAIL with 421",
        has_prelude=True,
        replies=(scripted("MAIL", "421 4.4.2 idle for too long", times=1),),
        has_421=True,
        floors=FOREIGN,
    ),
    Conversation(
        name="on an idle connection that answers MAIL with 451 4.4.2",
        has_prelude=True,
        replies=(scripted("MAIL", "451 4.4.2 idle for too long", times=1),),
        has_421=True,
    ),
    Conversation(name="in place of an idle connection too old", has_prelude=True, options={"idle_timeout": 0}),
    Conversation(
        name="RSET in front",
        config=LOCKSTEP,
        has_prelude=True,
        replies=(ScriptedReply("RCPT", "550 5.1.1 no", to=BEFORE.recipients[0]),),
        expected={BEFORE.recipients[0]: "refused at RCPT"},
    ),
    # Around the message
    Conversation(name="a connection for each message", options=ONE_EACH, floors=FOREIGN),
    Conversation(name="a limit for the whole call", send_options={"timeout": 100}),
    Conversation(name="somebody waits", is_core=True, has_waiter=True, options=PATIENT, floors=FOREIGN),
    Conversation(
        name="somebody waits, and the connection is not used again",
        has_waiter=True,
        options={**PATIENT, **ONE_EACH},
    ),
    Conversation(
        name="three at once on one connection",
        is_core=True,
        act=_send_all_at_once,
        messages=(ONE, Message.of("three"), Message.of("four")),
        options=PATIENT,
    ),
    Conversation(
        name="three at once on two connections",
        act=_send_all_at_once,
        messages=(ONE, Message.of("three"), Message.of("four")),
        options=PATIENT,
        max_connections=2,
    ),
    Conversation(name="two connections", max_connections=2, has_waiter=True, has_prelude=True),
    Conversation(
        name="others send before",
        is_core=True,
        has_holder=True,
        options=PATIENT,
        floors=FOREIGN,
    ),
    Conversation(name="check", act=_check, messages=()),
    Conversation(
        name="check on an idle connection that died",
        act=_check,
        messages=(),
        has_prelude=True,
        meanwhile=lambda world: world.wires[0].end(),
    ),
    Conversation(name="a raw session", act=_look_up, messages=(), has_prelude=True),
    # A network that takes everything at once
    Conversation(name="pipelining, quick", is_quick=True),
    Conversation(name="large content, quick", is_quick=True, messages=(LARGE,)),
    # Content that is read while it is sent
    Conversation(name="a stream", stream=_stream, send_options=LIMITED),
    Conversation(
        name="a large stream",
        stream=_sized_stream,
        send_options=LIMITED,
        messages=(LARGE,),
        floors=FOREIGN,
    ),
    # More than one transaction
    Conversation(
        name="too many recipients for one transaction",
        messages=(THREE,),
        config=ServerConfig(extensions=ServerExtensions(rcptmax=2)),
        batches=(2, 1),
    ),
    # BDAT
    Conversation(name="chunks", is_core=True, messages=FOUR[:2], options=CHUNKING, floors=ASKABLE),
    Conversation(name="chunks on an idle connection", options=CHUNKING, has_prelude=True),
    Conversation(
        name="chunks, some recipients refused",
        messages=(THREE,),
        options=CHUNKING,
        replies=(scripted("RCPT", "550 5.1.1 no", to=A), scripted("RCPT", "450 4.2.0 later", to=C)),
        expected={A: "refused at RCPT", C: "refused at RCPT"},
    ),
    Conversation(name="chunks of large content", messages=(VERY_LARGE,), options=CHUNKING),
    Conversation(
        name="chunks, LMTP",
        messages=(THREE,),
        config=ServerConfig(lmtp=True),
        replies=(scripted("END_OF_DATA", "452 4.2.2 VERDICT on one: full", to=B),),
        options={"lmtp": True, **CHUNKING},
        expected={B: "refused at the end"},
    ),
    Conversation(
        name="chunks, to a server that reads them as commands",
        config=ServerConfig(quirks=ServerQuirks(executes_refused_chunks=True)),
        options=CHUNKING,
        is_server_odd=True,
    ),
    # send_many
    Conversation(name="many", act=_send_many, messages=FOUR, floors=EVERY),
    Conversation(name="many, in lockstep", act=_send_many, messages=FOUR[:2], options={"pipelining": False}),
    Conversation(name="many, on two connections", act=_send_many, messages=FOUR, max_connections=3),
    Conversation(name="many, one at a time on each connection", act=_send_many, messages=FOUR[:3], options=ONE_EACH),
    Conversation(
        name="many, and refusals",
        is_core=True,
        act=_send_many,
        messages=(THREE, *FOUR[1:]),
        replies=REFUSALS,
        expected=REFUSED,
    ),
    Conversation(name="many, and somebody waits", act=_send_many, messages=FOUR[:3], has_waiter=True, options=PATIENT),
    Conversation(
        name="many, on an idle connection that died unseen",
        act=_send_many,
        messages=FOUR[:2],
        has_prelude=True,
        meanwhile=_dies_unseen,
    ),
    Conversation(
        name="many, LMTP", act=_send_many, messages=FOUR[:2], config=ServerConfig(lmtp=True), options={"lmtp": True}
    ),
    Conversation(name="many streams", act=_send_many, messages=FOUR[:2], stream=_sized_stream, without=(Kind.TIMEOUT,)),
    Conversation(name="many in chunks", act=_send_many, messages=FOUR, options=CHUNKING, floors=ASKABLE),
    # A write that waits is read beside, reply by reply; here none does, and replies are taken at once.
    Conversation(name="many, quick", act=_send_many, messages=FOUR, is_quick=True, is_core=True),
    Conversation(
        name="many in chunks, quick", act=_send_many, messages=FOUR, options=CHUNKING, is_quick=True, is_core=True
    ),
    Conversation(
        name="many in chunks, two at a time, quick",
        act=_send_many,
        messages=FOUR,
        options=CHUNKING,
        send_options={"in_flight": 2},
        is_quick=True,
    ),
    Conversation(name="many, whole", act=_send_many, messages=FIVE, is_quick=True, is_whole=True, is_core=True),
    Conversation(
        name="many in chunks, whole",
        act=_send_many,
        messages=FOUR,
        options=CHUNKING,
        is_quick=True,
        is_whole=True,
        is_core=True,
    ),
    Conversation(
        name="several messages in chunks, whole", messages=FOUR[:3], options=CHUNKING, is_quick=True, is_whole=True
    ),
    Conversation(name="several messages, quick", messages=FOUR[:3], is_quick=True, is_core=True),
    Conversation(
        name="several messages in chunks, quick", messages=FOUR[:3], options=CHUNKING, is_quick=True, is_core=True
    ),
    Conversation(
        name="many in chunks, and refusals",
        is_core=True,
        act=_send_many,
        messages=(THREE, *FOUR[1:]),
        replies=REFUSALS,
        expected=REFUSED,
        options=CHUNKING,
    ),
    Conversation(
        name="many, to a server that ignores what stands behind the dot",
        act=_send_many,
        messages=FOUR[:3],
        config=ServerConfig(quirks=ServerQuirks(refuses_after_dot="after")),
        is_server_odd=True,
    ),
    Conversation(name="check on an idle connection", act=_check, messages=(), has_prelude=True, floors=EVERY),
    Conversation(
        name="aclose",
        act=_close,
        messages=(),
        has_prelude=True,
        closes_client=True,
        without=(Kind.CLOSE_CLIENT,),
        floors=EVERY,
    ),
)


# One run


@attrs.define
class Case:
    """One run of a conversation, and all that is known of it."""

    backend: Backend
    conversation: Conversation
    floor: Floor
    fault: Fault | None
    world: World = attrs.field(init=False)
    client: Client = attrs.field(init=False)
    #: By a message's name; None: `send` raised what was no error of smtplite.
    told: dict[str, Receipt | SMTPError | None] = attrs.field(factory=dict)
    #: What the loop of `send_many` raised: messages that come behind need not have been taken.
    loop_error: SMTPError | None = None
    events: list[TraceEvent] = attrs.field(factory=list)
    warnings: list[logging.LogRecord] = attrs.field(factory=list)
    elapsed: float = 0.0

    @property
    def messages(self) -> tuple[Message, ...]:
        conversation = self.conversation
        return (
            *((BEFORE,) if conversation.has_prelude else ()),
            *((HOLDER,) if conversation.has_holder else ()),
            *conversation.messages,
            *((WAITER,) if conversation.has_waiter else ()),
        )

    @property
    def kind(self) -> Kind | None:
        return self.fault.kind if self.fault is not None and self.world.fault_struck else None

    @property
    def is_client_closed(self) -> bool:
        return self.conversation.closes_client or self.kind is Kind.CLOSE_CLIENT

    def content_of(self, message: Message) -> Any:
        stream = self.conversation.stream
        return message.content if stream is None else stream(self, message)

    def note(self, delivery: smtplite.Delivery) -> None:
        """Note what `send_many` said of a message: once."""
        assert isinstance(delivery.item, Outgoing)
        name = delivery.item.tag
        assert name not in self.told
        self.told[name] = delivery.receipt or delivery.error

    async def run(self) -> None:
        conversation = self.conversation
        self.world = world = World(
            attrs.evolve(
                conversation.config,
                numbered=True,
                extensions=attrs.evolve(conversation.config.extensions, starttls=conversation.tls == "starttls"),
            ),
            replies=conversation.replies,
            is_implicit_tls=conversation.tls == "implicit",
            max_connections=conversation.max_connections,
            most_read=conversation.most_read,
            is_quick=conversation.is_quick,
            have_taken=conversation.have_taken,
            fault=self.fault,
            strikes=functools.partial(strikes, self.floor),
        )
        WORLD.set(world)
        self.client = self._make_client()
        if conversation.has_prelude:
            with acting("prelude"):
                await send(self, BEFORE)
        if conversation.meanwhile is not None:
            conversation.meanwhile(world)
        log = logging.getLogger("smtplite")
        handler = logging.Handler(logging.WARNING)
        handler.emit = self.warnings.append  # type: ignore[method-assign,assignment]
        log.addHandler(handler)
        log.propagate = False  # thousands of warnings are as they should be
        begun = anyio.current_time()
        try:
            with anyio.fail_after(FOR_EVER):
                await self._run_first()
        finally:
            log.removeHandler(handler)
            log.propagate = True
        self.elapsed = anyio.current_time() - begun

    async def finish(self) -> None:
        """Send the second message, and close the client."""
        with acting("second"):
            if self.is_client_closed:
                with pytest.raises(smtplite.LocalProtocolError, match="client is closed"):
                    await self.client.send(SECOND.content, sender=SECOND.sender, recipients=SECOND.recipients)
            else:
                await send(self, SECOND)
        with acting("end"):
            if self.kind is not Kind.CLOSE_CLIENT:  # else it is closed, and so is every connection that came back
                await self.client.aclose()

    def _make_client(self) -> Client:
        conversation, world = self.conversation, self.world
        options: dict[str, Any] = {
            "tls": conversation.tls,
            "max_connections": conversation.max_connections,
            "local_hostname": "client.example",
            "trace": self._trace,
            **conversation.options,
        }
        if conversation.tls != "none":
            options |= {"tls_context": _trusting(), "tls_hostname": "localhost"}
        if self.floor == "own":
            return Client("mx.test", 25, **options)
        connect = world.connect_foreign if self.floor == "foreign" else world.connect_talkative
        return Client(connect=connect, **options)

    def _trace(self, event: TraceEvent) -> None:
        self.events.append(event)
        self.world.pass_by(f"trace {type(event).__name__}")

    async def _run_first(self) -> None:
        world = self.world
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._close_when_asked)
            if self.conversation.has_holder:
                tasks.start_soon(self._hold)
                await world.is_held.wait()
            if self.conversation.has_waiter:
                tasks.start_soon(self._wait_and_send)
            world.has_begun.set()
            if self.fault is not None and self.fault.kind is Kind.TASK_CANCEL:
                world.task = asyncio.create_task(self._act())
                try:
                    await world.task
                except asyncio.CancelledError:
                    if not world.task.cancelled():
                        raise
            else:
                with world.scope:
                    await self._act()
            world.asks_to_close.set()

    async def _act(self) -> None:
        with acting(FIRST):
            await self.conversation.act(self)

    async def _hold(self) -> None:
        with acting(HOLDS):
            await send(self, HOLDER)

    async def _wait_and_send(self) -> None:
        with acting("waiter"):
            await self.world.was_first_seen.wait()
            await send(self, WAITER)

    async def _close_when_asked(self) -> None:
        world = self.world
        with acting("closer"):
            await world.asks_to_close.wait()
            if self.kind is Kind.CLOSE_CLIENT:
                await self.client.aclose()
                world.client_is_closed.set()

    # What must hold

    def judge_first(self) -> None:
        """Before the second message is sent."""
        conversation = self.conversation
        finished = self._finished()
        for message in self.messages:
            told = self.told.get(message.name)
            event = finished.get(message.message_id)
            if event is None:  # it ended before it was this one's turn
                assert told is None or (isinstance(told, SMTPError) and told.delivered is False)
                assert not self._commits(message)
                assert not any(message.is_in(wire.given) for wire in self.world.wires)
                continue
            if told is not None:
                assert _sets(told) == _sets(event), "the trace says something else than the caller was told"
            if isinstance(told, SMTPError):
                _judge_error(told)
                assert event.error is told
            else:
                assert event.error is None
            self._judge_outcome(message, _sets(event), told)
        was_cancelled = self.kind in (Kind.CANCEL, Kind.CANCEL_LATE, Kind.TASK_CANCEL)
        cancelled = [
            finished[message.message_id] for message in self.messages if self._was_cancelled(message, finished)
        ]
        assert len(self.warnings) == sum(bool(event.unknown) for event in cancelled)
        assert all(record.levelno == logging.WARNING for record in self.warnings)
        if not was_cancelled:
            assert not cancelled
            if self.loop_error is None:
                assert {message.name for message in self.messages} <= set(self.told)
        if conversation.has_waiter:
            self._judge_waiter()
        if self.kind is not Kind.TIMEOUT:  # a stream without a connection waits a moment before it tries again
            assert self.elapsed <= (0.5 if conversation.name.startswith("many") else 0)
        elif conversation.closes_client or (self.told and self._verdicts_were_read):
            assert self.elapsed <= LONGEST_FAREWELL_SECONDS  # R2
        else:
            assert self.elapsed <= LONGEST_SECONDS

    @property
    def _verdicts_were_read(self) -> bool:
        """Whether nothing but a farewell was left to wait for when the fault struck."""
        ids = [commit.queue_id for message in self.messages for commit in self._commits(message)]
        receipts = [told for told in self.told.values() if isinstance(told, Receipt)]
        is_all_decided = not any(receipt.unknown or receipt.not_sent for receipt in receipts)
        return (len(receipts) == len(self.told) and is_all_decided) and all(
            f" queued as {queue_id} ".encode() in self.world.read_before_fault for queue_id in ids
        )

    def judge_second(self) -> None:
        """After the client was closed."""
        if self.is_client_closed:
            assert not self._commits(SECOND)
        else:
            receipt = self.told[SECOND.name]
            assert isinstance(receipt, Receipt), receipt
            assert receipt.complete
            (commit,) = self._commits(SECOND)
            assert commit.content == SECOND.content
            assert commit.recipients == SECOND.recipients
            assert receipt.reply is not None
            assert f"queued as {commit.queue_id} " in receipt.reply.text
        whole = {message.sender: message.content for message in (*self.messages, SECOND)}
        assert all(commit.content == whole[commit.sender] for commit in self.world.mailbox.messages)
        for wire in self.world.wires:
            if not self.conversation.is_server_odd:
                assert wire.served.violations == []
            assert wire.is_closed, f"a connection of {wire.opened_by!r} was left open"
            octets = b"".join(octets for actor, octets in wire.taken if actor in ("second", "end"))
            if self.conversation.tls == "none":
                assert not any(message.is_in(octets) for message in self.messages)
        opened = [event.connection for event in self.events if isinstance(event, ConnectionOpened)]
        closed = [event.connection for event in self.events if isinstance(event, ConnectionClosed)]
        assert sorted(opened) == sorted(closed)
        _judge_replies(self.events)

    def judge_undisturbed(self) -> None:
        """Nothing went wrong: it ended as the conversation says."""
        assert not self.world.fault_struck
        assert self.loop_error is None
        for message in self.messages:
            told = self.told[message.name]
            names = {"refused at RCPT": "refused", "refused at the end": "refused", "not sent": "not_sent"}
            for recipient in message.recipients:
                expected = self.conversation.expected_for(recipient)
                assert recipient in getattr(told, names.get(expected, expected)), (told, recipient)
        assert not isinstance(self.told.get("check"), SMTPError)

    def _was_cancelled(self, message: Message, finished: Collection[str]) -> bool:
        return message.message_id in finished and message.name not in self.told

    def _finished(self) -> dict[str, MessageFinished]:
        """Return what the trace says of each message: once, and of none that nobody sent."""
        events = [event for event in self.events if isinstance(event, MessageFinished)]
        # What comes in pieces has no name before its header section was read.
        nameless = [event for event in events if event.message_id is None]
        assert all(event.connection is None for event in nameless)
        ids = {message.recipients: message.message_id for message in self.messages}
        finished = {
            event.message_id or ids[(*event.accepted, *event.refused, *event.unknown, *event.not_sent)]: event
            for event in events
        }
        assert not nameless or self.conversation.stream is not None
        assert len(finished) == len(events)
        assert set(finished) <= {message.message_id for message in self.messages}
        return finished

    def _commits(self, message: Message) -> list[ReceivedMessage]:
        return [commit for commit in self.world.mailbox.messages if commit.sender == message.sender]

    def _judge_outcome(self, message: Message, sets: Sets, told: Receipt | SMTPError | None) -> None:
        assert Counter([*sets.accepted, *sets.refused, *sets.unknown, *sets.not_sent]) == Counter(message.recipients)
        conversation = self.conversation
        commits = self._commits(message)
        committed = Counter(recipient for commit in commits for recipient in commit.recipients)
        for recipient in sets.accepted:
            assert committed[recipient] == 1, f"{recipient} is called accepted"
        for recipient in (*sets.refused, *sets.not_sent):
            assert committed[recipient] == 0, f"{recipient} is called refused or not sent"
        for recipient in sets.unknown:
            assert committed[recipient] <= 1, f"{recipient} is called unknown"
        if isinstance(told, Receipt) and not conversation.config.lmtp and conversation.batches is None:
            assert told.reply is not None
            assert f"queued as {commits[0].queue_id} " in told.reply.text
        if conversation.tls == "none":
            tries = sum(message.tries(b"".join(octets for _, octets in wire.taken)) for wire in self.world.wires)
            may_resend = len(self.messages) > 1 or len(message.recipients) > 1 or "chunking" in conversation.options
            assert tries <= 1 + may_resend  # R11: alone, and on a connection of its own, it is not sent twice
            if not conversation.is_server_odd:
                self._judge_certainty(message, sets)
        elif self.floor == "own":
            assert not sets.unknown or any(
                message.times_handed_over(wire.served.received) or wire.swallowed for wire in self.world.wires
            )

    def _judge_certainty(self, message: Message, sets: Sets) -> None:
        """What is known must be said, and nothing else: neither a guess nor more doubt than there is."""
        conversation = self.conversation
        handed_over = sum(
            message.times_handed_over(
                b"".join(octets for _, octets in wire.taken) if self.floor == "own" else wire.given
            )
            for wire in self.world.wires
        )
        asked = [
            recipient
            for recipient in message.recipients
            if conversation.expected_for(recipient) in ("accepted", "refused at the end")
        ]
        batches = conversation.batches or ((1,) * len(asked) if conversation.config.lmtp else (len(asked),))
        if conversation.config.lmtp:
            handed_over *= len(asked)
        verdict_of = [number for number, size in enumerate(batches) for _ in range(size)]
        verdicts = self._verdicts(message)
        said_421 = conversation.has_421 and any(
            b"\r\n421 " in wire.read or b"\r\n451 " in wire.read for wire in self.world.wires
        )
        for recipient in message.recipients:
            found = sets.of(recipient)
            expected = conversation.expected_for(recipient)
            if recipient not in asked:
                # The content of a chunk goes with its envelope: handed over before any refusal is read.
                is_early = found == "unknown" and handed_over and "chunking" in conversation.options
                assert found == "not sent" or is_early or (found == "refused" and expected != "not sent")
                continue
            number = verdict_of[asked.index(recipient)]
            if number < verdicts:
                due = {"accepted" if expected == "accepted" else "refused"}
            else:
                due = {"unknown"} if number < handed_over else {"not sent"}
            if said_421:
                due.add("not sent" if handed_over else "refused")
            assert found in due, f"{recipient} is called {found}: {handed_over=}, {verdicts=}"

    def _verdicts(self, message: Message) -> int:
        """Return how many of the verdicts on this message the client read, each to its last octet, or had to read."""
        ids = {commit.queue_id.encode() for commit in self._commits(message)}
        is_readable = self.kind in (Kind.FAIL, Kind.END)  # R24: what was said before is there, and is read
        return sum(
            match[1] in ids or match[2] == message.name.encode()
            for wire in self.world.wires
            for match in _VERDICT.finditer(wire.read + wire.served.outgoing if is_readable else wire.read)
        )

    def _judge_waiter(self) -> None:
        told = self.told[WAITER.name]
        if isinstance(told, Receipt):
            return
        # Whoever waits for a server that cannot be reached learns at once why.
        assert isinstance(told, SMTPError)
        if self.kind is Kind.CLOSE_CLIENT:
            assert isinstance(told, smtplite.LocalProtocolError)
        else:
            causes = [self.loop_error, *(self.told.get(message.name) for message in self.conversation.messages)]
            assert (type(told), str(told)) in [(type(cause), str(cause)) for cause in causes]
        assert told.not_sent == WAITER.recipients


@attrs.frozen
class Sets:
    """What became of the recipients of one message."""

    accepted: tuple[str, ...]
    refused: dict[str, Reply]
    unknown: tuple[str, ...]
    not_sent: tuple[str, ...]

    def of(self, recipient: str) -> str:
        (found,) = (
            name.replace("_", " ")
            for name in ("accepted", "refused", "unknown", "not_sent")
            if recipient in getattr(self, name)
        )
        return found


def _sets(what: Receipt | SMTPError | MessageFinished) -> Sets:
    return Sets(what.accepted, what.refused, what.unknown, what.not_sent)


def _judge_error(error: SMTPError) -> None:
    assert not error.accepted, "somebody was delivered: that is a receipt"
    assert isinstance(error, smtplite.DeliveryUnknown) == bool(error.unknown)
    assert error.delivered is (None if error.unknown else False)
    if error.refused and not error.unknown and not error.not_sent:
        assert isinstance(error, smtplite.ReplyError), "the refusal is the error, not the end that followed it"
    if error.unknown:
        assert not error.retryable
        assert isinstance(
            error.__cause__, (smtplite.TransportError, smtplite.RemoteProtocolError, smtplite.ServiceUnavailable)
        )


#: The server's own words, and the commands that they answer.
_WORDS: Final = {
    "greets": ("EHLO", "LHLO", "HELO"),
    "sender ok": ("MAIL",),
    "recipient ok": ("RCPT",),
    "end data with": ("DATA",),
    "queued as": (".", "BDAT"),
    "bytes so far": ("BDAT",),
    "example.com closes": ("QUIT",),
}
_OF_MESSAGES: Final = re.compile(r"(MAIL|RCPT|DATA|BDAT|RSET|QUIT)\b|\.$")
_ANY_WORDS: Final = re.compile("|".join(_WORDS).encode())


def _judge_replies(events: list[TraceEvent]) -> None:
    """I6: a reply is counted for the command that it answers, and commands are answered in their order."""
    sent: dict[int, list[str]] = {}
    answered: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, FlightSent):
            sent.setdefault(event.connection, []).extend(event.commands)
        elif isinstance(event, ReplyReceived) and event.command is not None:
            match = _ANY_WORDS.search(event.reply.lines[0])
            if match is not None:
                assert event.command.partition(" ")[0] in _WORDS[match[0].decode()], event
            known = answered.setdefault(event.connection, [])
            if known[-1:] != [event.command] or event.command[-1:] not in ".T":  # LMTP: several for one end of data
                known.append(event.command)
    for connection, commands in answered.items():
        of_messages = [command for command in sent.get(connection, ()) if _OF_MESSAGES.match(command)]
        commands = [command for command in commands if _OF_MESSAGES.match(command)]
        assert of_messages[: len(commands)] == commands


@functools.cache
def _trusting() -> Any:
    return client_context()


# All runs


def strikes(floor: Floor, kind: Kind, place: str) -> bool:
    """Say whether this can happen there."""
    is_end = place == "aclose"
    if place.startswith("trace"):  # nobody waits there
        return kind in (Kind.CANCEL_LATE, Kind.TASK_CANCEL)
    match kind:
        case Kind.RESET:
            return place.startswith("send")  # elsewhere it is what FAIL is
        case Kind.FAIL:
            # To look is not to wait; and our own stream closes without a word to anybody.
            return place != "look" and (not is_end or floor != "own")
        case Kind.TIMEOUT:
            return place != "look" and (not is_end or floor != "own")
        case Kind.END:
            return not is_end and place not in ("connect, nothing done", "source")
        case _:
            return True


_runs: Counter[tuple[str, str]] = Counter()
_verdicts: Counter[str] = Counter()  # how they were taken


@pytest.fixture(scope="module", autouse=True)
def _count(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print how many runs there were."""
    _runs.clear()
    _verdicts.clear()
    yield
    reporter: Any = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        parts = ", ".join(f"{backend} {name}: {count}" for (backend, name), count in sorted(_runs.items()))
        reporter.write_line(f"\n{sum(_runs.values())} runs with one fault each ({parts})")
        reporter.write_line(f"verdicts taken at once with all that was owed: {_verdicts['at once']}")
        reporter.write_line(f"messages begun whole: {_verdicts['whole']}")


@pytest.fixture(autouse=True)
def _joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `Client` connect to the world of each run."""
    monkeypatch.setattr("smtplite.sending.handshake.connect_tcp", connect_tcp)
    receive_usual = Window.receive_usual

    def counted(window: Window[Any]) -> Any:
        taken = receive_usual(window)
        if taken is not None and taken[0] is not None:
            _verdicts["at once"] += 1
        return taken

    monkeypatch.setattr(Window, "receive_usual", counted)
    begin_whole = Window.begin_whole

    def begun(window: Window[Any], *arguments: Any, **options: Any) -> bytes | None:
        octets = begin_whole(window, *arguments, **options)
        _verdicts["whole"] += octets is not None
        return octets

    monkeypatch.setattr(Window, "begin_whole", begun)
    # The same password and salt each time: what is derived from them is derived once.
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", functools.cache(hashlib.pbkdf2_hmac))


AT_ONCE: Final = [
    each for each in CONVERSATIONS if each.is_quick and (each.act is _send_many or len(each.messages) > 1)
]


@pytest.mark.parametrize("conversation", AT_ONCE, ids=lambda conversation: conversation.name)
def test_messages_go_through_what_is_taken_at_once(conversation: Conversation) -> None:
    """Or the faults below would not meet it (see `smtplite.protocol.usual`)."""
    _verdicts.clear()
    run("asyncio", functools.partial(run_case, Case("asyncio", conversation, "own", None)))
    assert _verdicts["at once"] == len(conversation.messages) + 1  # and the second one that is sent behind it
    assert _verdicts["whole"] >= 2 if conversation.is_whole else not _verdicts["whole"]


async def run_case(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if case.conversation.is_whole:
            patch.setattr(Session, "_traces", property(lambda _: False, lambda *_: None), raising=False)
        await case.run()
        case.judge_first()
        await case.finish()
        case.judge_second()


def kinds_of(backend: Backend, conversation: Conversation, floor: Floor) -> list[Kind]:
    """Return what is worth the time.

    trio differs from asyncio in how a wait ends, not in how a connection does; and a deadline ends it as a cancellation
    does.
    """
    if IS_THOROUGH or (conversation.is_core and floor == "own"):
        kinds = list(Kind) if backend == "asyncio" else [Kind.CANCEL, Kind.CANCEL_LATE, Kind.FAIL, Kind.TIMEOUT]
    elif backend == "asyncio":
        kinds = [Kind.CANCEL, Kind.FAIL]
    else:
        kinds = [Kind.TIMEOUT] if floor == "own" else []
    return [kind for kind in kinds if kind not in conversation.without]


async def run_conversation(backend: Backend, conversation: Conversation, floor: Floor) -> None:
    undisturbed = Case(backend, conversation, floor, None)
    await run_case(undisturbed)
    undisturbed.judge_undisturbed()
    places = undisturbed.world.places
    for kind in kinds_of(backend, conversation, floor):
        reached = 0
        numbers = [number for number, place in enumerate(places) if strikes(floor, kind, place)]
        for number in numbers:
            case = Case(backend, conversation, floor, Fault(kind, number))
            try:
                await run_case(case)
            except BaseException as error:
                where = case.world.places[number] if number < len(case.world.places) else "nowhere"
                error.add_note(f"{conversation.name}: {kind.name} at place {number}, {where!r}; wires:")
                for wire in case.world.wires:
                    error.add_note(f"  {wire.opened_by}: {wire.taken!r:.1500} -> {bytes(wire.read)!r:.1500}")
                raise
            reached += case.world.fault_struck
        _runs[backend, kind.name] += reached
        assert reached or not numbers, f"{kind.name} never struck"


BACKENDS: Final[tuple[Backend, ...]] = ("asyncio", "trio")


@pytest.mark.exhaustive(keep=8)
@pytest.mark.parametrize(
    ("conversation", "floor", "backend"),
    [
        pytest.param(conversation, floor, backend, id=f"{conversation.name}-{floor}-{backend}")
        for conversation in CONVERSATIONS
        for floor in conversation.floors
        for backend in BACKENDS
        if kinds_of(backend, conversation, floor)
    ],
)
def test_a_fault_at_every_await(conversation: Conversation, floor: Floor, backend: Backend) -> None:
    run(backend, functools.partial(run_conversation, backend, conversation, floor))
