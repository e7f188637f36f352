"""Errors: their tree, and what they carry."""

from __future__ import annotations

from typing import Any, assert_type

from smtplite import (
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    DeliveryUnknown,
    EnhancedStatusCode,
    ExtensionRequired,
    LocalProtocolError,
    MessageError,
    MessageRefused,
    ProtocolError,
    RecipientsRefused,
    RemoteProtocolError,
    Reply,
    ReplyError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    SMTPTimeout,
    TLSError,
    TransportError,
)


def every_error(error: SMTPError) -> None:
    """What all of them carry."""
    assert_type(error.phase, str | None)
    assert_type(error.accepted, tuple[str, ...])
    assert_type(error.refused, dict[str, Reply])
    assert_type(error.unknown, tuple[str, ...])
    assert_type(error.not_sent, tuple[str, ...])
    assert_type(error.reply, Reply | None)
    assert_type(error.transcript, tuple[str, ...])
    assert_type(error.message_id, str | None)
    assert_type(error.delivered, bool | None)
    assert_type(error.retryable, bool)
    error.refused["b@example.com"].code.upper()  # type: ignore[attr-defined]  # pyright: ignore
    error.command  # type: ignore[attr-defined]  # pyright: ignore  # noqa: B018


def the_tree() -> None:
    """What is caught by what."""
    roots: list[type[SMTPError]] = [ProtocolError, ReplyError, ExtensionRequired, TransportError, DeliveryUnknown]
    values: list[type[ValueError]] = [ConfigurationError, MessageError]
    protocol: list[type[ProtocolError]] = [LocalProtocolError, RemoteProtocolError]
    replies: list[type[ReplyError]] = [
        ServiceUnavailable,
        AuthenticationError,
        SenderRefused,
        RecipientsRefused,
        MessageRefused,
    ]
    transport: list[type[TransportError]] = [ConnectError, TLSError, ConnectionLost, SMTPTimeout]
    system: list[type[OSError]] = [TransportError]
    timeout: type[TimeoutError] = SMTPTimeout
    refused: type[ReplyError] = DeliveryUnknown  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(roots, values, protocol, replies, transport, system, timeout, refused)


def by_type(error: SMTPError) -> None:
    """What a kind of error carries beside that."""
    match error:
        case SenderRefused():
            assert_type(error.sender, str)
            assert_type(error.command, str | None)
        case AuthenticationError():
            assert_type(error.error_data, dict[str, Any] | None)
        case ExtensionRequired():
            assert_type(error.keyword, str)
        case _:
            pass


def replies(reply: Reply) -> None:
    """What a server said."""
    assert_type(reply.code, int)
    assert_type(reply.lines, tuple[bytes, ...])
    assert_type(reply.text, str)
    assert_type(reply.enhanced, EnhancedStatusCode | None)
    assert_type(reply.is_transient, bool)
    assert_type(reply.is_permanent, bool)
    if reply.enhanced is not None:
        assert_type(reply.enhanced.class_, int)
        assert_type(reply.enhanced.meaning, str)
    Reply("250")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    reply.code = 250  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
