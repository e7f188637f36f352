"""Envelope: who sends and who receives; and the forms in which a message may be passed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from email.headerregistry import Address
from email.message import Message
from typing import Any, Literal, TypeAlias

import attrs

from smtplite.errors import MessageError
from smtplite.message.content import Content

__all__ = ["AnyMessage", "AnyRecipients", "Envelope", "Outgoing", "Recipient"]


#: A message, in any of the forms that can be sent. (At run time `Message` is not generic: hence the quotes.)
AnyMessage: TypeAlias = "Message[Any, Any] | bytes | bytearray | memoryview | Content"
#: One address, or several; each a str, an Address, or a Recipient with parameters of its own.
AnyRecipients: TypeAlias = "str | Address | Recipient | Iterable[str | Address | Recipient]"


def _address(value: str | Address) -> str:
    if isinstance(value, Address):
        return value.addr_spec
    if not isinstance(value, str):
        raise MessageError(f"an address must be a str or an email.headerregistry.Address, not {type(value).__name__}")
    return value


def _optional_address(value: str | Address | None) -> str | None:
    return None if value is None else _address(value)


def _frozen_mapping(value: Mapping[str, str | None] | None) -> dict[str, str | None]:
    if type(value) is not dict and value is not None and not isinstance(value, Mapping):
        raise MessageError(f"parameters must be a mapping of keyword to value, not {type(value).__name__}")
    return dict(value or {})


@attrs.frozen
class Recipient:
    """One recipient with the parameters of its RCPT command.

    Attributes:
        address: an address, such as ``user@example.com``, or one with a name, as in ``Ada <ada@example.com>``: the name
            is not sent.
        notify: "NEVER", or some of "SUCCESS", "FAILURE", "DELAY" (RFC 3461 4.1).
        orcpt: the original recipient's address (RFC 3461 4.2).
        parameters: any other parameters: keyword -> value, or None for a keyword without one.
    """

    address: str = attrs.field(converter=_address)
    notify: str | Collection[str] | None = attrs.field(default=None, kw_only=True)
    orcpt: str | None = attrs.field(default=None, kw_only=True, converter=_optional_address)
    parameters: Mapping[str, str | None] = attrs.field(factory=dict, kw_only=True, converter=_frozen_mapping)


def _recipients(value: AnyRecipients) -> tuple[Recipient, ...]:
    if isinstance(value, (str, Address, Recipient)):  # one address: a str is never split
        value = (value,)
    if type(value) is not list and not isinstance(value, Iterable):
        raise MessageError(f"recipients must be an address, or several, not {type(value).__name__}")
    return tuple(item if isinstance(item, Recipient) else Recipient(item) for item in value)


@attrs.frozen
class Envelope:
    """Who sends and who receives, with the parameters of the mail transaction (RFC 5321 2.3.1).

    Attributes:
        sender: the reverse-path; "" is the null reverse-path, for notifications.
        recipients: one address, or several; never split at commas.
        ret: what a bounce returns: "FULL" or "HDRS" (RFC 3461 4.3).
        envid: an identifier that bounces repeat (RFC 3461 4.4).
        dsn: "require": ExtensionRequired if notifications are asked for and the server does not offer DSN; "drop": send
            without them.
        require_tls: REQUIRETLS (RFC 8689).
        body: "7BIT" or "8BITMIME"; None: what the content needs. "BINARYMIME": content that is passed as bytes is sent
            byte for byte (RFC 3030), through a client with chunking=True.
        smtputf8: True or False to decide it; None: when an address or a header needs it.
        long_lines: "send": lines of more than 998 bytes are sent where they cannot be encoded, and the server may
            fold them, refuse them, or pass them on; None: they are refused.
        parameters: any other parameters of MAIL: keyword -> value, or None for a keyword without one.
    """

    sender: str = attrs.field(converter=_address)
    recipients: tuple[Recipient, ...] = attrs.field(converter=_recipients)
    ret: str | None = attrs.field(default=None, kw_only=True)
    envid: str | None = attrs.field(default=None, kw_only=True)
    dsn: Literal["require", "drop"] = attrs.field(default="require", kw_only=True)
    require_tls: bool = attrs.field(default=False, kw_only=True)
    body: str | None = attrs.field(default=None, kw_only=True)
    smtputf8: bool | None = attrs.field(default=None, kw_only=True)
    long_lines: Literal["send"] | None = attrs.field(default=None, kw_only=True)
    parameters: Mapping[str, str | None] = attrs.field(factory=dict, kw_only=True, converter=_frozen_mapping)

    def __attrs_post_init__(self) -> None:
        if self.dsn not in ("require", "drop"):
            raise MessageError(f"dsn must be 'require' or 'drop', not {self.dsn!r}")
        if self.body not in (None, "7BIT", "8BITMIME", "BINARYMIME"):
            raise MessageError(f"body must be '7BIT', '8BITMIME', 'BINARYMIME' or None, not {self.body!r}")
        if self.long_lines not in (None, "send"):
            raise MessageError(f"long_lines must be 'send' or None, not {self.long_lines!r}")


def _any_recipients(value: AnyRecipients | None) -> AnyRecipients | None:
    # Of several, a tuple: an iterator could be read only once, and not pickled. Sending reports what is wrong with it.
    if type(value) is list:
        return tuple(value)
    if value is None or isinstance(value, (str, Address, Recipient)) or not isinstance(value, Iterable):
        return value
    return tuple(value)


@attrs.frozen
class Outgoing:
    """A message for `Client.send_many`, with what `Client.send` accepts besides it.

    Attributes:
        message: a message object of `email`, the message as bytes, or a Content.
        sender: the reverse-path; None: from the headers; "": the null reverse-path.
        recipients: one address, or several; None: from the headers.
        envelope: instead of sender and recipients.
        tag: anything of your own, to recognize it by.
    """

    message: AnyMessage
    sender: str | Address | None = None
    recipients: AnyRecipients | None = attrs.field(default=None, kw_only=True, converter=_any_recipients)
    envelope: Envelope | None = attrs.field(default=None, kw_only=True)
    tag: Any = attrs.field(default=None, kw_only=True)
