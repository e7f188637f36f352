"""From the text of aiosmtplib to the values of smtplite: options, commands, messages, replies to EHLO."""

from __future__ import annotations

import copy
import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from email.generator import BytesGenerator
from email.header import Header, decode_header
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.policy import SMTP, SMTPUTF8, Policy, compat32
from email.utils import getaddresses, parseaddr
from io import BytesIO
from typing import Any, Final

from smtplite import Envelope, Recipient
from smtplite.compat.aiosmtplib.exceptions import SMTPNotSupported
from smtplite.protocol import (
    Auth,
    AuthCancel,
    AuthResponse,
    Command,
    Custom,
    Ehlo,
    Expn,
    ForwardPath,
    Helo,
    Help,
    Mail,
    Noop,
    Parameters,
    Quit,
    Rcpt,
    ReversePath,
    Rset,
    Vrfy,
)

__all__ = [
    "as_message",
    "command_of",
    "envelope_of",
    "extract_addresses",
    "extract_recipients",
    "extract_sender",
    "flatten_message",
    "mail_command",
    "parse_address",
    "parse_esmtp_extensions",
    "quote_address",
    "rcpt_command",
    "recipients_of",
    "sender_of",
]


# Addresses and message objects: the functions of aiosmtplib.email

#: What would end an address on its line, or begin something else; a quoted local part may hold it.
_BREAKS_OUT: Final = re.compile(r'[\s<>"]')
_QUOTED: Final = re.compile(r'"(?:[^"\\\r\n]|\\.)*"')


def parse_address(address: str) -> str:
    """Return the bare address out of ``Name <address>``.

    Raises:
        ValueError: it holds something that no address can have.
    """
    parsed = parseaddr(address)[1] or address.strip()
    quoted = _QUOTED.match(parsed)
    if _BREAKS_OUT.search(parsed[quoted.end() :] if quoted else parsed):
        raise ValueError(f"address {address[:80]!r} holds characters that no address can have")
    return parsed


def quote_address(address: str) -> str:
    """Return the address in angle brackets."""
    return f"<{parse_address(address)}>"


def extract_addresses(header: Any, /) -> list[str]:
    """Return the addresses of a header field."""
    if (addresses := getattr(header, "addresses", None)) is not None:
        return [one.addr_spec if isinstance(one, Address) else parse_address(one) for one in addresses]
    if isinstance(header, Header):
        header = "".join(
            text if isinstance(text, str) else text.decode(charset or "ascii")
            for text, charset in decode_header(header)
        )
    return [address for _, address in getaddresses([str(header)])]


def _prefix(message: Message) -> str:
    dates = message.get_all("Resent-Date", [])
    if len(dates) > 1:
        raise ValueError("message was resent more than once: pass sender= and recipients=")
    return "Resent-" if dates else ""


def extract_sender(message: Message, /) -> str | None:
    """Return the address of Sender or From, or of their Resent- forms; None: there is none."""
    prefix = _prefix(message)
    field = message[f"{prefix}Sender"] or message[f"{prefix}From"]
    addresses = [] if field is None else extract_addresses(field)
    return addresses[0] if addresses else None


def extract_recipients(message: Message, /) -> list[str]:
    """Return the addresses of To, Cc and Bcc, or of their Resent- forms."""
    prefix = _prefix(message)
    fields = [field for name in ("To", "Cc", "Bcc") for field in message.get_all(f"{prefix}{name}", [])]
    return [address for field in fields for address in extract_addresses(field)]


def flatten_message(message: Message, /, *, utf8: bool = False, cte_type: str = "8bit") -> bytes:
    """Return the bytes of a message object, without Bcc. `SMTP.send_message` does not need this: it does better."""
    shown = copy.copy(message)
    del shown["Bcc"], shown["Resent-Bcc"]
    policy: Policy[Any] = (SMTPUTF8 if utf8 else SMTP) if isinstance(message, EmailMessage) else compat32
    octets = BytesIO()
    BytesGenerator(octets, policy=policy.clone(cte_type=cte_type)).flatten(shown)
    return octets.getvalue()


def sender_of(message: Message) -> str | None:
    """Return the sender where smtplite would not find it; None: it does.

    It refuses a message of several authors that names no sender: aiosmtplib takes the first. And it does not look into
    a `Header`, whose encoded words may hold anything.
    """
    prefix = _prefix(message)
    field = message[f"{prefix}Sender"]
    if field is None:
        field = message[f"{prefix}From"]
        is_several = field is not None and "," in str(field)
    else:
        is_several = False
    return extract_sender(message) if is_several or isinstance(field, Header) else None


