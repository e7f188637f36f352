"""What several modules here need: a connection in each state, one of each command, what happened as plain values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pytest

from smtplite.protocol import (
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    BdatProbe,
    Command,
    Connection,
    Custom,
    Data,
    Disconnected,
    Ehlo,
    EndOfData,
    Event,
    Expn,
    Greeting,
    Helo,
    Help,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Replied,
    Rset,
    StartTls,
    State,
    Vrfy,
)

KEYWORDS = ("PIPELINING", "CHUNKING", "STARTTLS", "AUTH PLAIN LOGIN", "ENHANCEDSTATUSCODES", "8BITMIME", "SIZE 1000")

_IN_TRANSACTION = {State.MAIL, State.RCPT, State.DATA, State.CHUNK, State.FAILED, State.VERDICT}


def drain(connection: Connection) -> list[Event]:
    events = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events


def ehlo_reply(*keywords: str) -> bytes:
    lines = ["mx.example", *keywords]
    return b"".join(b"250%b%b\r\n" % (b" " if line is lines[-1] else b"-", line.encode()) for line in lines)


class Reach(Protocol):
    def __call__(self, state: State, *, lmtp: bool = False, keywords: tuple[str, ...] = KEYWORDS) -> Connection: ...


def _reach(state: State, *, lmtp: bool = False, keywords: tuple[str, ...] = KEYWORDS) -> Connection:
    """Return a connection in this state; in VERDICT: in RCPT, with the reply to BDAT LAST owed."""
    connection = Connection(lmtp=lmtp)

    def step(command: Command | None, reply: bytes, content: bytes = b"") -> None:
        if command is not None:
            connection.send(command)
            connection.send_content(content)
        connection.receive_data(reply)
        drain(connection)

    if state is State.GREETING:
        return connection
    if state is State.CLOSING:
        step(None, b"421 too busy\r\n")
    elif state is State.CLOSED:
        step(None, b"")
    else:
        step(None, b"220 mx.example\r\n")
        if state is not State.HELLO:
            step(Lhlo("client.example") if lmtp else Ehlo("client.example"), ehlo_reply(*keywords))
    if state is State.AUTH:
        step(Auth("LOGIN"), b"334 VXNlcm5hbWU6\r\n")
    elif state is State.TLS:
        step(StartTls(), b"220 go\r\n")
    elif state in _IN_TRANSACTION:
        step(Mail("a@b.example"), b"250 ok\r\n")
        if state is not State.MAIL:
            step(Rcpt("c@d.example"), b"250 ok\r\n")
    if state is State.DATA:
        step(Data(), b"354 go\r\n")
    elif state is State.CHUNK:
        step(Bdat(3), b"250 ok\r\n", b"abc")
    elif state is State.FAILED:
        step(Bdat(3), b"554 no\r\n", b"abc")
    elif state is State.VERDICT:
        connection.send(BdatLast(0))
    assert connection.state is (State.RCPT if state is State.VERDICT else state)
    return connection


@pytest.fixture(scope="session")
def reach() -> Reach:
    return _reach


@pytest.fixture(scope="session")
def make() -> dict[type[Command], Callable[[], Command]]:
    """One of each command."""
    return {
        Greeting: Greeting,
        Ehlo: lambda: Ehlo("client.example"),
        Helo: lambda: Helo("client.example"),
        Lhlo: lambda: Lhlo("client.example"),
        StartTls: StartTls,
        Auth: lambda: Auth("PLAIN", b"\0me\0secret"),
        AuthResponse: lambda: AuthResponse(b"me"),
        AuthCancel: AuthCancel,
        Mail: lambda: Mail("a@b.example"),
        Rcpt: lambda: Rcpt("c@d.example"),
        Data: Data,
        EndOfData: EndOfData,
        Bdat: lambda: Bdat(0),
        BdatLast: lambda: BdatLast(0),
        BdatProbe: BdatProbe,
        Rset: Rset,
        Noop: Noop,
        Vrfy: lambda: Vrfy("x"),
        Expn: lambda: Expn("x"),
        Help: Help,
        Custom: lambda: Custom("XFOO"),
        Quit: Quit,
    }


class Show(Protocol):
    def __call__(self, event: Event) -> tuple[Any, ...]: ...


def _show(event: Event) -> tuple[Any, ...]:
    """Return what happened as plain values that can be compared between two runs."""
    if isinstance(event, Disconnected):
        return "Disconnected", tuple(str(command) for command in event.unanswered), event.partial
    command = getattr(event, "command", None)
    shown: tuple[Any, ...] = (
        type(event).__name__,
        str(command),
        event.reply.code,
        event.reply.lines,
        event.reply.enhanced,
    )
    if isinstance(event, Replied):
        shown += (None if event.recipient is None else str(event.recipient), event.is_final)
    return (*shown, getattr(event, "challenge", None))


@pytest.fixture(scope="session")
def show() -> Show:
    return _show
