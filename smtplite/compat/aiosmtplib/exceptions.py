"""The exceptions, by their names, bases and attributes in aiosmtplib; and which of them an error of smtplite becomes.

The error of smtplite is the ``__cause__``, with all that it knows: `transcript`, `not_sent`, `retryable` and so on.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

from smtplite.compat.aiosmtplib.values import SMTPStatus, response_text
from smtplite.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    DeliveryUnknown,
    ExtensionRequired,
    MessageRefused,
    RecipientsRefused,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    SMTPTimeout,
    TLSError,
)
from smtplite.protocol import Reply

__all__ = [
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPConnectResponseError",
    "SMTPConnectTimeoutError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPNotSupported",
    "SMTPReadTimeoutError",
    "SMTPRecipientRefused",
    "SMTPRecipientsRefused",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "SMTPTimeoutError",
    "still_unknown",
    "translated",
]


class SMTPException(Exception):
    """The root: ``except SMTPException`` catches all of them.

    Attributes:
        message: what happened.
    """

    def __init__(self, message: str, /) -> None:
        self.message = message
        self.args = (message,)


class SMTPServerDisconnected(SMTPException, ConnectionError):
    """There is no connection, or it ended. If the message was handed over, this is also a `DeliveryUnknown`."""


class SMTPConnectError(SMTPException, ConnectionError):
    """No connection could be opened."""


class SMTPTimeoutError(SMTPException, TimeoutError):
    """A timeout expired."""


class SMTPConnectTimeoutError(SMTPTimeoutError, SMTPConnectError):
    """A timeout expired while the connection was being opened, or before the greeting came."""


class SMTPReadTimeoutError(SMTPTimeoutError):
    """No reply came in time. If the message was handed over, this is also a `DeliveryUnknown`."""


class SMTPNotSupported(SMTPException):
    """The server does not offer what this needs."""


class SMTPResponseException(SMTPException):
    """The server said no.

    Attributes:
        code: the reply code; -1 if what the server sent is not a reply.
        message: the reply's text.
    """

    def __init__(self, code: int, message: str, /) -> None:
        self.code = code
        self.message = message
        self.args = (code, message)


class SMTPConnectResponseError(SMTPResponseException, SMTPConnectError):
    """The greeting was a refusal."""


class SMTPHeloError(SMTPResponseException):
    """EHLO or HELO was refused."""


class SMTPDataError(SMTPResponseException):
    """DATA, or the message itself, was refused."""


class SMTPAuthenticationError(SMTPResponseException):
    """Authentication was refused."""


class SMTPSenderRefused(SMTPResponseException):
    """MAIL was refused.

    Attributes:
        sender: the address, as it was given.
    """

    def __init__(self, code: int, message: str, sender: str, /) -> None:
        self.code = code
        self.message = message
        self.sender = sender
        self.args = (code, message, sender)


class SMTPRecipientRefused(SMTPResponseException):
    """RCPT was refused.

    Attributes:
        recipient: the address, as it was given.
    """

    def __init__(self, code: int, message: str, recipient: str, /) -> None:
        self.code = code
        self.message = message
        self.recipient = recipient
        self.args = (code, message, recipient)


class SMTPRecipientsRefused(SMTPException):
    """Every recipient was refused.

    Attributes:
        recipients: an `SMTPRecipientRefused` for each.
    """

    def __init__(self, recipients: list[SMTPRecipientRefused], /) -> None:
        self.recipients = recipients
        self.args = (recipients,)


# What aiosmtplib has no class for: each is what a program there expects, and says more to one that asks.


class _TLSFailed(SMTPConnectError, ssl.SSLError):
    """TLS failed; caught as `ssl.SSLError`, too."""

    def __str__(self) -> str:
        return self.message


class _CertificateRefused(SMTPConnectError, ssl.SSLCertVerificationError):
    """The server's certificate is not trusted; caught as `ssl.SSLCertVerificationError`, too."""

    def __str__(self) -> str:
        return self.message


class _Unknown(DeliveryUnknown):
    """A message that was handed over: what `smtplite.DeliveryUnknown` knows, under a class of aiosmtplib's."""

    message: str

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message, **details)
        self.message = message


class _UnknownTimeout(_Unknown, SMTPReadTimeoutError):
    """The verdict did not come in time: it may have been delivered, or not. Sending again may deliver twice."""


class _UnknownDisconnected(_Unknown, SMTPServerDisconnected):
    """The connection ended before the verdict: it may have been delivered, or not. Sending again may deliver twice."""