def recipients_of(message: Message) -> list[str] | None:
    """Return the recipients where smtplite would not find them, in a `Header`; None: it does."""
    prefix = _prefix(message)
    fields = [field for name in ("To", "Cc", "Bcc") for field in message.get_all(f"{prefix}{name}", [])]
    return extract_recipients(message) if any(isinstance(field, Header) for field in fields) else None


# Octets

_FIELD: Final = re.compile(rb"[\x21-\x39\x3b-\x7e]+[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*(?:\n|\Z)")
_IS_BCC: Final = re.compile(rb"(?:resent-)?bcc[ \t]*:", re.IGNORECASE)
_IS_SIGNATURE: Final = re.compile(rb"dkim-signature[ \t]*:", re.IGNORECASE)
_IS_SIGNED: Final = re.compile(rb"^dkim-signature[ \t]*:", re.IGNORECASE | re.MULTILINE)
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
#: A byte order mark, and the line that an mbox puts in front: no part of the message.
_IN_FRONT: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?:From [^\n]*\n)?")


def as_message(octets: bytes) -> bytes:
    """Return bytes as smtplite accepts a message: its header section ended by an empty line, and without Bcc.

    aiosmtplib sends any text. Where a line of the header section is no field, the body begins there for whoever reads
    it: the empty line says so. A Bcc field would tell every recipient of the others; under a signature it stays, and
    smtplite refuses it.
    """
    if octets.count(b"\r") != octets.count(b"\r\n") and _IS_SIGNED.search(octets) is None:
        octets = _BARE_CR.sub(b"\n", octets)  # aiosmtplib ends a line there
    header: list[bytes] = []
    is_signed = False
    in_front = _IN_FRONT.match(octets)
    at = 0 if in_front is None else in_front.end()
    while (field := _FIELD.match(octets, at)) is not None:
        is_signed = is_signed or _IS_SIGNATURE.match(field[0]) is not None
        header.append(field[0])
        at = field.end()
    if not is_signed:
        header = [field for field in header if _IS_BCC.match(field) is None]
    body = octets[at:]
    if body and not body.startswith((b"\n", b"\r\n")):
        header.append(b"\r\n")
    return b"".join(header) + body


# Options of MAIL and RCPT

_XTEXT: Final = re.compile(r"\+([0-9A-F]{2})")


def _plain(xtext: str) -> str:
    return _XTEXT.sub(lambda match: chr(int(match[1], 16)), xtext)


def _split(options: Iterable[str] | None) -> dict[str, str | None]:
    split: dict[str, str | None] = {}
    for option in options or ():
        keyword, equals, value = option.partition("=")
        split[keyword.upper()] = value if equals else None
    return split


