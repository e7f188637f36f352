"""compose(): text, HTML, attachments and inline pictures become a message object of `email` (RFC 2045, RFC 5322).

Everything is read and checked at once, so a mistake is reported where the message is written, not when it is sent.
"""

from __future__ import annotations

import mimetypes
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from email import message_from_bytes
from email import policy as email_policy
from email.errors import MessageError as EmailError
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, formatdate, make_msgid, parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

import attrs

from smtplite.elsewhere import explained
from smtplite.errors import MessageError
from smtplite.message.flatten import wire_bytes
from smtplite.protocol.paths import ReversePath

__all__ = ["Attachment", "compose"]

#: Of a name, a subject, a file's name or the value of a field: the stdlib's parser takes quadratic time (rule R27).
MAX_FIELD_CHARACTERS: Final = 10_000
#: The longest link in List-Unsubscribe: with its brackets it fits into one line, which may have 998 bytes.
MAX_LINK_BYTES: Final = 900

# RFC 2045 5.1
_TYPE_WORD: Final = r"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+"
_CONTENT_TYPE: Final = re.compile(
    rf'({_TYPE_WORD})/({_TYPE_WORD})((?:[ \t]*;[ \t]*{_TYPE_WORD}=(?:{_TYPE_WORD}|"[^"\\\x00-\x1f]*"))*)'
)
_TYPE_PARAMETER: Final = re.compile(rf'({_TYPE_WORD})=(?:({_TYPE_WORD})|"([^"]*)")')
# RFC 5322 2.2
_FIELD_NAME: Final = re.compile(r"[\x21-\x39\x3b-\x7e]+")
# RFC 5322 3.6.4, without what is obsolete
_ATOMS: Final = r"[!#$%&'*+/0-9=?A-Z^_`a-z{|}~-]+(?:\.[!#$%&'*+/0-9=?A-Z^_`a-z{|}~-]+)*"
_MESSAGE_ID: Final = re.compile(rf"<{_ATOMS}@(?:{_ATOMS}|\[[\x21-\x5a\x5e-\x7e]*\])>")
#: What may follow "cid:" without percent-encoding (RFC 2392), and stand in any attribute of HTML.
_PICTURE_NAME: Final = re.compile(r"[A-Za-z0-9._@+-]{1,200}")
#: A picture that HTML or CSS shows.
_PICTURE_SHOWN: Final = re.compile(r"""(?:["'=(]\s?)cid:([^"'\s>)]+)""", re.IGNORECASE)
#: What `email.utils.formataddr` makes of a name beyond ASCII (RFC 2047).
_ENCODED_WORD: Final = r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?="
_ENCODED_NAME: Final = re.compile(rf"{_ENCODED_WORD}(?:\s+{_ENCODED_WORD})*")
_QUOTED_TEXT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
#: Control characters, line and paragraph separators, and surrogates.
_NOT_IN_A_LINE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: Bytes that cannot travel in a part that is not encoded: NUL, CR without LF, and a line of more than 998.
_NOT_IN_A_MESSAGE: Final = re.compile(rb"\x00|\r(?!\n)|[^\r\n]{999}")

Person: TypeAlias = str | Address | tuple[str, str]
People: TypeAlias = str | Address | Iterable[Person]


def _data(value: object) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    remedy = ""
    if isinstance(value, str):
        remedy = ": encode it, as with text.encode()"
    elif isinstance(value, os.PathLike):
        remedy = ": write path.read_bytes()"
    raise MessageError(f"data of an attachment must be bytes, not {type(value).__name__}{remedy}")


@attrs.frozen
class Attachment:
    """A file in a message: its name, its contents, and what kind of file it is.

    ::

        Attachment("prices.csv", data, "text/csv; charset=iso-8859-1")

    Attributes:
        name: the file's name, as the reader sees it; without folders.
        data: its contents.
        content_type: such as "application/pdf"; None: guessed from the name's ending, by `mimetypes`.

    Raises:
        MessageError: one of them cannot be sent; says which.
    """

    name: str
    data: bytes = attrs.field(converter=_data, repr=lambda data: f"<{len(data)} bytes>")
    content_type: str | None = None

    def __attrs_post_init__(self) -> None:
        _check_file_name(self.name)
        if self.content_type is not None:
            _parsed_type(self.content_type)


