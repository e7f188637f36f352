"""Flattening: from a message object of `email` to its octets on the wire (RFC 5322, RFC 2045).

What comes out is what ``message.as_bytes(policy=email.policy.SMTP)`` gives, octet for octet. What people really send
(headers in ASCII that need no folding, bodies that are already encoded) is written straight from the message's own
strings; whatever is not certain to come out the same goes through the stdlib's generator: a single field, or a part.

Two things differ from the stdlib on purpose. Bcc and Resent-Bcc do not leave. And an address with an internationalized
domain is written with its A-label, for the stdlib writes an encoded word into the middle of the address, which nobody
can answer to.

Nothing here touches the message, or the parts in it: it may be flattened in a worker thread while others send it. Every
single step of the work is a small one, so that a large message in a worker thread leaves the event loop its turns.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from email import _header_value_parser
from email import headerregistry as registry
from email import policy as email_policy
from email._header_value_parser import TokenList
from email.generator import BytesGenerator
from email.headerregistry import Address, BaseHeader, Group
from email.message import Message
from email.policy import Policy
from enum import Enum
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

from smtplite.errors import MessageError, SMTPError
from smtplite.protocol.paths import Domain
from smtplite.protocol.transparency import Normalizer, normalize

__all__ = ["ADDRESS_FIELDS", "LARGE_BYTES", "check_field", "is_large", "unfold", "wire_bytes"]

#: Fields that hold addresses, of those that leave; each may have "Resent-" in front.
ADDRESS_FIELDS: Final = frozenset({"from", "sender", "reply-to", "to", "cc"})
#: A message of at least this size is better flattened in a worker thread: a millisecond of work, ten for the slowest.
LARGE_BYTES: Final = 524_288

# A field of the header section, after folding: every CRLF but the last is followed by white space (RFC 5322 2.2.3).
_FOLDED_FIELD: Final = re.compile(rb"([\x21-\x39\x3b-\x7e]+):[^\r\n]*(?:\r\n[ \t][^\r\n]*)*\r\n")
# A value may come to us folded; then each line break is followed by white space. Anything else is an injection.
_FOLDED_VALUE: Final = re.compile(r"[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*")
_FIELD_NAME: Final = re.compile(r"[\x21-\x39\x3b-\x7e]+")

_DROPPED: Final = frozenset({"bcc", "resent-bcc"})
#: A header line as the stdlib's policies fold it.
_LINE_CHARACTERS: Final = 78
#: Deeper, the generator may judge it.
_MAX_DEPTH: Final = 50
#: What one step may take of a large body: well below a millisecond.
_STEP_CHARACTERS: Final = 131_072
#: Parts that are counted to tell a large message; one with more is large.
_MAX_PARTS: Final = 1000
#: A header that must be folded takes the stdlib so many times as long as a body of the same length takes us, or more.
_HEADER_WEIGHT: Final = 512

_POLICIES: Final[dict[tuple[bool, bool], Policy[Any]]] = {
    (False, False): email_policy.SMTP,
    (True, False): email_policy.SMTPUTF8,
    (False, True): email_policy.SMTP.clone(cte_type="7bit"),
    (True, True): email_policy.SMTPUTF8.clone(cte_type="7bit"),
}
_COMPAT32: Final = email_policy.compat32.clone(linesep="\r\n")


def wire_bytes(
    message: Message[Any, Any],
    *,
    utf8: bool = False,
    seven_bit: bool = False,
    _added: Sequence[tuple[str, str]] = (),
) -> bytes:
    r"""Flatten a message for the wire: as ``message.as_bytes(policy=email.policy.SMTP)``, without Bcc and Resent-Bcc.

    Line endings are CRLF; dots are not doubled. The message is not changed. An internationalized domain in an address
    field becomes its A-label, unless `utf8`.

    Args:
        message: what `email` made or parsed.
        utf8: headers as UTF-8 (RFC 6532), for a transaction with SMTPUTF8.
        seven_bit: 8-bit bodies re-encoded, for a server without 8BITMIME.

    Raises:
        MessageError: a header name or value holds a line break, or the stdlib cannot flatten the message.
    """
    pieces: list[str] = []
    try:
        _write_part(pieces, message, _POLICIES[utf8, seven_bit], _added, is_top=True, depth=0)
        return _joined(pieces)
    except (SMTPError, MemoryError):
        raise
    except Exception as error:  # whatever the stdlib meets: IndexError, RecursionError, email.errors.MessageError
        raise MessageError(f"message cannot be flattened: {error}") from error


def is_large(message: Message[Any, Any]) -> bool:
    """Return True if flattening this message may take so long that it is better done in a worker thread.

    An estimate, from the lengths of its bodies and header values; takes microseconds.
    """
    estimate = count = 0
    waiting: list[object] = [message]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, Message):
            continue
        count += 1
        payload = part._payload  # type: ignore[attr-defined]
        if isinstance(payload, str):
            estimate += len(payload)
        elif isinstance(payload, list):
            waiting += payload
        for _, value in part._headers:  # type: ignore[attr-defined]
            length = len(value if isinstance(value, str) else str(value))
            if length > _LINE_CHARACTERS:
                estimate += _HEADER_WEIGHT * length
        if estimate >= LARGE_BYTES or count > _MAX_PARTS:
            return True
    return False


def _joined(pieces: list[str]) -> bytes:
    if sum(map(len, pieces)) <= _STEP_CHARACTERS:
        return "".join(pieces).encode("ascii", "surrogateescape")
    buffer = BytesIO()
    for piece in pieces:
        buffer.write(piece.encode("ascii", "surrogateescape"))
    return buffer.getvalue()


def _steps(text: str) -> Iterator[str]:
    for begun in range(0, len(text), _STEP_CHARACTERS):
        yield text[begun : begun + _STEP_CHARACTERS]


def _write_text(pieces: list[str], text: str) -> None:
    """Write a body, a preamble or an epilogue, which may have any line endings."""
    if len(text) <= _STEP_CHARACTERS:
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        pieces.append(text.replace("\n", "\r\n"))
        return
    ends_with_cr = False
    for step in _steps(text):
        rest = step[1:] if ends_with_cr and step[0] == "\n" else step  # its CRLF is written
        ends_with_cr = step[-1] == "\r"
        if "\r" in rest:
            rest = rest.replace("\r\n", "\n").replace("\r", "\n")
        pieces.append(rest.replace("\n", "\r\n"))


# Parts


def _write_part(
    pieces: list[str],
    message: Message[Any, Any],
    policy: Policy[Any],
    added: Sequence[tuple[str, str]],
    *,
    is_top: bool,
    depth: int,
) -> None:
    """Write a message, or a part of one, and all that is in it."""
    begun = len(pieces)
    if depth > _MAX_DEPTH or not _write_plain(pieces, message, policy, added, is_top=is_top, depth=depth):
        del pieces[begun:]
        written = _generated(message, policy, added, is_top=is_top)
        view = memoryview(written)
        starts = range(0, len(view), _STEP_CHARACTERS)
        pieces += [str(view[start : start + _STEP_CHARACTERS], "ascii", "surrogateescape") for start in starts]


#: What the stdlib's generator asks of a message. A class that answers differently goes through the generator.
_ASKED: Final = (
    "__contains__",
    "_get_params_preserve",
    "get",
    "get_boundary",
    "get_content_maintype",
    "get_content_subtype",
    "get_content_type",
    "get_default_type",
    "get_param",
    "get_params",
    "get_payload",
    "is_multipart",
    "raw_items",
    "set_boundary",
)


@lru_cache(maxsize=64)
def _is_plain(cls: type) -> bool:
    return (
        issubclass(cls, Message)
        and all(getattr(cls, name) is getattr(Message, name) for name in _ASKED)
        and not hasattr(cls, "_write_headers")
    )


#: Types whose handler in the stdlib's generator is the one that writes a str.
_LEAVES: Final = frozenset({"text", "application", "image", "audio", "video", "font", "model"})

# A Content-Type that can be read in only one way: no comments, quoted pairs, encoded words or RFC 2231 encoding.
_PLAIN_TYPE: Final = re.compile(
    r"([A-Za-z]+)/([A-Za-z0-9.+-]+)"
    r"((?:;[ \t]*[A-Za-z][A-Za-z0-9-]*=(?:\"[0-9A-Za-z+_,./:=@<>-]+\"|[0-9A-Za-z+_.-]+))*)"
)
_PLAIN_PARAMETER: Final = re.compile(r";[ \t]*([A-Za-z][A-Za-z0-9-]*)=\"?([0-9A-Za-z+_,./:=@<>-]+)")


def _write_plain(
    pieces: list[str],
    message: Any,
    policy: Policy[Any],
    added: Sequence[tuple[str, str]],
    *,
    is_top: bool,
    depth: int,
) -> bool:
    """Write a part without the generator; False if it cannot be certain that the result would be the same."""
    if not _is_plain(message.__class__):
        return False
    payload = message._payload
    fields = message._headers
    types = [value for name, value in fields if len(name) == 12 and name.lower() == "content-type"]
    content_type = types[0] if types else message._default_type
    if not isinstance(content_type, str):
        return False
    main = content_type[: content_type.find("/")].lower()

    if main in _LEAVES:
        if payload is None:
            payload = ""
        elif payload.__class__ is not str or (policy.cte_type == "7bit" and not payload.isascii()):
            return False
        _write_header(pieces, fields, policy, added, is_top=is_top)
        if payload.isascii():
            _write_text(pieces, payload)
            return True
        try:  # 8-bit octets stand there as lone surrogates; anything else beyond ASCII the generator may judge
            for step in _steps(payload):
                step.encode("ascii", "surrogateescape")
        except UnicodeEncodeError:
            return False
        _write_text(pieces, payload)
        return True

    match = _PLAIN_TYPE.fullmatch(unfold(content_type))
    if match is None or payload.__class__ is not list:
        return False
    sub = match[2].lower()
    if main == "message":
        if sub == "delivery-status" or not payload or not isinstance(payload[0], Message):
            return False
        _write_header(pieces, fields, policy, added, is_top=is_top)
        _write_part(pieces, payload[0], policy, (), is_top=False, depth=depth + 1)
        return True
    if main != "multipart" or not all(isinstance(part, Message) for part in payload):
        return False
    parameters = [(name.lower(), value) for name, value in _PLAIN_PARAMETER.findall(match[3])]
    boundaries = [value for name, value in parameters if name == "boundary"]
    if len(boundaries) > 1 or (not boundaries and parameters):
        return False
    for text in (message.preamble, message.epilogue):
        if text is not None and not (text.__class__ is str and text.isascii()):
            return False
    # What is signed has to stay as it is, so that the stdlib folds none of its headers.
    inner = policy.clone(max_line_length=0) if sub == "signed" else policy
    bodies: list[list[str]] = []
    for part in payload:
        body: list[str] = []
        _write_part(body, part, inner, (), is_top=False, depth=depth + 1)
        bodies.append(body)
    if boundaries:
        boundary = boundaries[0]
        _write_header(pieces, fields, policy, added, is_top=is_top)
    else:
        if len(types) != 1 or not content_type.isprintable():
            return False
        boundary = _new_boundary(bodies)
        _write_header(pieces, fields, policy, added, is_top=is_top, boundary=boundary)
    if message.preamble is not None:
        _write_text(pieces, message.preamble)
        pieces.append("\r\n")
    pieces.append(f"--{boundary}\r\n")
    for number, body in enumerate(bodies):
        if number:
            pieces.append(f"\r\n--{boundary}\r\n")
        pieces += body
    pieces.append(f"\r\n--{boundary}--\r\n")
    if message.epilogue is not None:
        _write_text(pieces, message.epilogue)
    return True


def _new_boundary(bodies: list[list[str]]) -> str:
    """Return a boundary as the stdlib makes them up; one that stands in no body."""
    while True:
        boundary = f"{'=' * 15}{random.randrange(sys.maxsize):019d}=="  # noqa: S311 (a mark, not a secret)
        if not any(boundary in piece for body in bodies for piece in body):
            return boundary


# Header fields


class _NameKind(Enum):
    SENT = "the name of a field that leaves"
    DROPPED = "... of one that does not, if it is the message's own"
    INVALID = "no name of a field"


@lru_cache(maxsize=512)
def _name_kind(name: str) -> _NameKind:
    if _FIELD_NAME.fullmatch(name) is None:
        return _NameKind.INVALID
    return _NameKind.DROPPED if name.lower() in _DROPPED else _NameKind.SENT


def check_field(name: str, value: object) -> None:
    """Refuse a field that would become more than one, or none.

    Raises:
        MessageError: the name is no field name, or the value holds a line break that is no folding.
    """
    if _name_kind(name) is _NameKind.INVALID:
        raise MessageError(f"header name {name[:80]!r} is not printable ASCII without space and colon")
    text = value if isinstance(value, str) else str(value)
    if ("\n" in text or "\r" in text) and _FOLDED_VALUE.fullmatch(text) is None:
        raise MessageError(f"header {name} holds a line break: {text[:80]!r}")


def unfold(value: str) -> str:
    """Return a value without the line breaks that it was folded with."""
    return value.replace("\r\n", "").replace("\n", "") if "\n" in value else value


#: The classes whose value reads as what they were parsed from does: what fits a line is written as it reads.
_READS_AS_WRITTEN: Final = frozenset(
    (cls, BaseHeader)
    for cls in (
        registry.UnstructuredHeader,
        registry.UniqueUnstructuredHeader,
        registry.MIMEVersionHeader,
        registry.ContentTypeHeader,
        registry.ContentDispositionHeader,
        registry.ContentTransferEncodingHeader,
        registry.MessageIDHeader,
        registry.DateHeader,
        registry.UniqueDateHeader,
    )
)
#: Of these, the value reads nicer than what they were parsed from.
_ADDRESSES: Final = frozenset(
    (cls, BaseHeader)
    for cls in (
        registry.AddressHeader,
        registry.UniqueAddressHeader,
        registry.SingleAddressHeader,
        registry.UniqueSingleAddressHeader,
    )
)
_REGISTRY: Final = registry.__name__
#: The tokens of a parse tree that read as what is in them does, and as nothing else.
_PLAIN_TOKENS: Final = frozenset(
    cls
    for cls in vars(_header_value_parser).values()
    if isinstance(cls, type) and issubclass(cls, TokenList) and cls.__str__ is TokenList.__str__
)
# Each header object has a class of its own, made by the registry: looking anything up in it is slow at first, and the
# first time is all there is.
_attributes_of: Final[Callable[[Any], dict[str, Any]]] = BaseHeader.__dict__["__dict__"].__get__


def _write_header(
    pieces: list[str],
    fields: Sequence[tuple[str, Any]],
    policy: Any,
    added: Sequence[tuple[str, str]],
    *,
    is_top: bool,
    boundary: str | None = None,
) -> None:
    """Write a header section, and the empty line behind it; with a `boundary`, Content-Type gets it."""
    line_characters = policy.max_line_length or sys.maxsize
    if added:
        fields = [*fields, *added]
    for name, value in fields:
        kind = _name_kind(name)
        if is_top and kind is _NameKind.DROPPED:
            continue
        if boundary is not None and name.lower() == "content-type":
            pieces.append(_type_with_boundary(policy, name, value, boundary))
            boundary = None
            continue
        text = value if type(value) is str else _text_of(name, value)
        # One line of printable ASCII cannot be anything but this field.
        if (
            text is not None
            and text.isascii()
            and text.isprintable()
            and len(name) + 2 + len(text) <= line_characters
            and kind is not _NameKind.INVALID
        ):
            pieces.append(f"{name}: {text}\r\n")
        else:
            pieces.append(folded_field(policy, name, value).decode("ascii", "surrogateescape"))
    pieces.append("\r\n")


def _text_of(name: str, value: Any) -> str | None:
    """Return what the stdlib writes of a header object, if that is ASCII and fits a line; None if only it can tell."""
    cls = type(value)
    if cls.__module__ != _REGISTRY:
        return None
    is_address = cls.__bases__ in _ADDRESSES
    if not is_address and cls.__bases__ not in _READS_AS_WRITTEN:
        return None
    attributes = _attributes_of(value)
    tree = attributes["_parse_tree"]
    if not tree or attributes["_name"] != name:
        return None
    if not is_address:
        return str.__str__(value)
    if not str.isascii(value):
        return None
    texts: list[str] = []
    _read(tree, texts)
    return "".join(texts)


def _read(tokens: Any, texts: list[str]) -> None:
    """Add what these tokens of a parse tree were made of."""
    for token in tokens:
        while type(token) in _PLAIN_TOKENS:
            if len(token) != 1:
                _read(token, texts)
                break
            token = token[0]
        else:
            texts.append(str(token))


def _type_with_boundary(policy: Any, name: str, value: str, boundary: str) -> str:
    """Return Content-Type, of which `value` is all but the boundary, as the stdlib writes it with one."""
    check_field(name, value)
    line = f'{name}: {value}; boundary="{boundary}"'
    if len(line) > (policy.max_line_length or sys.maxsize):
        line = f'{name}: {value};\r\n boundary="{boundary}"'
    return line + "\r\n"


def folded_field(policy: Any, name: str, value: Any) -> bytes:
    """Return a field as the policy writes it, after we have looked at it.

    Raises:
        MessageError: it would become more than one field, or another one.
    """
    check_field(name, value)
    folded = _fold(policy, name, value)
    match = _FOLDED_FIELD.fullmatch(folded)
    if match is None:
        raise MessageError(f"header {name} holds a line break: {folded[:80]!r}")
    if len(match[1]) != len(name) or match[1].lower() != name.lower().encode("ascii"):
        raise MessageError(f"header {name} would be written as {folded[:80]!r}")
    return folded


def _fold(policy: Any, name: str, value: Any) -> bytes:
    """Return a field as the policy writes it; and what older code puts into messages, which it may not be able to."""
    if not isinstance(value, str):  # email.header.Header
        older = _COMPAT32.clone(cte_type=policy.cte_type, max_line_length=policy.max_line_length)
        return older.fold_binary(name, value)
    if not policy.utf8 and not value.isascii():
        if name.lower().removeprefix("resent-") in (*ADDRESS_FIELDS, "bcc"):  # a Bcc of a message inside the message
            value = _with_a_labels(policy, name, value)
        if not (value.isascii() or hasattr(value, "fold")):
            try:  # octets that the parser met come as lone surrogates; those the policy can write
                value.encode("ascii", "surrogateescape")
            except UnicodeEncodeError:  # before 3.13 it could not write plain text beyond ASCII
                value = policy.header_factory(name, unfold(value))
    folded: bytes = policy.fold_binary(name, value)
    return folded


def _with_a_labels(policy: Any, name: str, value: Any) -> Any:
    """Return an address field whose internationalized domains are A-labels; as it was, if it has none."""
    header = value
    try:
        if not hasattr(header, "groups"):
            text = unfold(value).encode("utf-8", "surrogateescape").decode("utf-8")
            header = policy.header_factory(name, text)
        groups = header.groups
    except Exception:  # noqa: BLE001 (the stdlib's parser has raised even UnboundLocalError)
        return value  # no list of addresses: as it is
    addresses = [address for group in groups for address in group.addresses]
    if all(address.domain.isascii() for address in addresses):
        return value
    if not all(address.username.isascii() and address.domain.isprintable() for address in addresses):
        return value  # of use only with SMTPUTF8, or not at all, whatever is done here
    relabelled = [
        Group(
            group.display_name,
            [Address(address.display_name, address.username, _a_label(name, address)) for address in group.addresses],
        )
        for group in groups
    ]
    wanted = [address for group in relabelled for address in group.addresses]
    header = policy.header_factory(name, relabelled)
    # Read back as others will: what stands in a display name must not have become an address.
    again = policy.header_factory(name, unfold(header.fold(policy=policy)).partition(":")[2].strip()).addresses
    if [address.addr_spec for address in again] != [address.addr_spec for address in wanted]:
        raise MessageError(f"header {name} cannot be written with A-labels: {str(value)[:80]!r}")
    return header


def _a_label(name: str, address: Address) -> str:
    if address.domain.isascii():
        return address.domain
    try:
        return Domain.of_mailbox(address.domain).wire.decode("ascii")
    except MessageError as error:
        raise MessageError(f"header {name}: {error}") from error


# The stdlib's generator


class _Flattener(BytesGenerator):
    """The stdlib's generator, with our own eye on every header field that it writes.

    On several Pythons it writes a line break from inside an encoded word as it stands: a header injection. The check
    stands where the octets are, so that it holds for every part of the message and whatever the stdlib does.
    """

    is_top = False  # parts are flattened by clones of us, which are not
    added: Sequence[tuple[str, str]] = ()  # fields for the header section of the message itself

    def flatten(self, msg: Message[Any, Any], unixfrom: bool = False, linesep: str | None = None) -> None:
        # It sets `msg.policy`, and makes up a boundary: on an object of our own, that shares all but these.
        super().flatten(copy(msg), unixfrom, linesep)

    def _write(self, msg: Message[Any, Any]) -> None:
        # A str is written as it stands, without a boundary; parts may also be None, for none.
        if not isinstance(msg._payload, str) and msg.get_content_maintype() == "multipart":  # type: ignore[attr-defined]
            boundary = msg.get_boundary()
            if boundary and (
                "\r" in boundary or "\n" in boundary
            ):  # RFC 2231 can encode them; they would stand in the body
                raise MessageError(f"boundary holds a line break: {boundary[:80]!r}")
            if not boundary:  # it reads the field and writes another one, which hides what was wrong with it
                for name, value in msg.raw_items():
                    check_field(name, value)
        super()._write(msg)  # type: ignore[misc]

    def _write_headers(self, msg: Message[Any, Any]) -> None:
        fields = list(msg.raw_items())
        if self.is_top:
            fields = [(name, value) for name, value in fields if name.lower() not in _DROPPED]
            fields += self.added
        write = self._fp.write  # type: ignore[attr-defined]
        for name, value in fields:
            write(folded_field(self.policy, name, value))
        write(b"\r\n")

    def _write_lines(self, lines: str) -> None:
        # As its own, in steps, and faster.
        normalizer = Normalizer()
        for step in _steps(lines):
            self._fp.write(normalizer.encode(step.encode("ascii", "surrogateescape")))  # type: ignore[attr-defined]


def _generated(
    message: Message[Any, Any], policy: Policy[Any], added: Sequence[tuple[str, str]], *, is_top: bool
) -> bytes:
    buffer = BytesIO()
    flattener = _Flattener(buffer, mangle_from_=False, policy=policy)
    flattener.is_top = is_top
    flattener.added = added
    flattener.flatten(message)
    # A payload that is a str where the stdlib expects parts is written with the line endings it has.
    return normalize(buffer.getvalue())
