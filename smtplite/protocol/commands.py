"""Commands as values: each knows its bytes, and nothing that was not validated can be part of one (rule R18).

A command's identity matters (replies are matched to commands by counting, and told apart by identity), so commands
have no equality: two ``Rcpt`` of the same path are two commands.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import ClassVar, Final

import attrs

from smtplite.errors import MessageError
from smtplite.protocol.grammar import AUTH_MECHANISM, TEXT_ARGUMENT, VERB
from smtplite.protocol.parameters import NO_PARAMETERS, Parameters
from smtplite.protocol.paths import MAX_COMMAND_BYTES, Domain, ForwardPath, ReversePath

__all__ = [
    "Auth",
    "AuthCancel",
    "AuthResponse",
    "Bdat",
    "BdatLast",
    "BdatProbe",
    "Command",
    "Custom",
    "Data",
    "Ehlo",
    "EndOfData",
    "Expn",
    "Greeting",
    "Helo",
    "Help",
    "Lhlo",
    "Mail",
    "Noop",
    "Quit",
    "Rcpt",
    "Rset",
    "StartTls",
    "Vrfy",
]


@attrs.frozen(eq=False, init=False)
class Command:
    """What the server owes a reply to."""

    verb: ClassVar[str] = ""

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF."""
        return self.verb.encode("ascii") + b"\r\n"

    def __str__(self) -> str:
        """The command for display, without CRLF and without any secret."""
        return self.to_bytes()[:-2].decode("utf-8", "replace")


# mypy knows a converter by its function alone, hence these three.
def _domain(value: str | Domain) -> Domain:
    return Domain.parse(value)


def _reverse_path(value: str | ReversePath) -> ReversePath:
    return ReversePath.parse(value)


def _forward_path(value: str | ForwardPath) -> ForwardPath:
    return ForwardPath.parse(value)


def _parameters(value: Parameters | Mapping[str, str | None]) -> Parameters:
    return value if isinstance(value, Parameters) else Parameters.custom(value)


def _check_length(command: str, path: bytes, parameters: bytes) -> None:
    if len(command) + len(path) + len(parameters) > MAX_COMMAND_BYTES:
        raise MessageError(
            f"{command}{path[:80].decode('utf-8', 'replace')} has more than {MAX_COMMAND_BYTES} bytes "
            "with its parameters: shorten them"
        )


def _text(value: str | None) -> str | None:
    if value is not None and (not isinstance(value, str) or TEXT_ARGUMENT.fullmatch(value) is None):
        raise MessageError(f"argument {value!r} of a command is not printable ASCII, or begins or ends with a space")
    return value


def _required_text(value: str) -> str:
    if value is None:
        raise MessageError("this command needs an argument: the address or name that is asked for")
    _text(value)
    return value


@attrs.frozen(eq=False)
class Greeting(Command):
    """Not a command: it stands for the greeting that the server owes to a new connection (RFC 5321 3.1)."""

    verb = "greeting"

    def to_bytes(self) -> bytes:
        """Return nothing: the server speaks first."""
        return b""

    def __str__(self) -> str:
        return "(connect)"


@attrs.frozen(eq=False)
class _Hello(Command):
    domain: Domain = attrs.field(converter=_domain)

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF."""
        return b"%b %b\r\n" % (self.verb.encode("ascii"), self.domain.wire)


class Ehlo(_Hello):
    """Say who we are and ask for the extensions (RFC 5321 4.1.1.1)."""

    verb = "EHLO"


class Helo(_Hello):
    """Say who we are to a server that knows no extensions (RFC 5321 4.1.1.1)."""

    verb = "HELO"


class Lhlo(_Hello):
    """EHLO, in LMTP (RFC 2033 4.1)."""

    verb = "LHLO"


@attrs.frozen(eq=False)
class StartTls(Command):
    """Begin TLS after its 220 (RFC 3207 4)."""

    verb = "STARTTLS"


def _mechanism(value: str) -> str:
    if not isinstance(value, str) or AUTH_MECHANISM.fullmatch(value) is None:
        raise MessageError(f"mechanism {value!r} is not 1 to 20 of A-Z, 0-9, hyphen and underscore")
    return value


@attrs.frozen(eq=False)
class Auth(Command):
    """Begin an authentication exchange (RFC 4954 4)."""

    verb = "AUTH"
    #: Its registered name, upper case.
    mechanism: str = attrs.field(converter=_mechanism)
    #: Bytes before base64; None: without one.
    initial_response: bytes | None = attrs.field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """Return the command as it is sent; an empty initial response is "=" (RFC 4954 4)."""
        line = b"AUTH " + self.mechanism.encode("ascii")
        if self.initial_response is not None:
            line += b" " + (b64encode(self.initial_response) or b"=")
        return line + b"\r\n"

    def __str__(self) -> str:
        return f"AUTH {self.mechanism}" + (" [redacted]" if self.initial_response is not None else "")


@attrs.frozen(eq=False)
class AuthResponse(Command):
    """Answer a challenge (RFC 4954 4)."""

    verb = "AUTH"
    #: Bytes before base64; b"" is an empty line.
    response: bytes = attrs.field(repr=False)

    def to_bytes(self) -> bytes:
        """Return the line as it is sent, with its CRLF."""
        return b64encode(self.response) + b"\r\n"

    def __str__(self) -> str:
        return "[redacted]"


@attrs.frozen(eq=False)
class AuthCancel(Command):
    """Give up an authentication exchange (RFC 4954 4)."""

    verb = "AUTH"

    def to_bytes(self) -> bytes:
        """Return the line as it is sent, with its CRLF."""
        return b"*\r\n"


@attrs.frozen(eq=False)
class Mail(Command):
    """Begin a mail transaction (RFC 5321 4.1.1.2)."""

    verb = "MAIL"
    reverse_path: ReversePath = attrs.field(converter=_reverse_path)
    parameters: Parameters = attrs.field(default=NO_PARAMETERS, converter=_parameters)

    def __attrs_post_init__(self) -> None:
        _check_length("MAIL FROM:", self.reverse_path.wire, self.parameters.wire)

    @staticmethod
    def line(path: bytes, parameters: bytes) -> bytes:
        """Return such a command as it is sent; of a path and parameters as they are sent."""
        return b"MAIL FROM:%b%b\r\n" % (path, parameters)

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF."""
        return self.line(self.reverse_path.wire, self.parameters.wire)