AttachmentLike: TypeAlias = os.PathLike[str] | Attachment | tuple[str, bytes]

#: What people write who know other libraries, or `Client.send`.
_HINTS: Final = {
    "sender": "from_= is the From field; the envelope's sender is sender= of send",
    "from_addr": "write from_=",
    "from_email": "write from_=",
    "recipients": "write to=, cc= or bcc=; the envelope's recipients are recipients= of send",
    "to_addrs": "write to=",
    "body": "write text= or html=",
    "content": "write text= or html=",
    "message": "write text= or html=",
    "html_body": "write html=",
    "html_message": "write html=",
    "images": 'write inline={"name": Path(...)}, and <img src="cid:name"> in html=',
    "files": "write attachments=[Path(...)]",
    "date": 'write headers={"Date": ...}',
    "message_id": 'write headers={"Message-ID": ...}',
    "in_reply_to": 'write headers={"In-Reply-To": ...}',
    "references": 'write headers={"References": ...}',
    "template": "render it first, and give the result as text= or html=",
}


@explained(MessageError, "compose", _HINTS)
def compose(
    *,
    from_: Person,
    to: People = (),
    cc: People = (),
    bcc: People = (),
    reply_to: People = (),
    subject: str | None = None,
    text: str | None = None,
    html: str | None = None,
    attachments: Iterable[AttachmentLike] = (),
    inline: Mapping[str, AttachmentLike] | None = None,
    unsubscribe: str | Iterable[str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> EmailMessage:
    """Make a message from text, HTML, attachments and inline pictures.

    ::

        message = smtplite.compose(
            from_="Ada Lovelace <ada@example.org>",
            to=["Grace Hopper <grace@example.net>"],
            subject="Your invoice",
            text="See the attached invoice.",
            attachments=[Path("invoice.pdf")],
        )
        await client.send(message)

    A person is ``"Name <address>"``, a bare address, a pair ``(name, address)`` or an
    `email.headerregistry.Address`, and always becomes one mailbox, whatever the name holds. Files are read at once,
    which blocks. Date and Message-ID are set. The message is yours: you can add to it what is missing here.

    Args:
        from_: who writes: the From field. The envelope's sender is `sender` of `Client.send`.
        to: one person, or several.
        cc: the same, for copies that everybody sees.
        bcc: the same, for copies that nobody sees: `Client.send` sends to them, but leaves the field out.
        reply_to: who gets the answers, if not `from_`.
        subject: one line of text; None: no Subject field.
        text: the plain text. It is not made from `html`: with `html` alone the message has only HTML.
        html: the HTML. With `text`, the reader's program shows one of the two.
        attachments: each a `Path`, an `Attachment` or a pair ``(name, bytes)``. Never a str: a name from a web form
            could then read any file.
        inline: name -> picture, for ``<img src="cid:name">`` in `html`.
        unsubscribe: an https link that unsubscribes with one click (RFC 8058), or that and a mailto link (RFC 2369).
        headers: further fields: name -> value. Date and Message-ID replace those that would be set.

    Returns:
        The message, ready for `Client.send`.

    Raises:
        MessageError: an argument cannot be sent as it is; names the argument.
    """
    author = _person("from_", from_)
    given = _fields(headers)
    message = EmailMessage()
    message["From"] = author
    for name, argument, value in (
        ("To", "to", to),
        ("Cc", "cc", cc),
        ("Bcc", "bcc", bcc),
        ("Reply-To", "reply_to", reply_to),
    ):
        if people := _people(argument, value):
            message[name] = people
    if subject is not None:
        message["Subject"] = _line("subject", subject)
    message["Date"] = given.pop("date", (None, None))[1] or formatdate(localtime=True)
    message["Message-ID"] = given.pop("message-id", (None, None))[1] or _new_message_id(author)
    for name, value in _unsubscribe_fields(unsubscribe):
        if name.lower() in given:
            raise MessageError(f"headers has {name}, which unsubscribe= makes: leave one of them out")
        message[name] = value
    for name, field_value in given.values():
        message[name] = field_value
    _write_bodies(message, text, html, _pictures(inline, html), _attachments(attachments))
    return message


# People


def _person(where: str, value: object) -> Address:
    """Return the one mailbox that a person is; parse or refuse, never guess (rule R19)."""
    if isinstance(value, Address):
        name, address = value.display_name, value.addr_spec
    elif isinstance(value, str):
        name, address = _named(where, value)
    elif isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value):
        name, address = value
    else:
        raise MessageError(
            f"{where} must be 'Name <address>', an address, (name, address) or an email.headerregistry.Address, "
            f"not {_kind(value)}"
        )
    name = _line(f"{where}: the name", name).strip()
    try:
        path = ReversePath.parse(address)
    except MessageError as error:
        raise MessageError(f"{where}: {error}") from None
    local, at, domain = address.rpartition("@")
    if not path.address or not at:
        raise MessageError(f"{where}: {str(value)[:80]!r} has no address: give a full one, such as user@example.com")
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    mailbox = Address(name, local, domain)
    if mailbox.addr_spec != address:  # needless quotes, or quotes that the standard library would leave out
        raise MessageError(f"{where}: {address[:80]!r} would be written as {mailbox.addr_spec[:80]!r}")
    return mailbox


def _named(where: str, text: str) -> tuple[str, str]:
    """Return the name and the address of "Name <address>", or of an address alone."""
    text = text.strip()
    if not text.endswith(">"):
        if "," in text or ";" in text:
            raise MessageError(f"{where}: {text[:80]!r} is not an address; pass several people as a list, one str each")
        return "", text
    name, bracket, address = text[:-1].rpartition("<")
    name = name.strip()
    if not bracket:
        return "", text
    if quoted := _QUOTED_TEXT.fullmatch(name):
        return re.sub(r"\\(.)", r"\1", quoted[1]), address
    if _ENCODED_NAME.fullmatch(name):
        try:
            return str(make_header(decode_header(name))), address
        except (LookupError, ValueError, EmailError) as error:
            raise MessageError(f"{where}: the name {name[:80]!r} cannot be decoded: {error}") from error
    if "<" in name or ">" in name or ("@" in name and ("," in name or ";" in name)):
        raise MessageError(
            f"{where}: {text[:80]!r} reads as more than one person: pass several as a list, "
            "and a name with such characters as (name, address)"
        )
    return name, address


def _people(argument: str, value: object) -> tuple[Address, ...]:
    if isinstance(value, (str, Address)):
        return (_person(argument, value),)
    if isinstance(value, (bytes, bytearray, memoryview, Mapping)) or not isinstance(value, Iterable):
        raise MessageError(f"{argument} must be a person or several, not {_kind(value)}")
    people = tuple(value)
    if len(people) == 2 and isinstance(value, tuple) and isinstance(people[0], str) and "@" not in people[0]:
        raise MessageError(f"{argument}: put a person given as a pair into a list: {argument}=[(name, address)]")
    return tuple(_person(f"{argument}[{number}]", person) for number, person in enumerate(people))


# Fields


def _fields(headers: object) -> dict[str, tuple[str, Any]]:
    """Return the caller's own fields, checked: name in lower case -> name and value."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise MessageError(f"headers must be a mapping of name to value, not {_kind(headers)}")
    fields: dict[str, tuple[str, Any]] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or _FIELD_NAME.fullmatch(name) is None:
            raise MessageError(f"headers: {str(name)[:80]!r} is not a field name: printable ASCII, no space, no colon")
        lowered = name.lower()
        where = f"headers[{name[:80]!r}]"
        if remedy := _remedy(lowered):
            raise MessageError(f"{where} cannot be given here: {remedy}")
        if lowered in fields:
            raise MessageError(f"{where} is given twice")
        field_value = _field_value(where, lowered, _line(where, value))
        _check_wire_form(where, name, field_value)
        fields[lowered] = name, field_value
    return fields


def _check_wire_form(where: str, name: str, value: str | Address) -> None:
    """Refuse at once what sending would refuse: a field that cannot be written."""
    alone = EmailMessage()
    try:
        alone[name] = value
        wire_bytes(alone, utf8=True)
    except Exception as error:  # the stdlib's parsers have raised nearly everything
        raise MessageError(f"{where} cannot be written: {error}") from error


def _field_value(where: str, name: str, text: str) -> str | Address:
    if name == "sender":
        return _person(where, text)
    if name == "date":
        return _date(where, text)
    if name == "message-id" and _MESSAGE_ID.fullmatch(text) is None:
        raise MessageError(f"{where}: {text[:80]!r} is not of the form <unique@domain>")
    return text


#: Fields that have arguments of their own.
_ARGUMENT_OF: Final = {
    "from": "from_",
    "to": "to",
    "cc": "cc",
    "bcc": "bcc",
    "reply-to": "reply_to",
    "subject": "subject",
}


def _remedy(name: str) -> str | None:
    """Return what to do instead, where a field cannot be given by `headers`."""
    if name in _ARGUMENT_OF:
        return f"write {_ARGUMENT_OF[name]}="
    if name == "mime-version" or name.startswith("content-"):
        return "text, html, attachments and inline decide it"
    if name.startswith("resent-"):
        return "a new message has not been sent before"
    return None


def _line(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{where} must be a str, not {_kind(value)}")
    if len(value) > MAX_FIELD_CHARACTERS:
        raise MessageError(
            f"{where} has {len(value)} characters; at most {MAX_FIELD_CHARACTERS} are allowed: {value[:80]!r}"
        )
    for character in value:
        if unicodedata.category(character) in _NOT_IN_A_LINE:
            raise MessageError(f"{where} holds {character!r}, which is not allowed in a header: {value[:80]!r}")
    return value


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _date(where: str, text: str) -> str:
    try:
        return format_datetime(parsedate_to_datetime(text))
    except (ValueError, IndexError, TypeError) as error:
        raise MessageError(f"{where}: {text[:80]!r} is not a date: pass email.utils.format_datetime(...)") from error


def _new_message_id(author: Address) -> str:
    # The domain is given, or make_msgid would look this host's name up, and block.
    return make_msgid(domain=ReversePath.parse(author.addr_spec).wire[1:-1].rpartition(b"@")[2].decode("ascii"))


def _unsubscribe_fields(links: object) -> tuple[tuple[str, str], ...]:
    if links is None:
        return ()
    if isinstance(links, (bytes, bytearray, Mapping)) or not isinstance(links, Iterable):
        raise MessageError(f"unsubscribe must be an https link, or that and a mailto link, not {_kind(links)}")
    every = [_link(link) for link in ([links] if isinstance(links, str) else links)]
    if [scheme for scheme, _ in every].count("https") != 1:
        raise MessageError(
            "unsubscribe must have one https link, for one click (RFC 8058); "
            'for a mailto link alone use headers={"List-Unsubscribe": ...}'
        )
    return (
        ("List-Unsubscribe", ", ".join(f"<{link}>" for _, link in every)),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
    )


def _link(link: object) -> tuple[str, str]:
    if not isinstance(link, str):
        raise MessageError(f"unsubscribe: a link must be a str, not {_kind(link)}")
    if any(character <= " " or character > "~" or character in '<>"\\^`{|}' for character in link):
        raise MessageError(f"unsubscribe: {link[:80]!r} holds a character that no URL may have: percent-encode it")
    if len(link) > MAX_LINK_BYTES:
        raise MessageError(f"unsubscribe: {link[:80]!r}... has more than {MAX_LINK_BYTES} bytes")
    try:
        parts = urlsplit(link)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if not ((parts.scheme == "https" and host) or (parts.scheme == "mailto" and "@" in unquote(parts.path))):
        raise MessageError(f"unsubscribe: {link[:80]!r} is neither https://... nor mailto:address")
    return parts.scheme, link


# Bodies


@attrs.frozen
class _Part:
    """A file that was read, and its type.

    Attributes:
        parameters: of the type.
        message: for message/rfc822, what was parsed: no encoding is allowed around it (RFC 2046 5.2.1).
    """

    name: str
    data: bytes
    main: str
    sub: str
    parameters: dict[str, str] = attrs.field(factory=dict)
    message: EmailMessage | None = None


def _write_bodies(
    message: EmailMessage,
    text: str | None,
    html: str | None,
    pictures: Mapping[str, _Part],
    attachments: Iterable[_Part],
) -> None:
    """Write the tree that mail programs expect: mixed(alternative(text, related(html, pictures)), attachments).

    A level exists only if it has parts.
    """
    if text is None and html is None and not attachments:
        raise MessageError("the message is empty: pass text=, html= or attachments=")
    if text is not None:
        message.set_content(_body("text", text))
    if html is not None:
        if text is None:
            message.set_content(_body("html", html), subtype="html")
            shown: Any = message
        else:
            message.add_alternative(_body("html", html), subtype="html")
            shown = message.get_payload(1)
        for name, part in pictures.items():
            shown.add_related(
                part.data,
                part.main,
                part.sub,
                cid=f"<{name}>",
                filename=part.name,
                disposition="inline",
                params=part.parameters,
            )
        if pictures:
            shown.set_param("type", "text/html")  # RFC 2387 3.1
    for part in attachments:
        if part.message is not None:
            message.add_attachment(part.message, filename=part.name)
        else:
            message.add_attachment(part.data, part.main, part.sub, filename=part.name, params=part.parameters)


def _body(argument: str, value: object) -> str:
    if not isinstance(value, str):
        remedy = ": decode it" if isinstance(value, (bytes, bytearray)) else ""
        raise MessageError(f"{argument} must be a str, not {_kind(value)}{remedy}")
    if "\0" in value:
        raise MessageError(f"{argument} holds a NUL character, at {value.index(chr(0))}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MessageError(f"{argument} holds a lone surrogate, {value[error.start]!r}, at {error.start}") from None
    return value


def _attachments(attachments: object) -> list[_Part]:
    if isinstance(attachments, (str, bytes, bytearray, Mapping, Attachment, os.PathLike)) or not isinstance(
        attachments, Iterable
    ):
        raise MessageError(
            f"attachments must be a list of Path(...), Attachment or (name, bytes), not {_kind(attachments)}"
        )
    return [_part(f"attachments[{number}]", value) for number, value in enumerate(attachments)]


def _pictures(inline: object, html: str | None) -> dict[str, _Part]:
    if inline is not None and not isinstance(inline, Mapping):
        raise MessageError(f"inline must be a mapping of name to picture, not {_kind(inline)}")
    pictures: dict[str, _Part] = {}
    for name, value in (inline or {}).items():
        if not isinstance(name, str) or _PICTURE_NAME.fullmatch(name) is None:
            raise MessageError(f"inline: the name {str(name)[:80]!r} must consist of letters, digits and ._@+-")
        where = f"inline[{name!r}]"
        pictures[name] = picture = _part(where, value)
        if picture.main != "image":
            raise MessageError(
                f"{where}: {picture.name!r} is {picture.main}/{picture.sub}, and no picture; "
                "if it is one, say so: Attachment(name, data, 'image/png')"
            )
    if pictures and html is None:
        raise MessageError("inline pictures are shown by html=, which is missing")
    if isinstance(html, str):
        for match in _PICTURE_SHOWN.finditer(html):
            if unquote(match[1]) not in pictures:
                raise MessageError(f"html shows {match[1][:80]!r} by cid:, but inline= has no picture of that name")
    return pictures


def _part(where: str, value: object) -> _Part:
    """Return an attachment or a picture, read and with its type."""
    if isinstance(value, str):
        raise MessageError(f"{where} is a str: write Path({value[:80]!r}), so that nobody else's text names a file")
    try:
        if isinstance(value, os.PathLike):
            value = Attachment(Path(value).name, _contents_of(Path(value)))
        elif isinstance(value, tuple) and len(value) == 2:
            value = Attachment(*value)
    except MessageError as error:
        raise MessageError(f"{where}: {error}") from error.__cause__
    if not isinstance(value, Attachment):
        raise MessageError(f"{where} must be a Path, an Attachment or (name, bytes), not {_kind(value)}")
    if value.content_type is None:
        main, sub, parameters = (*_guessed_type(value.name), dict[str, str]())
    else:
        main, sub, parameters = _parsed_type(value.content_type)
    if main == "text" and "charset" not in parameters and _is_utf_8(value.data):
        parameters["charset"] = "utf-8"
    if main != "message":
        return _Part(value.name, value.data, main, sub, parameters)
    inner = _inner_message(value.data)
    if inner is not None:
        return _Part(value.name, value.data, main, sub, parameters, inner)
    if value.content_type is not None:
        raise MessageError(
            f"{where} is not a message that can be sent as message/rfc822: pass 'application/octet-stream'"
        )
    return _Part(value.name, value.data, "application", "octet-stream")


def _contents_of(path: Path) -> bytes:
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path.read_bytes()
    except OSError as error:
        raise MessageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise MessageError(f"{str(path)!r} cannot be read: {error}") from error
    raise MessageError(f"{str(path)!r} is not a regular file")  # a pipe could block for ever, a device never end


def _check_file_name(name: object) -> None:
    _line("name of an attachment", name)
    assert isinstance(name, str)
    if not name.strip() or "/" in name or "\\" in name or name in (".", ".."):
        raise MessageError(f"name of an attachment must be a file's name, without folders, not {name[:80]!r}")


def _guessed_type(name: str) -> tuple[str, str]:
    # Only the name, without anything that could be mistaken for the scheme of a URL
    guessed, encoding = mimetypes.guess_type(name.replace(":", "_"), strict=False)
    if encoding is not None:  # what it is when unpacked is not what it is
        guessed = "application/gzip" if encoding == "gzip" else None
    main, _, sub = (guessed or "application/octet-stream").partition("/")
    return ("application", "octet-stream") if main == "multipart" else (main, sub)


def _parsed_type(content_type: object) -> tuple[str, str, dict[str, str]]:
    match = _CONTENT_TYPE.fullmatch(content_type) if isinstance(content_type, str) else None
    if match is None:
        raise MessageError(f"content_type must be a MIME type such as 'image/png', not {str(content_type)[:80]!r}")
    main, sub = match[1].lower(), match[2].lower()
    if main == "multipart" or (main == "message" and sub != "rfc822"):
        raise MessageError(f"content_type {match[1]}/{match[2]} cannot be attached: pass 'application/octet-stream'")
    parameters = {name.lower(): token or quoted for name, token, quoted in _TYPE_PARAMETER.findall(match[3])}
    return main, sub, parameters


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _inner_message(data: bytes) -> EmailMessage | None:
    """Return a message inside the message; None if these bytes could not be sent as one."""
    if _NOT_IN_A_MESSAGE.search(data) is not None:
        return None
    header = re.split(rb"\r?\n\r?\n", data, maxsplit=1)[0]
    inner = message_from_bytes(data, policy=email_policy.default)
    if not header.isascii() or not inner.keys() or any(part.defects for part in inner.walk()):
        return None
    return inner
