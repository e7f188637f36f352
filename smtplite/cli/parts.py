"""The parts of a message, whoever wrote it: header fields, text, HTML, and attachments with their bytes.

Everything has a limit: what a message repeats a million times is read only as often as a person could use it.
"""

from __future__ import annotations

import codecs
import email
import email.errors
import email.message
import email.policy
import re
import unicodedata
from collections.abc import Iterator
from email.header import decode_header
from typing import Final

import attrs

__all__ = ["Attachment", "Reading", "fields_of", "file_name", "header_text", "read", "text_of_markup", "visible"]

#: Of the header section, and of one decoded field.
MAX_HEADER_BYTES: Final = 256 * 1024
MAX_FIELDS: Final = 1000
MAX_FIELD_CHARS: Final = 8192
#: Parts of a message that are read; the others are in its source.
MAX_PARTS: Final = 1000
MAX_NAME_CHARS: Final = 100

#: Of a field with parameters: the stdlib's parser takes quadratic time for these.
MAX_PARAMETER_BYTES: Final = 4096

_PARAMETERS: Final = re.compile(rb"^content-[a-z-]{1,30}[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*", re.IGNORECASE | re.MULTILINE)
_HEADER_END: Final = re.compile(rb"\r?\n\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n|\r")
_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:[ \t]*")
#: Codecs of Python that are not charsets of mail: some take quadratic time, some warn.
_NO_CHARSETS: Final = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"}
#: Controls, and what changes the direction of the text around it: a name such as "gpj.exe" must not look like another.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_ASCII_UNSAFE: Final = re.compile(r'[<>:"|?*%]')
#: What Windows treats as a device, whatever its extension.
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class Attachment:
    """A part that is neither the text nor the HTML of a message.

    Attributes:
        name: safe as the name of a file, whatever the message calls it.
        content_type: what the message says, such as "image/png".
        content_id: the name that the HTML may use for it, without angle brackets; empty: it has none.
        data: decoded.
    """

    name: str
    content_type: str
    content_id: str
    data: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Reading:
    """What a message holds.

    Attributes:
        headers: name and decoded value of each field, in their order.
        text: the text for a person; None: there is none.
        markup: the HTML; None: there is none.
        attachments: the other parts.
        problems: what could not be read, in words.
    """

    headers: tuple[tuple[str, str], ...] = ()
    text: str | None = None
    markup: str | None = None
    attachments: tuple[Attachment, ...] = ()
    problems: tuple[str, ...] = ()


# The header section


def _section(content: bytes) -> bytes:
    start = content[:MAX_HEADER_BYTES]
    if start.startswith((b"\r\n", b"\n")):
        return b""
    match = _HEADER_END.search(start)
    return start if match is None else start[: match.start()]