def _mail_wishes(options: Iterable[str] | None) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Return the options that smtplite has an argument for, by their names there, and the others."""
    others = _split(options)
    wishes: dict[str, Any] = {}
    if "SMTPUTF8" in others:
        wishes["smtputf8"] = others.pop("SMTPUTF8") is None
    if (body := others.pop("BODY", None)) is not None:
        wishes["body"] = body.upper()
    if (ret := others.pop("RET", None)) is not None:
        wishes["ret"] = ret.upper()
    if (envid := others.pop("ENVID", None)) is not None:
        wishes["envid"] = _plain(envid)
    if "REQUIRETLS" in others:
        wishes["require_tls"] = others.pop("REQUIRETLS") is None
    return wishes, others


def _rcpt_wishes(options: Iterable[str] | None) -> tuple[dict[str, Any], dict[str, str | None]]:
    others = _split(options)
    wishes: dict[str, Any] = {}
    if (notify := others.pop("NOTIFY", None)) is not None:
        wishes["notify"] = tuple(notify.upper().split(","))
    if (orcpt := others.pop("ORCPT", None)) is not None:
        wishes["orcpt"] = _plain(orcpt.partition(";")[2] or orcpt)
    return wishes, others


def envelope_of(
    sender: str, recipients: Sequence[str], mail_options: Iterable[str] | None, rcpt_options: Iterable[str] | None
) -> Envelope:
    """Return the envelope of a message, with what the options ask for.

    SIZE is left out: smtplite sends it. Lines of more than 998 bytes are sent, as aiosmtplib does.

    Raises:
        MessageError: an option cannot be sent.
    """
    wishes, others = _mail_wishes(mail_options)
    others.pop("SIZE", None)
    wanted, further = _rcpt_wishes(rcpt_options)
    return Envelope(
        sender,
        [Recipient(address, **wanted, parameters=further) for address in recipients],
        long_lines="send",
        parameters=others,
        **wishes,
    )


def mail_command(address: str, options: Iterable[str] | None) -> Mail:
    """Return the MAIL of an address and its options."""
    wishes, others = _mail_wishes(options)
    size = others.pop("SIZE", None)
    if size is not None:
        wishes["size"] = int(size)
    return Mail(ReversePath.parse(address), Parameters.mail(**wishes) + Parameters.custom(others))


def rcpt_command(address: str, options: Iterable[str] | None) -> Rcpt:
    """Return the RCPT of an address and its options."""
    wishes, others = _rcpt_wishes(options)
    return Rcpt(ForwardPath.parse(address), Parameters.rcpt(**wishes) + Parameters.custom(others))


# Lines by hand

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_PATH: Final = re.compile(
    r"(?:FROM|TO):[ ]*(?:<(?P<quoted>[^>]*)>|(?P<bare>[^ ]+))(?: +(?P<options>.*))?", re.IGNORECASE
)
_SIMPLE: Final[dict[str, type[Command]]] = {"RSET": Rset, "NOOP": Noop, "QUIT": Quit}
_ABOUT: Final[dict[str, Any]] = {"EHLO": Ehlo, "HELO": Helo, "VRFY": Vrfy, "EXPN": Expn}
_INSTEAD: Final = {"DATA": "SMTP.data", "BDAT": "SMTP.data", "STARTTLS": "SMTP.starttls"}


def command_of(parts: Sequence[bytes], *, in_exchange: bool) -> Command:
    """Return the command that a line says.

    Args:
        parts: of the line, joined by spaces.
        in_exchange: whether the server waits for the response to a challenge.

    Raises:
        ValueError: it is no line of one command, or cannot be sent.
        SMTPNotSupported: it begins something that takes more than a line and its reply.
    """
    line = b" ".join(parts)
    if _CONTROL.search(line):
        raise ValueError("a command holds a control character: it would become several commands")
    if in_exchange:
        return AuthCancel() if line == b"*" else AuthResponse(b64decode(line, validate=True))
    text = line.decode("utf-8")
    verb, _, rest = text.partition(" ")
    verb = verb.upper()
    if verb in _INSTEAD:
        raise SMTPNotSupported(f"{verb} takes more than a command and its reply: call {_INSTEAD[verb]}")
    if verb in ("MAIL", "RCPT"):
        path = _PATH.fullmatch(rest)
        if path is None:
            raise ValueError(f"address {rest[:80]!r} has no place in {verb}: write FROM:<address>, or TO:<address>")
        address = path["bare"] if path["quoted"] is None else path["quoted"]
        options = (path["options"] or "").split()
        return mail_command(address, options) if verb == "MAIL" else rcpt_command(address, options)
    if verb == "AUTH":
        mechanism, space, initial = rest.partition(" ")
        octets = b"" if initial == "=" else b64decode(initial, validate=True)
        return Auth(mechanism.upper(), octets if space else None)
    if verb in _SIMPLE:
        return _SIMPLE[verb]()
    if verb in _ABOUT:
        about: Command = _ABOUT[verb](rest)
        return about
    return Help(rest or None) if verb == "HELP" else Custom(verb, rest or None)


def parse_esmtp_extensions(message: str) -> tuple[dict[str, str], list[str]]:
    """Return the extensions in the text of a reply to EHLO, and the mechanisms of AUTH; all keywords in lower case."""
    extensions: dict[str, str] = {}
    mechanisms: list[str] = []
    for line in message.splitlines()[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        keyword = keyword.lower()
        if keyword.startswith("auth="):  # as it was written before RFC 2554
            parameters = f"{line.strip()[5:]}"
            keyword = "auth"
        if keyword:
            extensions[keyword] = parameters
        if keyword == "auth":
            mechanisms.extend(parameters.lower().split())
    return extensions, mechanisms
