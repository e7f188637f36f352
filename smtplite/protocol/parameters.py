"""ESMTP parameters of MAIL and RCPT: validated once, into their wire form (RFC 5321 4.1.2, rule R18).

`Parameters.mail` and `Parameters.rcpt` know the parameters that a client sets by itself; `Parameters.custom` accepts
the others, by keyword, and refuses what would change the meaning or the number of replies.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

import attrs

from smtplite.errors import ExtensionRequired, MessageError
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.grammar import KEYWORD, VALUE

__all__ = [
    "KNOWN_PARAMETERS",
    "MAX_ENVID_CHARACTERS",
    "NO_PARAMETERS",
    "KnownParameter",
    "Parameters",
    "extension_required",
    "negotiate",
    "require_offered",
    "xtext",
]

MAX_ENVID_CHARACTERS: Final = 100  # RFC 3461 4.4
_MAX_ORCPT_BYTES: Final = 500  # RFC 3461 4.2, the encoded form


@attrs.frozen
class KnownParameter:
    """A parameter of MAIL or RCPT, and who sets it."""

    #: As it stands in the command.
    keyword: str
    #: The EHLO keyword that the server must offer for it.
    extension: str = attrs.field(kw_only=True)
    #: "MAIL", "RCPT", or "MAIL, RCPT".
    commands: str = attrs.field(kw_only=True)
    #: "the client", as a message needs it; "parameters"; "never"; or the argument of Envelope or Recipient.
    set_by: str = attrs.field(kw_only=True)
    #: Where it is defined.
    rfc: str = attrs.field(kw_only=True)
    #: What it asks for.
    meaning: str = attrs.field(kw_only=True)


def _known(keyword: str, extension: str, commands: str, set_by: str, rfc: str, meaning: str) -> KnownParameter:
    return KnownParameter(keyword, extension=extension, commands=commands, set_by=set_by, rfc=rfc, meaning=meaning)


#: The parameters that are met, by their extension. Others may be sent by `parameters`, too, where a server offers an
#: extension of their own name. The documentation's table is made from this one.
KNOWN_PARAMETERS: Final = (
    _known("SIZE", "SIZE", "MAIL", "the client", "RFC 1870", "the content's size in bytes"),
    _known("BODY", "8BITMIME", "MAIL", "Envelope(body=)", "RFC 6152", "7BIT or 8BITMIME: the kind of content"),
    _known("BODY", "BINARYMIME", "MAIL", "Envelope(body=)", "RFC 3030", "BINARYMIME: the content may have any bytes"),
    _known("SMTPUTF8", "SMTPUTF8", "MAIL", "Envelope(smtputf8=)", "RFC 6531", "addresses or headers are UTF-8"),
    _known("RET", "DSN", "MAIL", "Envelope(ret=)", "RFC 3461", "FULL or HDRS: what a bounce returns"),
    _known("ENVID", "DSN", "MAIL", "Envelope(envid=)", "RFC 3461", "an identifier that bounces repeat"),
    _known("NOTIFY", "DSN", "RCPT", "Recipient(notify=)", "RFC 3461", "when to notify the sender"),
    _known("ORCPT", "DSN", "RCPT", "Recipient(orcpt=)", "RFC 3461, RFC 6533", "the original recipient"),
    _known("REQUIRETLS", "REQUIRETLS", "MAIL", "Envelope(require_tls=)", "RFC 8689", "relay only inside verified TLS"),
    _known("HOLDFOR", "FUTURERELEASE", "MAIL", "parameters", "RFC 4865", "seconds to hold the message back"),
    _known("HOLDUNTIL", "FUTURERELEASE", "MAIL", "parameters", "RFC 4865", "when to release the message"),
    _known("BY", "DELIVERBY", "MAIL", "parameters", "RFC 2852", "deliver within these seconds, and what to do if not"),
    _known("MT-PRIORITY", "MT-PRIORITY", "MAIL", "parameters", "RFC 6710", "-9 to 9: how urgent the message is"),
    _known("MTRK", "MTRK", "MAIL", "parameters", "RFC 3885", "lets the sender track the message"),
    _known("SUBMITTER", "SUBMITTER", "MAIL", "parameters", "RFC 4405", "who is responsible for the submission"),
    _known("CONPERM", "CONPERM", "MAIL", "parameters", "RFC 4141", "the content may be converted"),
    _known("CONNEG", "CONNEG", "RCPT", "parameters", "RFC 4141", "ask what kinds of content the recipient can read"),
    _known("RRVS", "RRVS", "RCPT", "parameters", "RFC 7293", "only if the mailbox has had the same owner since then"),
    _known("XVERP", "XVERP", "MAIL", "parameters", "Postfix", "a separate sender address for each recipient"),
    _known("AUTH", "AUTH", "MAIL", "never", "RFC 4954", "says who submitted the message: for trusted relays"),
    _known("PRDR", "PRDR", "MAIL", "never", "Exim", "one reply for each recipient: changes the number of replies"),
)

#: Set by the client itself, from typed arguments, or never (AUTH vouches for another's identity; PRDR changes the
#: number of replies).
RESERVED: Final = frozenset(known.keyword for known in KNOWN_PARAMETERS if known.set_by != "parameters")
#: Parameters whose EHLO keyword has another name (RFC 2852 4, RFC 4865 4).
_OFFERED_AS: Final = {known.keyword: known.extension for known in KNOWN_PARAMETERS if known.set_by == "parameters"}

_NOTIFY: Final = ("NEVER", "SUCCESS", "FAILURE", "DELAY")

# Beside "+" and "=", which must be encoded: "<" and ">", which mean something else to a lax server (R18).
_NOT_XTEXT: Final = re.compile(r"[^\x21-\x2a\x2c-\x3b\x3f-\x7e]")


def xtext(text: str) -> str:
    """Encode printable ASCII as xtext: ``+``, ``=``, ``<``, ``>`` and space as ``+HH`` (RFC 3461 4).

    Raises:
        MessageError: the text holds a control octet or a character beyond ASCII.
    """
    if not text.isascii() or not text.isprintable():
        raise MessageError(f"{text[:80]!r} cannot be sent as xtext: printable ASCII only")
    return _NOT_XTEXT.sub(lambda match: f"+{ord(match.group()):02X}", text)


def _utf8_address(address: str, *, ascii_only: bool) -> str:
    """Encode an address for ``ORCPT=utf-8;``: utf-8-addr-xtext if `ascii_only`, else -unitext (RFC 6533 3)."""
    if any(not character.isprintable() or character in " <>" for character in address):
        raise MessageError(f"orcpt {address[:80]!r} holds a space, < or >, or a character that cannot be seen")
    return "".join(
        f"\\x{{{ord(character):X}}}" if character in "+=\\" or (ascii_only and not character.isascii()) else character
        for character in address
    )


@attrs.frozen(eq=False)
class Parameters:
    """The parameters of one MAIL or RCPT command."""

    #: Their bytes, each with the space before it; b"" if there are none.
    wire: bytes = b""
    #: The EHLO keywords that the server must offer for them, without repetition.
    keywords: tuple[str, ...] = ()

    def __add__(self, other: Parameters) -> Parameters:
        if not other.wire:
            return self
        return Parameters(self.wire + other.wire, tuple(dict.fromkeys(self.keywords + other.keywords)))

    @classmethod
    def mail(
        cls,
        *,
        size: int | None = None,
        body: str | None = None,
        smtputf8: bool = False,
        ret: str | None = None,
        envid: str | None = None,
        require_tls: bool = False,
    ) -> Parameters:
        """Return the parameters of a MAIL command.

        Args:
            size: of the content in bytes, line endings CRLF, before dot-stuffing (RFC 1870 6).
            body: "7BIT", "8BITMIME" (RFC 6152) or "BINARYMIME" (RFC 3030).
            smtputf8: the transaction needs SMTPUTF8 (RFC 6531).
            ret: "FULL" or "HDRS" (RFC 3461 4.3).
            envid: the envelope identifier, plain; at most 100 characters (RFC 3461 4.4).
            require_tls: RFC 8689.

        Raises:
            MessageError: a value is none of these.
        """
        wire = b""
        keywords: list[str] = []
        if size is not None:
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise MessageError(f"size must be a number of bytes, not {size!r}")
            wire += b" SIZE=%d" % size
            keywords.append("SIZE")
        if body is not None:
            if body not in ("7BIT", "8BITMIME", "BINARYMIME"):
                raise MessageError(f"body must be '7BIT', '8BITMIME' or 'BINARYMIME', not {body!r}")
            wire += b" BODY=" + body.encode("ascii")
            keywords.append("BINARYMIME" if body == "BINARYMIME" else "8BITMIME")
        if smtputf8:
            wire += b" SMTPUTF8"
            keywords.append("SMTPUTF8")
        if ret is not None:
            if ret not in ("FULL", "HDRS"):
                raise MessageError(f"ret must be 'FULL' or 'HDRS', not {ret!r}")
            wire += b" RET=" + ret.encode("ascii")
            keywords.append("DSN")
        if envid is not None:
            if not isinstance(envid, str) or not 0 < len(envid) <= MAX_ENVID_CHARACTERS:
                raise MessageError(
                    f"envid must be a str of 1 to {MAX_ENVID_CHARACTERS} characters, not {str(envid)[:120]!r}"
                )
            wire += b" ENVID=" + xtext(envid).encode("ascii")
            keywords.append("DSN")
        if require_tls:
            wire += b" REQUIRETLS"
            keywords.append("REQUIRETLS")
        return cls(wire, tuple(dict.fromkeys(keywords)))

    @classmethod
    def rcpt(
        cls, *, notify: str | Collection[str] | None = None, orcpt: str | None = None, smtputf8: bool = False
    ) -> Parameters:
        """Return the parameters of a RCPT command.

        Args:
            notify: "NEVER", or some of "SUCCESS", "FAILURE", "DELAY" (RFC 3461 4.1).
            orcpt: the original recipient, an address without its type (RFC 3461 4.2).
            smtputf8: whether the transaction uses SMTPUTF8: decides the form of an ``orcpt`` beyond ASCII (RFC 6533 3).

        Raises:
            MessageError: a value is none of these.
        """
        wire = b""
        if notify is not None:
            wanted = [*notify] if isinstance(notify, Collection) and not isinstance(notify, str) else [notify]
            # In one order, whatever the caller's: a set has none, and two orders mean the same.
            words = [word for word in _NOTIFY if word in wanted]
            if not words or (words[0] == "NEVER" and len(words) > 1) or any(word not in words for word in wanted):
                raise MessageError(f"notify must be 'NEVER' or some of 'SUCCESS', 'FAILURE', 'DELAY', not {notify!r}")
            wire += b" NOTIFY=" + ",".join(words).encode("ascii")
        if orcpt is not None:
            if not isinstance(orcpt, str) or not orcpt:
                raise MessageError(f"orcpt must be an address, not {orcpt!r}")
            if orcpt.isascii():
                encoded = ("rfc822;" + xtext(orcpt)).encode("ascii")
            else:
                encoded = ("utf-8;" + _utf8_address(orcpt, ascii_only=not smtputf8)).encode("utf-8")
            if len(encoded) > _MAX_ORCPT_BYTES:
                raise MessageError(f"orcpt {orcpt[:80]!r} has more than {_MAX_ORCPT_BYTES} bytes when encoded")
            wire += b" ORCPT=" + encoded
        return cls(wire, ("DSN",) if wire else ())

    @classmethod
    def custom(cls, parameters: Mapping[str, str | None]) -> Parameters:
        """Return any other parameters: keyword -> value, or None for a keyword without one.

        Raises:
            MessageError: a keyword or value breaks the grammar, or the keyword is one that the client sets by itself
                or never sends: BODY, SIZE, SMTPUTF8, AUTH, PRDR, RET, ENVID, NOTIFY, ORCPT, REQUIRETLS.
        """
        wire = b""
        keywords: list[str] = []
        for keyword, value in parameters.items():
            if not isinstance(keyword, str) or KEYWORD.fullmatch(keyword) is None:
                raise MessageError(f"parameter keyword {keyword!r} is not letters, digits and hyphens")
            name = keyword.upper()
            if name in RESERVED:
                raise MessageError(f"parameter {name} is not for `parameters`: it is set by a typed argument, or never")
            wire += b" " + keyword.encode("ascii")
            if value is not None:
                if not isinstance(value, str) or VALUE.fullmatch(value) is None:
                    raise MessageError(f"value {value!r} of {name} is not printable ASCII without space, =, < and >")
                wire += b"=" + value.encode("ascii")
            keywords.append(_OFFERED_AS.get(name, name))
        if len({keyword.upper() for keyword in parameters}) != len(parameters):
            raise MessageError(f"a parameter is given twice: {', '.join(parameters)}")
        return cls(wire, tuple(dict.fromkeys(keywords)))


NO_PARAMETERS: Final = Parameters()
_SIZE: Final = ("SIZE",)


def negotiate(
    extensions: Extensions,
    *,
    size: int | None,
    is_size_exact: bool = True,
    is_eight_bit: bool,
    needs_smtputf8: str | None = None,
    is_tls: bool = False,
    body: str | None = None,
    ret: str | None = None,
    envid: str | None = None,
    drop_dsn: bool = False,
    require_tls: bool = False,
    may_chunk: bool = False,
    custom: Parameters = NO_PARAMETERS,
) -> Parameters:
    """Return the parameters of MAIL for this message at this server: each only where it is needed and offered.

    Args:
        extensions: what the server offers.
        size: the content's octets on the wire, before dot-stuffing; None if it is not known.
        is_size_exact: False: it may be less, and is not said.
        is_eight_bit: whether the content holds an octet above 127.
        needs_smtputf8: which address or header needs SMTPUTF8, for the error; None: none does.
        is_tls: whether the session is inside TLS, and the server's certificate was verified.
        body: the caller's own BODY; None: 8BITMIME when it is needed.
        ret: RFC 3461 4.3.
        envid: RFC 3461 4.4.
        drop_dsn: leave RET and ENVID out where DSN is not offered.
        require_tls: RFC 8689.
        may_chunk: whether the content may go with BDAT here, as BINARYMIME needs it (RFC 3030 3).
        custom: what else the caller wants.

    Raises:
        ExtensionRequired: the message needs something that the server does not offer; nothing was sent.
        MessageError: the content is not what `body` says.
    """
    if size is not None:
        _check_size(extensions, size)
    if needs_smtputf8 is not None and not extensions.smtputf8:
        raise extension_required("SMTPUTF8", f"{needs_smtputf8} needs SMTPUTF8, which the server does not offer")
    if body is None and is_eight_bit:
        body = "8BITMIME"
    if body == "8BITMIME" and not extensions.eight_bit_mime:
        reason = "holds 8-bit data" if is_eight_bit else "is to be sent as 8BITMIME"
        raise extension_required("8BITMIME", f"the message {reason}, and the server does not offer 8BITMIME")
    if body == "BINARYMIME":
        if not extensions.binarymime:
            keyword = "CHUNKING" if "BINARYMIME" in extensions else "BINARYMIME"
            raise extension_required(keyword, f"the message is BINARYMIME, and the server does not offer {keyword}")
        if not may_chunk:
            raise extension_required("CHUNKING", "the message is BINARYMIME, which needs CHUNKING: pass chunking=True")
    if body == "7BIT" and is_eight_bit:
        raise MessageError("the message holds 8-bit data, and body='7BIT' says that it holds none")
    if body == "7BIT" and not extensions.eight_bit_mime:
        body = None  # it is what every server without the extension takes it for
    if require_tls and not (is_tls and extensions.requiretls):
        why = (
            "the server does not offer it"
            if is_tls
            else (
                "this connection was not verified, certificate and name: use TLS, with a tls_context= that checks both"
            )
        )
        raise extension_required("REQUIRETLS", f"the message needs REQUIRETLS, and {why}")
    if drop_dsn and not extensions.dsn:
        ret = envid = None
    parameters = Parameters.mail(
        size=size if is_size_exact and "SIZE" in extensions else None,
        body=body,
        smtputf8=needs_smtputf8 is not None,
        ret=ret,
        envid=envid,
        require_tls=require_tls,
    )
    parameters += custom
    require_offered(extensions, parameters)
    return parameters


def negotiate_size(extensions: Extensions, size: int) -> Parameters:
    """Return what `negotiate` does for a message of which nothing but its exact size is to be said.

    Raises:
        ExtensionRequired: the server does not take so much; nothing was sent.
    """
    _check_size(extensions, size)
    return _size_alone(size) if extensions.announces_size else NO_PARAMETERS


@lru_cache(maxsize=1024)  # who sends in bulk sends what is alike
def _size_alone(size: int) -> Parameters:
    return Parameters(b" SIZE=%d" % size, _SIZE)


def _check_size(extensions: Extensions, size: int) -> None:
    offered = extensions.size
    if offered is not None and size > offered:
        raise extension_required("SIZE", f"the message has {size} bytes, and the server accepts at most {offered}")


def require_offered(extensions: Extensions, parameters: Parameters) -> None:
    """Check that the server offers every extension that these parameters need.

    Raises:
        ExtensionRequired: it does not; nothing was sent.
    """
    for keyword in parameters.keywords:
        if keyword not in extensions:
            raise extension_required(keyword, f"the envelope needs {keyword}, which the server does not offer")


def extension_required(keyword: str, message: str) -> ExtensionRequired:
    """Return the error that says which extension is missing."""
    error = ExtensionRequired(message)
    error.keyword = keyword
    return error