@attrs.frozen(eq=False)
class Rcpt(Command):
    """Name one recipient (RFC 5321 4.1.1.3)."""

    verb = "RCPT"
    forward_path: ForwardPath = attrs.field(converter=_forward_path)
    parameters: Parameters = attrs.field(default=NO_PARAMETERS, converter=_parameters)

    def __attrs_post_init__(self) -> None:
        _check_length("RCPT TO:", self.forward_path.wire, self.parameters.wire)

    @staticmethod
    def line(path: bytes, parameters: bytes) -> bytes:
        """Return such a command as it is sent; of a path and parameters as they are sent."""
        return b"RCPT TO:%b%b\r\n" % (path, parameters)

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF."""
        return self.line(self.forward_path.wire, self.parameters.wire)


@attrs.frozen(eq=False, init=False)
class Data(Command):
    """Ask to send the content (RFC 5321 4.1.1.4)."""

    verb = "DATA"


@attrs.frozen(eq=False, init=False)
class EndOfData(Command):
    """The lone dot that ends the content of DATA; its reply is the verdict (RFC 5321 4.1.1.4)."""

    verb = "."


def _octets(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MessageError(f"the size of a chunk must be a number of bytes, not {value!r}")
    return value


@attrs.frozen(eq=False)
class Bdat(Command):
    """Announce a chunk that is not the last; its bytes follow the command (RFC 3030 2)."""

    verb = "BDAT"
    size: int = attrs.field(converter=_octets)

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF and without the chunk."""
        return b"BDAT %d\r\n" % self.size


class BdatLast(Bdat):
    """Announce the last chunk, the end of data; its reply is the verdict (RFC 3030 2)."""

    @staticmethod
    def line(size: int) -> bytes:
        """Return such a command for a chunk of so many bytes, as it is sent."""
        return b"BDAT %d LAST\r\n" % size

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF and without the chunk."""
        return self.line(self.size)


@attrs.frozen(eq=False)
class BdatProbe(Command):
    """A last chunk for nobody: between MAIL and any RCPT, to see whether a server swallows a chunk that it refuses.

    Its chunk is sent with it. A server that leaves refused chunks unread reads it as a command, and also answers that.
    """

    verb = "BDAT"

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, its chunk included."""
        return b"BDAT 8 LAST\r\nXPROBE\r\n"

    def __str__(self) -> str:
        return "BDAT 8 LAST"


@attrs.frozen(eq=False, init=False)
class Rset(Command):
    """Abort the mail transaction (RFC 5321 4.1.1.5)."""

    verb = "RSET"


@attrs.frozen(eq=False)
class Noop(Command):
    """Ask for nothing but a reply (RFC 5321 4.1.1.9)."""

    verb = "NOOP"


@attrs.frozen(eq=False)
class _Asking(Command):
    argument: str = attrs.field(converter=_required_text)

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF."""
        return f"{self.verb} {self.argument}\r\n".encode("ascii")


class Vrfy(_Asking):
    """Ask whether a mailbox exists (RFC 5321 4.1.1.6)."""

    verb = "VRFY"


class Expn(_Asking):
    """Ask who is on a list (RFC 5321 4.1.1.7)."""

    verb = "EXPN"


@attrs.frozen(eq=False)
class Help(Command):
    """Ask for help (RFC 5321 4.1.1.8)."""

    verb = "HELP"
    argument: str | None = attrs.field(default=None, converter=_text)

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF."""
        return b"HELP\r\n" if self.argument is None else f"HELP {self.argument}\r\n".encode("ascii")


@attrs.frozen(eq=False)
class Quit(Command):
    """End the session (RFC 5321 4.1.1.10)."""

    verb = "QUIT"


#: Verbs with a command, and with rules, of their own; and three that would turn the session into something else.
_KNOWN_VERBS: Final = frozenset(
    {"EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "EXPN"}
    | {"HELP", "QUIT", "TURN", "ATRN", "BURL"}
)


def _custom_verb(value: str) -> str:
    if not isinstance(value, str) or VERB.fullmatch(value) is None:
        raise MessageError(f"verb {value!r} is not letters, digits and hyphens")
    if value.upper() in _KNOWN_VERBS:
        raise MessageError(f"{value.upper()} is not a custom command: it has a command of its own, or cannot be sent")
    return value.upper()


@attrs.frozen(eq=False)
class Custom(Command):
    """A command of an extension that we do not know, such as ETRN: one line, one reply.

    It cannot be one that changes how replies are counted or how the session goes on.
    """

    verb: str = attrs.field(converter=_custom_verb)  # type: ignore[misc]
    argument: str | None = attrs.field(default=None, converter=_text)

    def to_bytes(self) -> bytes:
        """Return the command as it is sent, with its CRLF."""
        line = self.verb if self.argument is None else f"{self.verb} {self.argument}"
        return line.encode("ascii") + b"\r\n"
