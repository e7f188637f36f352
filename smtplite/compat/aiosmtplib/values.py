"""The values of aiosmtplib: replies, their codes, and names for annotations."""

from __future__ import annotations

import enum
import os
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeAlias

from smtplite.protocol import Reply

__all__ = ["Default", "SMTPResponse", "SMTPStatus", "SMTPTokenGenerator", "SocketPathType", "response_of"]

#: An async function that returns an OAuth 2.0 access token.
SMTPTokenGenerator: TypeAlias = Callable[[], Awaitable[str]]
#: Where a Unix socket is.
SocketPathType: TypeAlias = str | bytes | os.PathLike[str]


class Default(enum.Enum):
    """What stands for an argument that was not given."""

    token = 0


@enum.unique
class SMTPStatus(enum.IntEnum):
    """Reply codes, by aiosmtplib's names."""

    invalid_response = -1
    system_status_ok = 211
    help_message = 214
    ready = 220
    closing = 221
    auth_successful = 235
    completed = 250
    will_forward = 251
    cannot_vrfy = 252
    auth_continue = 334
    start_input = 354
    domain_unavailable = 421
    mailbox_unavailable = 450
    error_processing = 451
    insufficient_storage = 452
    tls_not_available = 454
    unrecognized_command = 500
    unrecognized_parameters = 501
    command_not_implemented = 502
    bad_command_sequence = 503
    parameter_not_implemented = 504
    domain_does_not_accept_mail = 521
    access_denied = 530
    auth_failed = 535
    mailbox_does_not_exist = 550
    user_not_local = 551
    storage_exceeded = 552
    mailbox_name_invalid = 553
    transaction_failed = 554
    syntax_error = 555


class SMTPResponse(NamedTuple):
    """A reply: its code, and its text with a newline between lines. Unpack it: ``code, message = response``."""

    code: int
    message: str

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


def response_text(reply: Reply) -> str:
    """Return the text of a reply, each line without white space around it."""
    return "\n".join(line.strip() for line in reply.text.split("\n"))


def response_of(reply: Reply) -> SMTPResponse:
    """Return a reply as programs for aiosmtplib read it."""
    return SMTPResponse(reply.code, response_text(reply))
