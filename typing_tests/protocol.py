"""The core, for those who bring their own I/O."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import assert_never, assert_type

from smtplite import SMTPError
from smtplite.protocol import (
    MAX_CHALLENGES,
    MAX_CHUNK_BYTES,
    MAX_ONE_CHUNK_BYTES,
    MAX_UNACKNOWLEDGED_BYTES,
    NO_PARAMETERS,
    REPLY_CODES,
    RULES,
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    BdatProbe,
    ChallengeReceived,
    Command,
    Connection,
    ContentEncoder,
    ContentRefused,
    Custom,
    Data,
    Disconnected,
    Domain,
    Ehlo,
    EndOfData,
    EnhancedStatusCode,
    Event,
    Expn,
    Extensions,
    ForwardPath,
    Greeting,
    Helo,
    Help,
    Lhlo,
    Limits,
    Mail,
    Noop,
    Outcome,
    Parameters,
    Quit,
    Rcpt,
    RecipientOutcome,
    Replied,
    Reply,
    ReplyParser,
    ReversePath,
    Rset,
    Rule,
    ServerTraits,
    ServiceClosing,
    StartTls,
    State,
    Submission,
    TlsReady,
    Transaction,
    Transfer,
    Vrfy,
    Window,
    normalize,
)


def commands() -> None:
    """Each command, made from what a user has, and what it was made into."""
    every: list[Command] = [
        Auth("PLAIN", b"\0me\0secret"),
        AuthCancel(),
        AuthResponse(b"secret"),
        Bdat(10),
        BdatLast(10),
        BdatProbe(),
        Custom("XFOO", "bar"),
        Data(),
        Ehlo("client.example"),
        EndOfData(),
        Expn("list"),
        Greeting(),
        Helo("client.example"),
        Help(),
        Lhlo("client.example"),
        Mail("a@example.com", {"X": None}),
        Noop(),
        Quit(),
        Rcpt("b@example.com", Parameters.rcpt(notify="NEVER")),
        Rset(),
        StartTls(),
        Vrfy("postmaster"),
    ]
    assert_type(every[0].to_bytes(), bytes)
    assert_type(Ehlo("client.example").domain, Domain)
    assert_type(Mail("a@example.com").reverse_path, ReversePath)
    assert_type(Mail(ReversePath.parse("a@example.com")).parameters, Parameters)
    assert_type(Rcpt("b@example.com").forward_path, ForwardPath)
    assert_type(Parameters.mail(size=10, body="8BITMIME") + NO_PARAMETERS, Parameters)

    Mail(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Rcpt()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Rcpt(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Mail("a@example.com", size=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    AuthResponse("secret")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Vrfy()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def handle(event: Event) -> None:
    """Every event; the type checker says if one is forgotten."""
    match event:
        case Replied():
            assert_type(event.command, Command)
            assert_type(event.reply, Reply)
            assert_type(event.recipient, Rcpt | None)
            assert_type(event.is_final, bool)
        case ChallengeReceived():
            assert_type(event.command, Auth | AuthResponse | AuthCancel)
            assert_type(event.challenge, bytes | None)
        case TlsReady():
            assert_type(event.command, StartTls)
        case ContentRefused() | ServiceClosing():
            assert_type(event.reply, Reply)
        case Disconnected():
            assert_type(event.unanswered, tuple[Command, ...])
            assert_type(event.partial, bytes)
        case _:
            assert_never(event)


def connections() -> None:
    """Octets in, events out; commands in, octets out."""
    connection = Connection(lmtp=True)
    connection.receive_data(b"220 hello\r\n")
    assert_type(connection.next_event(), Event | None)
    assert_type(connection.send(Ehlo("client.example")), bytes)
    assert_type(connection.send_content(b"x"), bytes)
    assert_type(connection.state, State)
    assert_type(connection.extensions, Extensions)
    assert_type(connection.pending, tuple[Command, ...])
    assert_type(connection.wants_content, bool)
    assert_type(connection.extensions.limits, Limits)
    connection.send(b"NOOP\r\n")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    connection.receive_data("220 hello\r\n")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    connection.next_event().reply  # type: ignore[union-attr]  # pyright: ignore  # noqa: B018


def transactions(connection: Connection, event: Event) -> None:
    """A mail transaction, and what became of each recipient."""
    transaction = Transaction(connection, Mail("a@example.com"), [Rcpt("b@example.com")], transfer=Transfer.DATA)
    assert_type(transaction.next_flight(), bytes)
    assert_type(transaction.send_content(b"x", last=True), bytes)
    transaction.receive(event, unsent=0)
    assert_type(transaction.is_done, bool)
    assert_type(transaction.error, SMTPError | None)
    for outcome in transaction.outcomes:
        assert_type(outcome, RecipientOutcome)
        assert_type(outcome.outcome, Outcome)
        assert_type(outcome.reply, Reply | None)


class Ours(Submission):
    """What a user's own I/O sends."""


def windows(connection: Connection, event: Event) -> None:
    """A window is of the kind of mail object that it was made for."""
    window: Window[Ours] = Window(connection, chunking=True, traits=ServerTraits())
    assert_type(window.begin(Ours(1)), Transaction)
    assert_type(window.receive(event), list[Ours])
    assert_type(window.oldest, Ours | None)
    window.begin(Submission(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def the_rest() -> None:
    """Tables, parsers, encoders."""
    assert_type(RULES[Noop], Rule)
    codes: Mapping[int, object] = REPLY_CODES
    limits: list[int] = [MAX_CHALLENGES, MAX_CHUNK_BYTES, MAX_ONE_CHUNK_BYTES, MAX_UNACKNOWLEDGED_BYTES]
    kinds: list[type[Enum]] = [State, Outcome, Transfer]
    parser = ReplyParser()
    parser.receive_data(b"250 ok\r\n")
    assert_type(parser.next_reply(enhanced=True), Reply | None)
    assert_type(ContentEncoder().encode(b".\r\n"), bytes)
    assert_type(normalize(b"\n"), bytes)
    assert_type(EnhancedStatusCode(5, 1, 1).meaning, str)
    print(codes, limits, kinds)
