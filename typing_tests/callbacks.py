"""What a user hands in to be called: traces, and tokens; and the mechanisms of `smtplite.sasl`."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar, assert_never, assert_type

from smtplite import Client, Reply, SMTPError
from smtplite.sasl import (
    CramMd5,
    Exchange,
    External,
    Login,
    Mechanism,
    OAuthBearer,
    Plain,
    ScramSha1,
    ScramSha256,
    TokenCallback,
    XOAuth2,
)
from smtplite.trace import (
    ConnectionClosed,
    ConnectionOpened,
    FlightSent,
    MessageFinished,
    ReplyReceived,
    Trace,
    TraceEvent,
)


def on_event(event: TraceEvent) -> None:
    """A hook that knows every event; the type checker says if one is forgotten."""
    assert_type(event.connection, int | None)
    match event:
        case ConnectionOpened():
            assert_type(event.server, str)
        case FlightSent():
            assert_type(event.commands, tuple[str, ...])
            assert_type(event.content_bytes, int)
        case ReplyReceived():
            assert_type(event.command, str | None)
            assert_type(event.reply, Reply)
        case ConnectionClosed():
            assert_type(event.reason, str)
        case MessageFinished():
            assert_type(event.message_id, str | None)
            assert_type(event.accepted, tuple[str, ...])
            assert_type(event.refused, dict[str, Reply])
            assert_type(event.unknown, tuple[str, ...])
            assert_type(event.not_sent, tuple[str, ...])
            assert_type(event.error, SMTPError | None)
        case _:
            assert_never(event)


def on_flight(event: FlightSent) -> None:
    """A hook for one kind of event is none."""


async def on_event_later(event: TraceEvent) -> None:
    """Nobody would await it."""


def tracing() -> None:
    """A hook takes every event, and gives nothing."""
    hook: Trace = on_event
    events: list[TraceEvent] = []
    Client("mail.example.com", trace=hook)
    Client("mail.example.com", trace=events.append)
    Client("mail.example.com", trace=print)
    Client("mail.example.com", trace=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", trace=on_flight)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", trace=on_event_later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Ours(Mechanism):
    """A mechanism of a user's own."""

    name: ClassVar[str] = "X-OURS"

    def steps(self) -> Generator[bytes | None, bytes | None, None]:
        """Say one thing."""
        challenge = yield b"hello"
        assert_type(challenge, bytes | None)


async def token(refresh: bool) -> str:
    """Give a token."""
    return "fresh" if refresh else "kept"


def token_at_once(refresh: bool) -> str:
    """Not awaitable."""
    return str(refresh)


async def token_always() -> str:
    """Takes no argument."""
    return "token"


def authenticating() -> None:
    """One mechanism, or several."""
    callback: TokenCallback = token
    Client("mail.example.com", auth=Plain("me", "secret", authzid="other"))
    Client("mail.example.com", auth=[ScramSha256("me", "secret"), ScramSha1("me", "secret"), CramMd5("me", "secret")])
    Client("mail.example.com", auth=(Login("me", "secret"), External(), Ours()))
    Client("mail.example.com", auth=XOAuth2("me", token))
    Client("mail.example.com", auth=OAuthBearer("me", callback))
    Client("mail.example.com", auth=OAuthBearer("me", "token"))
    assert_type(Plain("me", "secret").username, str)
    assert_type(XOAuth2("me", token).with_token("token"), XOAuth2)
    assert_type(Ours().exchange(), Exchange)

    Client("mail.example.com", auth="PLAIN")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", auth=("me", "secret"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", auth=Plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", password=token)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Plain("me")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Plain("me", b"secret")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    XOAuth2("me", token_at_once)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    XOAuth2("me", token_always)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Mechanism()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