# The translation

#: What smtplite's errors tell to pass, by its name here.
_SETTINGS: Final = {
    'tls="implicit"': "use_tls=True",
    'tls="starttls"': "start_tls=True",
    'tls="none"': "start_tls=False",
}


def _words(error: SMTPError) -> str:
    text = str(error)
    for native, here in _SETTINGS.items():
        text = text.replace(native, here)
    return text


def _by_code(cls: type[SMTPResponseException], reply: Reply) -> SMTPResponseException:
    return cls(reply.code, response_text(reply))


def recipients_refused(refused: Mapping[str, Reply]) -> SMTPRecipientsRefused:
    """Return the error of a message that nobody is to get."""
    return SMTPRecipientsRefused(
        [SMTPRecipientRefused(reply.code, response_text(reply), address) for address, reply in refused.items()]
    )


def _unknown(error: DeliveryUnknown) -> SMTPException:
    cls = _UnknownTimeout if isinstance(error.__cause__, SMTPTimeout) else _UnknownDisconnected
    unknown = cls(_words(error))
    unknown.__dict__.update({name: value for name, value in vars(error).items() if name != "args"})
    return unknown


def still_unknown(unknown: SMTPException) -> SMTPException:
    """Return what `quit` raises after the connection was lost with a message whose delivery is unknown."""
    again = _UnknownDisconnected(f"not connected: {unknown}")
    again.__dict__.update({name: value for name, value in vars(unknown).items() if name != "message"})
    again.__cause__ = unknown
    return again


def _service_unavailable(error: ServiceUnavailable, sender: str) -> SMTPException:
    reply = error.reply
    if reply is None or (error.command is None and error.phase != "greeting"):  # a 421 that nobody asked for
        return SMTPServerDisconnected(_words(error))
    if error.phase == "mail":
        return SMTPSenderRefused(reply.code, response_text(reply), sender)
    if error.phase == "rcpt":
        return recipients_refused(error.refused or dict.fromkeys(error.not_sent, reply))
    return _by_code(_BY_PHASE.get(error.phase or "", SMTPResponseException), reply)


_BY_PHASE: Final[dict[str, type[SMTPResponseException]]] = {
    "greeting": SMTPConnectResponseError,
    "hello": SMTPHeloError,
    "auth": SMTPAuthenticationError,
    "data": SMTPDataError,
    "content": SMTPDataError,
    "end of data": SMTPDataError,
}


def _tls_failed(error: TLSError) -> SMTPException:
    if error.reply is not None:
        return _by_code(SMTPResponseException, error.reply)
    cls = _CertificateRefused if isinstance(error.__cause__, ssl.SSLCertVerificationError) else _TLSFailed
    return cls(_words(error))


def translated(error: SMTPError, *, sender: Callable[[], str] = str, is_connecting: bool = False) -> Exception:
    """Return what a program for aiosmtplib expects instead of an error of smtplite.

    What is wrong with an argument stays as it is: it is a ValueError there, and here.

    Args:
        error: what was raised.
        sender: returns the sender of the message that was being sent.
        is_connecting: whether there was no connection yet.
    """
    reply = error.reply
    made: SMTPException
    match error:
        case ValueError():  # MessageError, ConfigurationError
            return error
        case DeliveryUnknown():
            made = _unknown(error)
        case ExtensionRequired():
            made = SMTPNotSupported(_words(error))
        case ServiceUnavailable():
            made = _service_unavailable(error, sender())
        case AuthenticationError() if reply is not None:
            made = _by_code(SMTPAuthenticationError, reply)
        case SenderRefused() if reply is not None:
            made = SMTPSenderRefused(reply.code, response_text(reply), sender())
        case RecipientsRefused():
            made = recipients_refused(error.refused)
        case MessageRefused() if reply is not None:
            made = _by_code(SMTPDataError, reply)
        case TLSError():
            made = _tls_failed(error)
        case SMTPTimeout() if is_connecting:
            made = SMTPConnectTimeoutError(_words(error))
        case SMTPTimeout():
            made = SMTPReadTimeoutError(_words(error))
        case ConnectError():
            made = SMTPConnectError(_words(error))
        case ConnectionLost():
            made = SMTPConnectError(_words(error)) if is_connecting else SMTPServerDisconnected(_words(error))
        case RemoteProtocolError():
            made = SMTPResponseException(SMTPStatus.invalid_response, _words(error))
        case _:
            made = SMTPException(_words(error))
    made.__cause__ = error
    return made