def fields_of(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield name and decoded value of each header field.

    Args:
        content: of a message, or its beginning.
    """
    name, parts = "", [b""]
    count = 0
    for line in _LINE_END.split(_section(content)):
        if line[:1] in {b" ", b"\t"}:
            parts.append(line.strip())
            continue
        if name:
            yield name, header_text(b" ".join(parts))
        match = _FIELD.match(line)
        name, parts = ("", []) if match is None else (match[1].decode("ascii"), [line[match.end() :].rstrip()])
        count += 1
        if count > MAX_FIELDS:
            return
    if name:
        yield name, header_text(b" ".join(parts))


def header_text(value: bytes) -> str:
    """Return a field's value with its encoded words decoded (RFC 2047), on one line, without what could not be seen."""
    cut = value[:MAX_FIELD_CHARS]
    try:
        text = cut.decode("utf-8")
    except UnicodeDecodeError:
        text = cut.decode("utf-8", "replace") if len(cut) < len(value) else cut.decode("latin-1")
    if "=?" in text:
        text = _decoded_words(text)
    return visible(text)


def _decoded_words(text: str) -> str:
    try:
        parts = decode_header(text)
    except (email.errors.MessageError, ValueError):  # not really base64
        return text
    return "".join(part if isinstance(part, str) else _decoded(part, charset or "utf-8") for part, charset in parts)


def visible(text: str) -> str:
    """Return a text on one line, without controls and without marks that change the direction of what follows."""
    if text.isascii() and text.isprintable():
        return text
    spaced = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    return "".join(each for each in spaced if unicodedata.category(each) not in _UNSEEN)


# The body


def read(content: bytes) -> Reading:
    """Read a whole message. It never raises for what a message holds; it may take a second for a message of 100 MB."""
    headers = tuple(fields_of(content))
    problems: list[str] = []
    texts: list[str] = []
    markups: list[str] = []
    attachments: list[Attachment] = []
    try:
        clipped = _PARAMETERS.sub(lambda match: match[0][:MAX_PARAMETER_BYTES], content)
        message = email.message_from_bytes(clipped, policy=email.policy.compat32)
        for number, part in enumerate(_leaves(message)):
            if number == MAX_PARTS:
                problems.append(f"it has more than {MAX_PARTS:,} parts; the others are in its source")
                break
            kind = part.get_content_type()
            name = _name_of(part)
            is_body = part.get_content_disposition() != "attachment" and not name
            if is_body and kind == "text/plain":
                texts.append(_text(part))
            elif is_body and kind == "text/html" and not markups:
                markups.append(_text(part))
            else:
                attachments.append(_attachment(part, kind, name, len(attachments) + 1))
    except Exception as error:  # noqa: BLE001 (whatever the stdlib's parser meets in what anybody may have written)
        problems.append(f"its MIME structure cannot be read ({type(error).__name__}): see its source")
        if not texts and not markups:
            body = _HEADER_END.split(content, maxsplit=1)
            texts.append(body[-1].decode("utf-8", "replace"))
    return Reading(
        headers=headers,
        text="\n".join(texts) if texts else None,
        markup=markups[0] if markups else None,
        attachments=tuple(attachments),
        problems=tuple(problems),
    )


def _leaves(message: email.message.Message) -> Iterator[email.message.Message]:
    """Yield the parts that hold something, a message within a message as one; without recursion."""
    pending = [message]
    while pending:
        part = pending.pop()
        inner = part.get_payload()
        if isinstance(inner, list) and part.get_content_maintype() != "message":
            pending += reversed([each for each in inner if isinstance(each, email.message.Message)])
        else:
            yield part


def _data(part: email.message.Message) -> bytes:
    inner = part.get_payload()
    if isinstance(inner, list):  # message/rfc822 and the like
        return b"\r\n".join(each.as_bytes() for each in inner if isinstance(each, email.message.Message))
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def _text(part: email.message.Message) -> str:
    charset = part.get_param("charset", "utf-8")
    return _decoded(_data(part), charset if isinstance(charset, str) else charset[2]).replace("\r\n", "\n")


def _decoded(data: bytes, charset: str) -> str:
    try:
        codec = codecs.lookup(charset).name
        if codec not in _NO_CHARSETS:
            # ASCII is what many programs say when they mean UTF-8.
            return data.decode("utf-8" if codec == "ascii" else codec, "replace")
    except (LookupError, ValueError):  # unknown; or no codec of text
        pass
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _attachment(part: email.message.Message, kind: str, name: str, number: int) -> Attachment:
    content_id = part.get("Content-ID")
    return Attachment(
        name=file_name(name) or f"part-{number}{_EXTENSIONS.get(kind, '')}",
        content_type=visible(kind)[:MAX_NAME_CHARS],
        content_id="" if content_id is None else str(content_id).strip().strip("<>")[:MAX_FIELD_CHARS],
        data=_data(part),
    )


#: For a part without a name.
_EXTENSIONS: Final = {
    "message/rfc822": ".eml",
    "text/plain": ".txt",
    "text/html": ".html",
    "text/calendar": ".ics",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "application/pdf": ".pdf",
}


def _name_of(part: email.message.Message) -> str:
    name = part.get_filename()
    return "" if name is None else header_text(name.encode("utf-8", "surrogateescape"))


def file_name(name: str) -> str:
    """Return a name that is only a name: no folder, no device, nothing invisible; empty if nothing is left of it."""
    last = re.split(r"[/\\]", visible(name))[-1]
    plain = _ASCII_UNSAFE.sub("_", last).strip(" .")
    if len(plain) > MAX_NAME_CHARS:
        stem, dot, extension = plain.rpartition(".")
        plain = (
            f"{stem[: MAX_NAME_CHARS - 10]}{dot}{extension}" if dot and len(extension) < 10 else plain[:MAX_NAME_CHARS]
        )
    return f"_{plain}" if _DEVICE.match(plain) else plain


# HTML as text


def text_of_markup(markup: str) -> str:
    """Return the words of an HTML text, for a search; not for display. It takes linear time, whatever it is given."""
    for name in ("style", "script", "title"):
        markup = _without(markup, name)
    return re.sub(r"\s+", " ", re.sub(r"<[^<>]*>", " ", markup))


def _without(markup: str, name: str) -> str:
    opening, closing = re.compile(rf"<{name}\b", re.IGNORECASE), re.compile(rf"</{name}\b", re.IGNORECASE)
    kept: list[str] = []
    position = 0
    while (start := opening.search(markup, position)) is not None:
        kept.append(markup[position : start.start()])
        end = closing.search(markup, start.end())
        if end is None:
            return "".join(kept)
        position = end.end()
    return "".join([*kept, markup[position:]])
